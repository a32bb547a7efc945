"""The Lua scripts, as package resources."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources

__all__ = ["Script", "script"]

USES = re.compile(r"^-- uses  (.+)$", re.MULTILINE)


class Script:
    """A Lua script and its SHA-1, by which EVALSHA names it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    """The script ``lua/<name>.lua`` behind the parts (``lua/_<part>.lua``) that its ``uses`` line names."""
    folder = resources.files(__package__) / "lua"

    def text(of: str) -> str:
        return (folder / f"{of}.lua").read_text(encoding="utf-8")

    body = text(name)
    uses = USES.search(body)
    parts = uses[1].split() if uses else []
    return Script("".join(text(f"_{part}") for part in parts) + body)
