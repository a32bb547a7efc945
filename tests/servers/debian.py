"""Programs and libraries out of Debian's packages, of any suite, on whatever system: unpacked aside, never installed.

apt is run under a configuration of our own: its sources are the mirror that this machine already has, with the suites
that are wanted; its lists, cache and status are temporary files. So nothing of the system changes, and no root is
needed. An empty status makes apt resolve the libraries down to the C library: the program is then started with those,
by their own loader, whatever the system has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from .failures import ServerNotHad, obtain
from .recipes import DebianPackage

__all__ = ["launcher", "library_folders", "loader", "unpack"]

_RELEASES = {"bullseye", "bookworm", "trixie", "forky", "duke"}
_SUITES = _RELEASES | {"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid", "experimental"}
_KEYRINGS = [Path(f"/usr/share/keyrings/debian-archive-keyring.{kind}") for kind in ("pgp", "gpg")]
_ANYTHING_BUT_LIBRARIES = ("libpam", "libaudit", "libsemanage", "libdb", "libdebconf")

_LAUNCHER = """\
#!/bin/sh
# Starts the program with the loader and the libraries that were unpacked with it.
self=$(readlink -f -- "$0")
here=${{self%/*}}
exec "$here/{loader}" --library-path "{libraries}" "$here/{program}" "$@"
"""


def unpack(package: DebianPackage, root: Path) -> None:
    """Unpack the package and the libraries that it needs into ``root``.

    Raises:
        ServerNotHad: the machine's apt has no Debian mirror, or the mirror not that package; or apt is missing.
    """
    with TemporaryDirectory(dir=root.parent) as place:
        apt = _PrivateApt(Path(place), package.suites)
        apt.update()
        for archive in apt.download(package):
            obtain(f"unpacking {archive.name}", ["dpkg", "-x", archive, root])


def launcher(root: Path, program: Path) -> str:
    """The text of a script beside ``root`` that starts the program with the root's loader and libraries.

    The program has to have the name that it shall go by: the loader passes on no other.
    """
    base = root.parent.resolve()
    root, program = root.resolve(), program.resolve()
    return _LAUNCHER.format(
        loader=loader(root).relative_to(base),
        libraries=":".join(f"$here/{folder.relative_to(base)}" for folder in library_folders(root)),
        program=program.relative_to(base),
    )


def loader(root: Path) -> Path:
    """Among what was unpacked into ``root``."""
    # Some of its names are links with absolute targets, which lead to the system's own, if anywhere.
    loaders = [path for path in sorted(root.glob("**/ld-linux*.so.*")) if path.resolve().is_relative_to(root)]
    if not loaders:
        raise ServerNotHad("among the unpacked libraries there is no loader (ld-linux)")
    return loaders[0]


def library_folders(root: Path) -> list[Path]:
    return list(dict.fromkeys(path.parent for path in sorted(root.glob("**/lib/*/lib*.so*"))))


class _PrivateApt:
    """apt with the machine's mirror, keys, proxies and passwords, but sources and state of its own."""

    def __init__(self, place: Path, suites: tuple[str, ...]) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (place / folder).mkdir(parents=True)
        (place / "sources.list").write_text("\n".join(_sources(suites)) + "\n")
        (place / "status").touch()
        self.archives = place / "cache" / "archives"
        settings = {
            "Dir::Etc::SourceList": place / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": place / "lists",
            "Dir::State::Status": place / "status",
            "Dir::Cache": place / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Debug::NoLocking": "true",  # nobody else knows of these folders
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        self._suites = ", ".join(suites)

    def update(self) -> None:
        # A suite that the mirror lacks is a warning here; the package missing is told afterwards.
        self._get(f"reading what Debian {self._suites} has", "update", "-qq")

    def download(self, wanted: DebianPackage) -> list[Path]:
        doing = f"fetching {wanted} with its libraries"
        plan = self._get(
            doing,
            *("install", "-qq", "--yes", "--no-install-recommends", "--print-uris"),
            f"{wanted.package}/{wanted.suites[0]}",
        )
        self._get(doing, "download", "-qq", *_needed(plan, wanted.package), cwd=self.archives)
        return sorted(self.archives.glob("*.deb"))

    def _get(self, doing: str, *arguments: str, cwd: Path | None = None) -> str:
        plain = {**os.environ, "LC_ALL": "C"}
        return obtain(doing, ["apt-get", *self._options, *arguments], cwd=cwd, env=plain)


def _needed(plan: str, wanted: str) -> Iterator[str]:
    """``package=version`` for the wanted one, its parts and the libraries among what apt would install."""
    for line in plan.splitlines():
        # 'where' name_version_architecture.deb size checksum; a colon in the version is written as %3a.
        name, version, _ = line.split()[1].replace("%3a", ":").split("_")
        if name.startswith((wanted, "lib", "zlib")) and not name.startswith(_ANYTHING_BUT_LIBRARIES):
            yield f"{name}={version}"


def _sources(suites: tuple[str, ...]) -> Iterator[str]:
    mirror = _mirror()
    keys = next((f"[signed-by={keyring}] " for keyring in _KEYRINGS if keyring.exists()), "")
    for suite in suites:
        yield f"deb {keys}{mirror} {suite} main"


def _mirror() -> str:
    """The address that this machine's apt has for Debian."""
    fields = "$(COMPONENT)|$(RELEASE)|$(ORIGIN)|$(REPO_URI)"
    for line in obtain("asking apt for its mirror", ["apt-get", "indextargets", "--format", fields]).splitlines():
        component, suite, origin, address = line.split("|", 3)
        # Before its first update apt knows no origin, and leaves the word as it is.
        if component == "main" and suite in _SUITES and origin in ("Debian", "", "$(ORIGIN)"):
            return address
    raise ServerNotHad("it comes from Debian, and this machine's apt has no Debian mirror among its sources")
