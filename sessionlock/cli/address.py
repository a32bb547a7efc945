"""Which Redis a command is about, said in one way: an option, a file, or the environment.

A password in an option can be read by whoever may list the processes: a file or the environment hides it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .failure import Failure
from .place import Place

__all__ = [
    "FILE_VARIABLE",
    "URL_VARIABLE",
    "add_prefix",
    "add_url",
    "any_url",
    "chosen_prefix",
    "chosen_url",
    "given_url",
    "shared",
]

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
    """The URL that the command line says, by itself, by an option or in a file; None: it says none. By itself it is
    ``arguments.address``, or ``source``, which may be the name of something else to read.

    Raises:
        Failure: two are given; or it is empty, as of a variable that is not set: none of the others is meant then.
    """
    alone = {"URL": getattr(arguments, "address", None), "URL|FILE": getattr(arguments, "source", None)}
    said = {**alone, "--url": arguments.url, "--url-file": arguments.url_file}
    given = {name: value for name, value in said.items() if value is not None}
    if len(given) > 1:
        raise Failure(f"one URL is enough: {' and '.join(given)} say two")
    for name, value in given.items():
        if not value.strip():
            raise Failure(f"{name} is empty (a variable that is not set?): give the URL of a Redis, or leave it out")
        return _first_line(value) if name == "--url-file" else str(value)
    return None


def chosen_url(arguments: argparse.Namespace) -> str:
    """That of a server that others can reach, too.

    Raises:
        Failure: as of :func:`any_url`; or it is a URL of a server that only its own process has.
    """
    return shared(any_url(arguments))


def any_url(arguments: argparse.Namespace) -> str:
    """As :func:`chosen_url`, of whatever server. What the command line says comes first, then what a framework's
    application says, then the environment.

    Raises:
        Failure: as of :func:`given_url`; the application does not say it by a URL; there is a file, and it cannot be
            read; a variable is set, and is empty.
    """
    place: Place | None = arguments.place
    url = given_url(arguments)
    if url is None and place is not None:
        if place.url is None:
            raise Failure(
                "the application's guard is not made of a URL, so that it must be said here which Redis: --url"
            )
        return place.url
    url = url or _in_environment(URL_VARIABLE)
    if url is None:
        file = _in_environment(FILE_VARIABLE)
        url = LOCAL if file is None else _first_line(file)
    return url


def chosen_prefix(arguments: argparse.Namespace) -> str:
    """As the command line says, or the application's guard has it, or as a guard has it by default."""
    if arguments.prefix is not None:
        return str(arguments.prefix)
    place: Place | None = arguments.place
    return "sl" if place is None else place.kept()[0].prefix


def _in_environment(name: str) -> str | None:
    value = os.environ.get(name)
    if value is not None and not value.strip():
        raise Failure(f"{name} in the environment is empty: unset it, or say there which Redis")
    return value


def shared(url: str) -> str:
    """``url``, if there can be sessions of an application in there. Raises :class:`Failure`."""
    scheme, is_url, _ = url.lower().partition("://")
    if is_url and scheme in PRIVATE:
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
