"""What ends a command with one line on standard error and exit status 2."""

from __future__ import annotations

import re

__all__ = ["Failure", "one_line", "without_secrets"]


URL = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)(\?[^#]*)?", re.DOTALL)
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
    match = URL.fullmatch(url)
    # An "@" behind the hosts may be that of a password with a "/" or "?" in it, and what is before it is secret.
    if match is None or ("@" not in match[2] and "@" in match[3] + (match[4] or "")):
        return "(an URL that cannot be read)"
    hosts = match[2].rpartition("@")[2]
    if not all(HOST.fullmatch(host) for host in hosts.split(",")):
        return "(an URL that cannot be read)"
    return f"{match[1]}://{hosts}{match[3]}"
