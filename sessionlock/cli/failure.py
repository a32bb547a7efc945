"""What ends a command with one line on standard error and exit status 2."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["Failure", "one_line", "without_secrets"]


class Failure(Exception):
    """The command cannot be carried out; the message is for people and has one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: object) -> str:
    """``text`` with line breaks folded and whatever a terminal might obey replaced."""
    folded = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "?" for char in folded)


def without_secrets(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(an URL that cannot be read)"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
