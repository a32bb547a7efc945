"""What ends a command with one line on standard error and exit status 2."""

from __future__ import annotations

import re

from ..urls import parts_of

__all__ = ["Failure", "one_line", "without_secrets"]


HOST = re.compile(r"(?:[\w.%-]*|\[[0-9a-fA-F:.%\w]*\])(?::\d*)?")


class Failure(Exception):
    """The command cannot be carried out; the message is for people and has one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: object) -> str:
    """``text`` with line breaks folded and whatever a terminal might obey replaced."""
    folded = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "?" for char in folded)


def without_secrets(url: str) -> str:
    """The URL as it may be shown: all its hosts, without user, password and query."""
    parts = parts_of(url)
    if parts is None or parts.doubtful or parts.has_fragment:
        return "(an URL that cannot be read)"
    if not all(HOST.fullmatch(host) for host in parts.hosts.split(",")):
        return "(an URL that cannot be read)"
    return f"{url.partition(':')[0]}://{parts.hosts}{parts.path}"
