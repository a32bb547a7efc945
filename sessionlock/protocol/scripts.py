"""The Lua scripts, as package resources."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

__all__ = ["SCRIPTS", "Script", "script"]

USES = re.compile(r"^-- uses  (.+)$", re.MULTILINE)


class Script:
    """A Lua script and its SHA-1, by which EVALSHA names it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text: str = text
        self.sha: str = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def script(name: str) -> Script:
    """The script ``lua/<name>.lua`` behind the parts (``lua/_<part>.lua``) that its ``uses`` line names."""
    return SCRIPTS[name]


def _read() -> dict[str, Script]:
    """All of them, once: reading a file while a request is served would hold up the event loop."""
    files = (resources.files(__package__) / "lua").iterdir()
    texts = {file.name[:-4]: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".lua")}

    def whole(body: str) -> Script:
        uses = USES.search(body)
        return Script("".join(texts[f"_{part}"] for part in (uses[1].split() if uses else ())) + body)

    return {name: whole(text) for name, text in texts.items() if not name.startswith("_")}


SCRIPTS = _read()
