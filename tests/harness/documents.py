"""The Python in a document of ``docs/`` or the README, run as a reader would run it.

Blocks run in order, in one namespace, one process a document; ``await`` may stand outside of functions. What the fence
says besides decides what becomes of a block::

    ```python                     runs
    ```python file=views.py       is written into a module that later blocks may import
    ```python no-run              must only compile: a fragment of something bigger

and what readers need not see runs, too, from an HTML comment: ``<!-- python`` on a line, code, ``-->`` on a line.
``redis://localhost:6379/0`` is the test's server.

``python -m tests.harness.documents FILE URL`` runs one; the modules go into the working directory.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["LOCAL", "Block", "blocks_of", "check", "run"]

LOCAL = "redis://localhost:6379/0"
BEGINS = re.compile(r"( *)(?:```(?:python|py)\b(.*)|<!-- python\b(.*))")
MODULE = re.compile(r"file=([\w/]+\.py)")


class Block(NamedTuple):
    """``line``: of the document, where the code begins. ``module``: its file's name. ``runs``: or only compiles."""

    line: int
    code: str
    module: str | None
    runs: bool


def blocks_of(text: str) -> Iterator[Block]:
    """The Python blocks of a document, in order.

    Raises:
        ValueError: a block that does not end; a word behind ``python`` that says nothing here.
    """
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        begins = BEGINS.fullmatch(lines[number])
        number += 1
        if begins is None:
            continue
        indent, shown, hidden = begins.groups()
        end = f"{indent}-->" if shown is None else f"{indent}```"
        first = number
        while number < len(lines) and lines[number].rstrip() != end:
            number += 1
        if number == len(lines):
            raise ValueError(f"the block that begins in line {first} does not end")
        code = "\n".join(line.removeprefix(indent) for line in lines[first:number])
        yield _block(first + 1, code, (shown or hidden or "").split())
        number += 1


def _block(line: int, code: str, words: list[str]) -> Block:
    module = None
    for word in words:
        named = MODULE.fullmatch(word)
        if named is not None:
            module = named[1]
        elif word != "no-run":
            raise ValueError(f"line {line - 1}: {word!r} is neither no-run nor file=NAME.py")
    return Block(line, code, module, "no-run" not in words)


def check(path: Path) -> None:
    """Every block is Python."""
    for block in blocks_of(path.read_text(encoding="utf-8")):
        _compiled(block, path.name)


def run(path: Path, url: str) -> None:
    """Run the document. Its modules are written into the working directory."""
    sys.path.insert(0, str(Path.cwd()))
    main = types.ModuleType("__main__")  # classes that are defined in a document have a module, as in a script
    sys.modules["__main__"] = main
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        for block in blocks_of(path.read_text(encoding="utf-8").replace(LOCAL, url)):
            code = _compiled(block, path.name)
            if block.module is not None:
                _write(block, block.module)
            elif block.runs:
                result = eval(code, vars(main))
                if inspect.iscoroutine(result):
                    loop.run_until_complete(result)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _compiled(block: Block, name: str) -> Any:
    """With the document's lines, for who reads a traceback. A fragment may ``return`` and ``yield``."""
    tops = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = "\n" * (block.line - 1) + block.code
    if block.runs:
        return compile(code, name, "exec", flags=tops)
    indented = "\n".join(f"    {line}" for line in block.code.splitlines())
    return compile(f"async def fragment():\n{indented}\n    ...", name, "exec")


def _write(block: Block, module: str) -> None:
    path = Path(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").count("\n") if path.exists() else 0
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * max(0, block.line - 1 - lines) + block.code + "\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
