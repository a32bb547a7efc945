"""How large things are, and who touches what of whom.

The sets named TODAY are what does not fit yet. They may only shrink: what fits again, or is gone, must leave them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from tests.structure.package import MODULES, source, tree

LINES = 500
ATTRIBUTES = 12
ROOT_MODULES = 12
NAMED_TUPLES = ("_asdict", "_fields", "_make", "_replace")  # public, whatever they look like

TOO_LONG_TODAY: set[str] = set()
TOO_MANY_ATTRIBUTES_TODAY = {
    "lease: Lease",
    "transport/wire: Wire",
}
PRIVATE_TODAY: set[str] = set()
SET_FROM_OUTSIDE_TODAY: set[str] = set()
EXPORTED_TWICE_TODAY: set[str] = set()
# Of objects that are a framework's, as it demands or for want of a public name.
PRIVATE_IN_A_FRAMEWORK = {
    "integrations/aiohttp/request: _loop",
    "integrations/django/runs: _body",
    "integrations/django/runs: _stream",
    "integrations/django/sitting: _session_key",
    "integrations/quart/again: _complete",
    "integrations/quart/again: _data",
}
SET_ON_A_FRAMEWORKS = {
    "integrations/asgi/checks: app",
    "integrations/django/middleware: session",
    "integrations/django/runs: _stream",
    "integrations/django/sitting: _session_key",
    "integrations/django/sitting: accessed",
    "integrations/django/sitting: modified",
    "integrations/flask_family/answers: headers",
    "integrations/flask_family/answers: response",
    "integrations/flask_family/answers: status",
    "integrations/flask_family/hooks: accessed",
    "quorum/pottery: dumps",
}
# What a user imports from the one framework at hand, under the name that all frameworks share.
EACH_FRAMEWORK_HAS_ITS_OWN = {
    "LockedSession",
    "locked_session",
    "locks_session",
    "SessionLock",
    "session_lock",
    "SessionLockConfig",
    "session_lock_exempt",
    "SessionLockInterface",
    "SessionLockMiddleware",
    "session_policy",
    "session_readonly",
    "setup",
    "visit_of",
}


def compare(found: set[str], today: set[str]) -> None:
    assert not found - today, f"new: {sorted(found - today)}"
    assert not today - found, f"mended or gone; take it off the list: {sorted(today - found)}"


def test_files_are_short() -> None:
    compare({module for module in MODULES if source(module).count("\n") > LINES}, TOO_LONG_TODAY)


def test_the_root_is_small() -> None:
    """With ``__init__`` and ``__main__``: one can take it in at a glance."""
    assert len([module for module in MODULES if "/" not in module]) <= ROOT_MODULES


def test_classes_have_few_attributes() -> None:
    """That is, attributes of ``self`` that their own methods set."""
    compare(
        {
            f"{module}: {node.name}"
            for module in MODULES
            for node in ast.walk(tree(module))
            if isinstance(node, ast.ClassDef) and len(set(own_attributes(node))) > ATTRIBUTES
        },
        TOO_MANY_ATTRIBUTES_TODAY,
    )


def test_nobody_uses_private_names_of_another_module() -> None:
    """``x._name``, where another module of ours defines ``_name`` and this one does not; or imports it."""
    found = set()
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node):
                if is_elsewhere(node.attr, module):
                    found.add(f"{module}: {node.attr}")
            elif isinstance(node, ast.ImportFrom) and is_ours(node):
                found.update(f"{module}: {alias.name}" for alias in node.names if is_private(alias.name))
    compare(found, PRIVATE_TODAY | PRIVATE_IN_A_FRAMEWORK)


def test_nobody_sets_attributes_of_another_module() -> None:
    """``x.name = …``, where another module's class has ``name``: its constructor takes it, or a method does."""
    found = set()
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if not isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
                continue
            if not is_own(node) and is_elsewhere(node.attr, module):
                found.add(f"{module}: {node.attr}")
    compare(found, SET_FROM_OUTSIDE_TODAY | SET_ON_A_FRAMEWORKS)


def test_no_name_is_exported_twice() -> None:
    """Two things of one name are confused. The thread face has its twins; passing a thing on is no second one."""
    homes = defaultdict(set)
    for module in MODULES:
        if module.startswith("blocking/"):
            continue
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree(module))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for name in set(exported(module)) - imported:
            homes[name].add(module)
    compare(
        {name for name, where in homes.items() if len(where) > 1} - EACH_FRAMEWORK_HAS_ITS_OWN, EXPORTED_TWICE_TODAY
    )


# --- reading the trees


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLES


def is_own(node: ast.Attribute) -> bool:
    """Of ``self``, ``cls`` or ``super()``."""
    of = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(of, ast.Name) and of.id in ("self", "cls", "super")


def is_ours(node: ast.ImportFrom) -> bool:
    return node.level > 0 or (node.module or "").split(".")[0] == "sessionlock"


def own_attributes(node: ast.AST) -> Iterator[str]:
    """What is set on ``self`` below this node."""
    for below in ast.walk(node):
        if isinstance(below, ast.Attribute) and isinstance(below.ctx, ast.Store) and is_own(below):
            yield below.attr


@cache
def members(module: str) -> frozenset[str]:
    """The names that its classes give to their instances: attributes, fields, slots and methods."""
    found = set(own_attributes(tree(module)))
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.ClassDef):
            continue
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.add(statement.name)
            elif isinstance(statement, ast.AnnAssign):
                found.add(ast.unparse(statement.target))
            elif isinstance(statement, ast.Assign):
                found.update(ast.unparse(target) for target in statement.targets)
                if "__slots__" in found:
                    found.update(
                        value.value
                        for value in ast.walk(statement.value)
                        if isinstance(value, ast.Constant) and isinstance(value.value, str)
                    )
    return frozenset(found)


def is_elsewhere(name: str, module: str) -> bool:
    """Whether it is a member of a class of ours, but of none in this module."""
    return name not in members(module) and any(name in members(other) for other in MODULES)


def exported(module: str) -> list[str]:
    """Its ``__all__``."""
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(value.value) for value in ast.walk(node.value) if isinstance(value, ast.Constant)]
    return []
