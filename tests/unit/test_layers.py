"""Who may import whom: a module imports only from the lines above its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sessionlock

PACKAGE = Path(sessionlock.__file__).parent

# Within a line the order is of no importance, as they do not import each other, except where CHAINS says so.
LAYERS = (
    "version errors breaker",
    "policies keys peers capabilities_found capabilities_rules capabilities_probe capabilities",
    "durability cookies",
    "sources",
    "lease protocol changes patience",
    "ballot refusals",
    "codec_tags codec_json codec_fast codec_crypto codec",
    "session",
    "wire scripts",
    "links clients",
    "routes",
    "cluster circuit",
    "executor",
    "pushes",
    "master",
    "masters",
    "quorum",
    "engines wakeup watchdog survey",
    "runtime",
    "acquisition portal",
    "election selfcall",
    "quorum_pottery",
    "holding",
    "modes users",
    "threads",
    "visitors",
    "embedded urls",
    "guard",
    "default views",
    "blocking",
    "decorator",
    "integrations",
    "cli",
)
# Lines that are one thing in several files: each may import those before it on its line.
CHAINS = (
    "capabilities_found capabilities_rules capabilities_probe capabilities",
    "codec_tags codec_json codec_fast codec_crypto codec",
    "embedded urls",
)
# Only for annotations, where the two are one thing in two files.
FOR_TYPES = {("codec_crypto", "codec")}
ABOVE_ALL = ("__init__", "__main__")

DEPTH = {module: depth for depth, line in enumerate(LAYERS) for module in line.split()}
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix().removesuffix(".py")
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ABOVE_ALL or path.parent != PACKAGE
)


def layer_of(module: str) -> str:
    """``cli/demo`` is part of ``cli``; how the parts of such a folder depend on each other is their own business."""
    return module.split("/")[0]


def imported(module: str) -> set[tuple[str, bool]]:
    """The modules of this package that it imports, wherever in its text; and whether only for annotations."""
    path = PACKAGE / f"{module}.py"
    package = ("sessionlock", *module.split("/")[:-1])
    found = set()
    for node, typing_only in _imports(ast.parse(path.read_text(encoding="utf-8")), False):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *(node.module.split(".") if node.module else ())))
            # "from . import protocol" names modules, "from .errors import X" names what is in one.
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "sessionlock" else [stem]
        for name in names:
            parts = name.split(".")
            if parts[0] == "sessionlock":
                found.add((parts[1] if len(parts) > 1 else "__init__", typing_only))
    return found


def _imports(node: ast.AST, typing_only: bool) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    found: list[tuple[ast.Import | ast.ImportFrom, bool]] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            found.append((child, typing_only))
        else:
            is_guard = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            found += _imports(child, typing_only or is_guard)
    return found


def test_every_module_has_its_layer() -> None:
    """A new module is put on a line; a line names no module that is gone."""
    assert sorted({layer_of(module) for module in MODULES}) == sorted(DEPTH)


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_above(module: str) -> None:
    """Nothing is imported from the same line or from one below, in a function neither."""
    own = layer_of(module)
    wrong = []
    for other, typing_only in imported(module):
        if other == own and "/" in module:
            continue
        if typing_only and (own, other) in FOR_TYPES:
            continue
        chain = next((line.split() for line in CHAINS if own in line.split()), [])
        before = other in chain and chain.index(other) < chain.index(own)
        if not before and DEPTH.get(other, len(LAYERS)) >= DEPTH.get(own, len(LAYERS)):
            wrong.append(other)
    assert wrong == [], f"{module} imports {wrong}, which stand no higher than it"


def test_the_vocabulary_does_no_io() -> None:
    """What all the rest speaks in touches neither sockets nor Redis nor the event loop."""
    for module in ("errors", "policies", "keys", "protocol", "ballot", "changes", "session"):
        tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        names = {
            name.split(".")[0]
            for node, typing_only in _imports(tree, False)
            if not typing_only
            for name in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "sessionlock"]
            )
        }
        assert names.isdisjoint({"asyncio", "anyio", "socket", "redis", "hiredis", "threading", "subprocess"}), module


def test_the_order_is_found_out() -> None:
    """This test can fail: where the lines are upside down, nearly every module is wrong."""
    wrong = [
        (module, other)
        for module in MODULES
        for other, _ in imported(module)
        if other in DEPTH and DEPTH[other] < DEPTH.get(layer_of(module), 0)
    ]
    assert len(wrong) > 50
