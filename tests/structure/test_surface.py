"""What ``import sessionlock`` offers, and the tree of what it raises."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sessionlock
from sessionlock import errors

SOURCE = Path(sessionlock.__file__)


def defined_in_init() -> set[str]:
    """Every name that ``__init__`` imports from its modules, at once or when it is asked for."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
        for alias in node.names
    }


def test_all_is_sorted() -> None:
    """Constants, then classes, then the rest, each by name; nothing twice."""

    def place(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert list(sessionlock.__all__) == sorted(set(sessionlock.__all__), key=place)


def test_all_is_complete() -> None:
    """What is imported for others to use is in ``__all__``, and the other way about."""
    assert set(sessionlock.__all__) == defined_in_init()


@pytest.mark.parametrize("name", sessionlock.__all__)
def test_all_is_there(name: str) -> None:
    """Each can be imported, and says what it is for."""
    thing = getattr(sessionlock, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert (thing.__doc__ or "").strip(), name


def test_star_import() -> None:
    """``from sessionlock import *`` gives these names and no other."""
    names: dict[str, object] = {}
    exec("from sessionlock import *", names)
    del names["__builtins__"]
    assert set(names) == set(sessionlock.__all__)


# --- errors

CLASSES = {
    name: thing
    for name, thing in vars(errors).items()
    if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__module__ == errors.__name__
}


def tree_of_the_docstring() -> dict[str, str]:
    """Each error and the one that it stands under."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^( {4}[│ ├└─]*)([A-Z]\w+)(?:  |$)", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        parents[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))
    return parents


def test_the_tree_is_true() -> None:
    """Every error is in the docstring's tree, below its own base class, and none is there that does not exist."""
    assert tree_of_the_docstring() == {name: thing.__bases__[0].__name__ for name, thing in CLASSES.items()}


def test_every_error_is_public() -> None:
    """Each can be caught by its name: ``sessionlock.X``."""
    assert set(errors.__all__) == set(CLASSES)
    assert set(CLASSES) <= set(sessionlock.__all__)


def test_every_exception_of_the_package_is_in_the_tree() -> None:
    """No module that users import defines an exception outside of the tree (a few say something to each other)."""
    strange = []
    for path in SOURCE.parent.rglob("*.py"):
        if "integrations" in path.parts or "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and path.stem != "errors":
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if any(base.endswith(("Error", "Exception")) for base in bases) and not bases & set(CLASSES):
                    strange.append(f"{path.stem}.{node.name}")
    assert sorted(strange) == INTERNAL


# Told within the package and caught there, or by what a user hands in (a merge function).
INTERNAL = [
    "cluster_pushes.SubscribingRefused",
    "connection.NoVote",
    "merge.Clash",
    "outages.CutOff",
    "route.NotNow",
    "tags.BadPart",
]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_without_a_message_tells_what_it_is(name: str) -> None:
    """The first line of its docstring, unless it must be told more."""
    thing = CLASSES[name]
    assert (thing.__doc__ or "").strip()
    try:
        error = thing()
    except TypeError:
        return  # it always carries something
    assert str(error) == (thing.__doc__ or "").strip().splitlines()[0]


def test_importing_is_cheap_and_has_no_side_effect() -> None:
    """No optional dependency, no framework, no server's wheel is imported with the package."""
    needed = "redis.asyncio, hiredis, tenacity, anyio"
    loaded = imported_with(f"sessionlock, {needed}") - imported_with(needed)
    for name in ("pottery", "redis_lock", "fakeredis", "lupa", "orjson", "msgspec", "cryptography", "django", "flask"):
        assert name not in loaded, name


def test_importing_loads_no_topology_or_face_that_is_not_used() -> None:
    loaded = {name.split(".")[1] for name in imported_with("sessionlock", parts=2) if name.startswith("sessionlock.")}
    assert not loaded & {"quorum", "embedded", "integrations", "cli"}


def test_a_quorum_is_loaded_when_it_is_asked_for() -> None:
    assert "sessionlock.quorum" in imported_with("sessionlock; sessionlock.Quorum", parts=2)
    assert "Quorum" in dir(sessionlock)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        sessionlock.Nonsense  # type: ignore[attr-defined]  # noqa: B018


def imported_with(modules: str, parts: int = 1) -> set[str]:
    """The modules that a fresh interpreter has after importing these, by so many parts of their names."""
    code = f"import sys, {modules}; print(*sorted({{'.'.join(name.split('.')[:{parts}]) for name in sys.modules}}))"
    place = SOURCE.parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=place)
    return set(done.stdout.split())


def test_no_package_of_the_test_extra_stands_in_for_our_folders() -> None:
    """aiohttp-security 0.5 installs a package `tests`, before which ours, having no ``__init__``, is not found."""
    root = Path(__file__).resolve().parents[2]
    program = "import importlib; print(importlib.import_module('tests.sabotage').__file__)"
    told = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert Path(told.stdout.strip()) == root / "tests" / "sabotage" / "__init__.py"


@pytest.mark.parametrize(("former", "now"), [("Wait", "Replicated"), ("Safety", "Replication")])
def test_a_former_name_works_and_warns(former: str, now: str) -> None:
    """For one release."""
    with pytest.warns(DeprecationWarning, match=now):
        assert getattr(sessionlock, former) is getattr(sessionlock, now)
