"""The package's modules, as paths without ``.py``, and their syntax trees."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import sessionlock

__all__ = ["MODULES", "PACKAGE", "source", "tree"]

PACKAGE = Path(sessionlock.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix().removesuffix(".py") for path in PACKAGE.rglob("*.py"))


@cache
def source(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text(encoding="utf-8")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(source(module))
