"""Who may import whom, by folder: a module imports only from its own folder and from the lines above."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.structure.package import MODULES, tree

# Within a line nobody imports another, but for what FOLLOWS allows.
LAYERS = (
    "version errors clock",
    "policies",
    "observe",
    "protocol codecs lease",
    "transport",
    "checkup",
    "session",
    "lock",
    "quorum",  # a topology: only the guard knows it
    "embedded urls",
    "guard",
    "default selfcalls operate",
    "views blocking",
    "admin decorator",
    "audit",  # it knows nothing of the rest, and the rest nothing of it
    "cli",
    "integrations",
)
FOLLOWS = {("urls", "embedded"), ("blocking", "views")}
DEPTH = {module: depth for depth, line in enumerate(LAYERS) for module in line.split()}
BELOW_THE_ROOT = [module for module in MODULES if module not in ("__init__", "__main__")]
DOES_NO_IO = (
    "errors",
    "policies",
    "protocol",
    "quorum/ballot",
    "session/merge",
    "session/data",
    "session/mapping",
    "audit/",
)
ENGINE_ROOM = {"protocol", "transport", "lock"}
IO = {"asyncio", "anyio", "socket", "redis", "hiredis", "threading", "subprocess"}


def imports(module: str) -> Iterator[str]:
    """The full name of every module that it imports, wherever in its text."""
    package = ("sessionlock", *module.split("/")[:-1])
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *(node.module.split(".") if node.module else ())))
            # "from . import guard" names modules, "from .errors import X" names what is in one.
            yield from (f"{stem}.{alias.name}" for alias in node.names) if stem == "sessionlock" else (stem,)


def test_every_module_has_its_layer() -> None:
    """A new module or folder is put on a line; a line names none that is gone."""
    assert sorted({module.split("/")[0] for module in BELOW_THE_ROOT}) == sorted(DEPTH)


@pytest.mark.parametrize("module", BELOW_THE_ROOT)
def test_imports_come_from_above(module: str) -> None:
    """Nothing is imported from the same line or from one below, in a function neither."""
    own = module.split("/")[0]
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("sessionlock.")}
    wrong = {other for other in ours - {own} if DEPTH[other] >= DEPTH[own] and (own, other) not in FOLLOWS}
    assert not wrong, f"{module} imports {sorted(wrong)}, which stand no higher than it"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("integrations/")])
def test_a_face_knows_blocks_and_nothing_below(module: str) -> None:
    """How a session is locked, or what is said to Redis, is no business of a framework's face."""
    assert ENGINE_ROOM.isdisjoint(name.split(".")[1] for name in imports(module) if name.startswith("sessionlock."))


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(DOES_NO_IO)])
def test_the_vocabulary_does_no_io(module: str) -> None:
    """What all the rest speaks in touches neither sockets nor Redis nor the event loop."""
    assert IO.isdisjoint(name.split(".")[0] for name in imports(module))
