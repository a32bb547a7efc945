"""The Lua scripts, as package resources; and all of them as one library of functions, for servers that have those.

One source makes both. A script is its parts, then its body. In the library each part stands once; what a part takes
from its call (``KEYS``, ``ARGV``, ``redis.call``) is set as each call begins.
"""

from __future__ import annotations

import hashlib
import re
from graphlib import TopologicalSorter
from importlib import resources
from itertools import pairwise

__all__ = ["LIBRARY", "SCRIPTS", "Script", "script"]

USES = re.compile(r"^-- uses  (.+)$", re.MULTILINE)
FLAGS = re.compile(r"^-- flags (.+)$", re.MULTILINE)  # of its function: in which plights of the server it may run
OF_THE_CALL = re.compile(r"^local (\w+(?:, \w+)*) = (.*\b(?:KEYS|ARGV)\b.*)$", re.MULTILINE)
OF_REDIS = re.compile(r"^local (\w+) = (redis\.\w+)$", re.MULTILINE)  # it has nothing yet while a library is loaded


class Script:
    """A Lua script, its SHA-1, by which EVALSHA names it, and the name of its ``function``, for FCALL."""

    __slots__ = ("function", "sha", "text")

    def __init__(self, text: str, function: str) -> None:
        self.text: str = text
        self.sha: str = _sha1(text)
        self.function: str = function


def script(name: str) -> Script:
    """The script ``lua/<name>.lua`` behind the parts (``lua/_<part>.lua``) that its ``uses`` line names."""
    return SCRIPTS[name]


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _read() -> tuple[dict[str, Script], str]:
    """All of them, once: reading a file while a request is served would hold up the event loop."""
    files = (resources.files(__package__) / "lua").iterdir()
    texts = {file.name[:-4]: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".lua")}
    parts = {name[1:]: text for name, text in texts.items() if name.startswith("_")}
    bodies = {name: text for name, text in sorted(texts.items()) if not name.startswith("_")}
    uses = {name: _uses(body) for name, body in bodies.items()}
    # Names with a hash of all: versions that differ stand side by side in one server.
    version = _sha1(_library("", parts, bodies, uses))[:12]
    scripts = {
        name: Script("".join(parts[part] for part in uses[name]) + body, _function(version, name))
        for name, body in bodies.items()
    }
    return scripts, _library(version, parts, bodies, uses)


def _uses(body: str) -> list[str]:
    found = USES.search(body)
    return found[1].split() if found else []


def _function(version: str, name: str) -> str:
    return f"sl_{version}_{name}"


def _library(version: str, parts: dict[str, str], bodies: dict[str, str], uses: dict[str, list[str]]) -> str:
    order: TopologicalSorter[str] = TopologicalSorter({part: () for part in sorted(parts)})
    for used in uses.values():
        for earlier, later in pairwise(used):
            order.add(later, earlier)
    text = [f"#!lua name=sessionlock_{version}\n", "local KEYS, ARGV\n"]
    begins = {}
    for name in order.static_order():
        part = parts[name]
        begins[name] = [f"{names} = {value}" for names, value in OF_THE_CALL.findall(part)]
        begins[name] += [f"{what} = {what} or {value}" for what, value in OF_REDIS.findall(part)]
        text.append(OF_REDIS.sub(r"local \1", OF_THE_CALL.sub(r"local \1", part)))
    for name, body in bodies.items():
        begin = "; ".join(["KEYS, ARGV = keys, args", *(line for part in uses[name] for line in begins[part])])
        text.append(f"local function {name}(keys, args)\n{begin}\n{body}end\n")
        flags = FLAGS.search(body)
        listed = ", ".join(f"'{flag}'" for flag in flags[1].split()) if flags else ""
        text.append(
            f"redis.register_function{{function_name = '{_function(version, name)}', callback = {name},"
            f" flags = {{{listed}}}}}\n"
        )
    return "".join(text)


SCRIPTS, LIBRARY = _read()
