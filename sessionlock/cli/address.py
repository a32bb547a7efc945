"""Which Redis a command is about, said in one way: an option, a file, or the environment.

A password in an option can be read by whoever may list the processes: a file or the environment hides it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .failure import Failure
from .place import Place

__all__ = ["FILE_VARIABLE", "URL_VARIABLE", "add_prefix", "add_url", "any_url", "chosen_url", "given_url", "shared"]

URL_VARIABLE, FILE_VARIABLE = "SESSION_LOCK_URL", "SESSION_LOCK_URL_FILE"
LOCAL = "redis://localhost:6379/0"
PRIVATE = ("embedded", "memory")


def add_url(parser: argparse.ArgumentParser) -> None:
    """``--url`` and ``--url-file``."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--url",
        metavar="URL",
        help=f"which Redis (default: {URL_VARIABLE} or {FILE_VARIABLE} in the environment, else"
        f" {LOCAL}). ps shows it, with its password",
    )
    either.add_argument("--url-file", metavar="FILE", help="a file with the URL in its first line")


def add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", default=None, help="the guard's key prefix (default: sl)")


def given_url(arguments: argparse.Namespace) -> str | None:
    """The URL that the command line says, by itself or in a file; None: it says none."""
    if arguments.url is not None:
        return str(arguments.url)
    return None if arguments.url_file is None else _first_line(arguments.url_file)


def chosen_url(arguments: argparse.Namespace) -> str:
    """That of a server that others can reach, too.

    Raises:
        Failure: there is a file, and it cannot be read; or it is a URL of a server that only its own process has.
    """
    return shared(any_url(arguments))


def any_url(arguments: argparse.Namespace) -> str:
    """As :func:`chosen_url`, of whatever server; ``arguments.address``, where there is one, says it by itself. What a
    framework's application says comes before the environment.
    """
    place: Place | None = arguments.place
    url = getattr(arguments, "address", None) or given_url(arguments)
    url = url or (place.url if place is not None else None) or os.environ.get(URL_VARIABLE)
    if not url and os.environ.get(FILE_VARIABLE):
        url = _first_line(os.environ[FILE_VARIABLE])
    return url or LOCAL


def shared(url: str) -> str:
    """``url``, if there can be sessions of an application in there. Raises :class:`Failure`."""
    scheme = url.partition("://")[0].lower()
    if scheme in PRIVATE:
        raise Failure(
            f"{scheme}:// is a server of the one process that has it, and another process cannot look into it: give the"
            " URL of a Redis"
        )
    return url


def _first_line(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            line = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"the file with the URL cannot be read: {error}") from None
    if not line:
        raise Failure(f"there is no URL in the first line of {path}")
    return line
