"""The cache: one folder for each server, put there whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .debian import launcher, unpack
from .failures import ServerNotHad, obtain
from .recipes import RECIPES, DebianPackage, Recipe
from .wheels import program_from_wheel

__all__ = ["Provided", "ServerNotHad", "alone", "cached", "home", "provide"]

_MADE_BY = "made-by"  # the recipe, so that a changed one is followed anew


@dataclass(frozen=True)
class Provided:
    """A server that is there to be started."""

    name: str
    version: str
    path: Path


def provide(name: str) -> Provided:
    """The server of that name, from the cache or fetched now.

    Raises:
        ServerNotHad: there is none of that name, or it cannot be had here; the message says why.
    """
    recipe = _recipe(name)
    with alone(name):
        return cached(name) or _fetch(recipe)


def cached(name: str) -> Provided | None:
    """The server, if it was fetched before by the recipe of today. Raises as ``provide``."""
    recipe = _recipe(name)
    place = home() / name
    try:
        told = (place / _MADE_BY).read_text().splitlines()
    except FileNotFoundError:
        return None
    if told[0] != repr(recipe):
        return None
    return Provided(name, told[1], place / recipe.command)


def _recipe(name: str) -> Recipe:
    try:
        return RECIPES[name]
    except KeyError:
        raise ServerNotHad(f"there is no server called {name!r}; there are: {', '.join(RECIPES)}") from None


def home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    home = (Path(base) if base else Path.home() / ".cache") / "sessionlock-servers"
    home.mkdir(parents=True, exist_ok=True)
    return home


@contextmanager
def alone(name: str) -> Iterator[None]:
    with (home() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file, however this process ends
        yield


def _fetch(recipe: Recipe) -> Provided:
    place = home() / recipe.name
    with TemporaryDirectory(dir=home(), prefix=f"{recipe.name}-") as folder:
        new = Path(folder) / recipe.name
        new.mkdir()
        _make(recipe, new)
        version = _checked(recipe, new / recipe.command)
        (new / _MADE_BY).write_text(f"{recipe!r}\n{version}\n")
        if place.exists():
            shutil.rmtree(place)
        new.rename(place)
    return Provided(recipe.name, version, place / recipe.command)


def _make(recipe: Recipe, place: Path) -> None:
    """Put a program called ``recipe.command`` into the folder, which runs wherever the folder is moved."""
    if recipe.libraries is None and not isinstance(recipe.program, DebianPackage):
        program_from_wheel(recipe.program, recipe.command, place)
        return
    root = place / "root"
    root.mkdir()
    if isinstance(recipe.program, DebianPackage):
        unpack(recipe.program, root)
        program = (root / "usr/bin" / f"{recipe.flavour}-check-rdb").rename(root / recipe.command)
    else:
        assert recipe.libraries is not None
        unpack(recipe.libraries, root)
        program = program_from_wheel(recipe.program, recipe.command, root)
    start = place / recipe.command
    start.write_text(launcher(root, program))
    start.chmod(0o755)


def _checked(recipe: Recipe, program: Path) -> str:
    """The version that the program tells, which has to be the recipe's."""
    answer = obtain(f"starting {recipe.command} from {recipe}", [program, "--version"]).strip()
    told = re.match(r"(Redis|Valkey) server v=([\d.]+)", answer)
    if told is None or told[1].lower() != recipe.flavour or not f"{told[2]}.".startswith(f"{recipe.version}."):
        raise ServerNotHad(
            f"{recipe.flavour} {recipe.version} was expected from {recipe}, but it says of itself: {answer[:80]}"
        )
    return told[2]
