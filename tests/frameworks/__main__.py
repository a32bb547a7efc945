"""Each framework's tests on the oldest version that ``setup.cfg`` allows, and on the newest one.

::

    python -m tests.frameworks                  # all, at both ends: a table
    python -m tests.frameworks --only oldest flask quart

That version and what it needs are laid over the packages of the interpreter that runs this, which has the extra
``test`` (Django 6 needs Python 3.12). What is laid over stays in the folder ``--folder`` for the next time.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["FACES", "Face", "floors"]

ROOT = Path(__file__).resolve().parents[2]


class Face(NamedTuple):
    """``package``: as the index knows it. ``tests``: patterns below ``tests/``. ``document``: that is run, too.

    ``with_oldest``: what the package needs in a version of its own time. ``arguments``: for pytest then, where a
    warning or another framework, which cannot be beside so old a one, would spoil what is tried.
    """

    package: str
    tests: tuple[str, ...]
    document: str | None
    with_oldest: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


MULTIPART = "python-multipart==0.0.12"  # in which old versions look for the module multipart
FACES = {
    "django": Face("django", ("integrations/django", "acceptance/test_django_example.py"), "django.md"),
    "flask": Face("flask", ("integrations/flask", "integrations/test_flask_family.py"), "flask.md"),
    "quart": Face("quart", ("integrations/quart",), "quart.md"),
    "starlette": Face(
        "starlette",
        ("integrations/asgi", "views/test_cookies.py"),
        "starlette.md",
        ("fastapi==0.115.2", "anyio==4.6.2", MULTIPART),
        ("-k", "not litestar", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
    ),
    "fastapi": Face("fastapi", ("integrations/test_fastapi*.py",), "fastapi.md", (MULTIPART,)),
    "litestar": Face(
        "litestar", ("integrations/test_litestar*.py",), "litestar.md", (), ("-W", "ignore::DeprecationWarning")
    ),
    "aiohttp": Face("aiohttp", ("integrations/aiohttp",), "aiohttp.md", ("yarl==1.9.4",)),
    "aiohttp-session": Face("aiohttp-session", ("integrations/aiohttp/test_aiohttp_session.py",), None),
}
_REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)")


def floors() -> dict[str, dict[str, str]]:
    """For each extra, what it requires: package and oldest version."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    return {extra: dict(_REQUIREMENT.findall(text)) for extra, text in extras.items()}


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 when something is red."""
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FACES)}; all by default")
    parser.add_argument("--only", choices=("oldest", "newest"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "sessionlock-frameworks"))
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in FACES:
            parser.error(f"{name!r} is none of {', '.join(FACES)}")
    red = False
    for name in options.names or FACES:
        for end in (options.only,) if options.only else ("oldest", "newest"):
            told, passed = _run(FACES[name], end, options.folder / f"{name}-{end}-{sys.version_info[1]}")
            print(f"{name:16} {end:7} {told}", flush=True)
            red = red or not passed
    return int(red)


def _run(face: Face, end: str, folder: Path) -> tuple[str, bool]:
    """What came of it, in a line."""
    more: tuple[str, ...] = ()
    wanted = [face.package, "--upgrade"]
    if end == "oldest":
        more = face.arguments
        wanted = [f"{face.package}=={floors()[face.package][face.package]}", *face.with_oldest]
    if not (folder / "done").exists() or (folder / "done").read_text() != " ".join(wanted):
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--target", str(folder), *wanted], check=True)
        (folder / "done").write_text(" ".join(wanted))
    paths = os.pathsep.join(map(str, (folder, ROOT)))
    asked = f"from importlib.metadata import version; print(version({face.package!r}))"
    environment = {**os.environ, "PYTHONPATH": paths}
    version = subprocess.run(
        [sys.executable, "-c", asked], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *more, *_tests(face)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "log").write_text(done.stdout + done.stderr)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR tests"))]
    return "\n".join([f"{version:10} {lines[-1] if lines else done.stderr.strip()}", *failed]), done.returncode == 0


def _tests(face: Face) -> list[str]:
    found = [str(path) for pattern in face.tests for path in sorted((ROOT / "tests").glob(pattern))]
    if face.document is not None and (ROOT / "docs" / face.document).exists():
        found.append(f"tests/acceptance/test_docs.py::test_a_document_runs[{face.document}]")
    return found


if __name__ == "__main__":
    sys.exit(main())
