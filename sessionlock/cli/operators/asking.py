"""How these commands reach Redis."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ...errors import EmbeddedServerUnavailable, SessionLockError
from ...operate import Operator
from ..address import chosen_url, given_url, shared
from ..failure import Failure
from ..place import Place

__all__ = ["answered", "ask"]

T = TypeVar("T")


def ask(arguments: argparse.Namespace, work: Callable[[Operator], Awaitable[T]]) -> T:
    """What ``work`` comes to, in an event loop of its own.

    Raises:
        Failure: no answer, a refusal, or what makes no sense; in one line, with what to do.
    """

    async def asking() -> T:
        async with _operator(arguments) as operator:
            return await work(operator)

    quiet, log = logging.NullHandler(), logging.getLogger("sessionlock")
    log.addHandler(quiet)  # an outage is one line here, and that is ours
    try:
        return asyncio.run(asking())
    except (SessionLockError, EmbeddedServerUnavailable) as error:
        raise Failure(str(error)) from None
    finally:
        log.removeHandler(quiet)


def _operator(arguments: argparse.Namespace) -> Operator:
    place: Place | None = arguments.place
    if place is not None and given_url(arguments) is None:
        if place.url is not None:
            shared(place.url)
        guard, codec = place.kept()
        return Operator.of(guard, prefix=arguments.prefix, codec=codec)
    return Operator.from_url(chosen_url(arguments), prefix="sl" if arguments.prefix is None else arguments.prefix)


def answered(said: str) -> str:
    """What was said, or what standard input says where that is ``-``."""
    return sys.stdin.readline().rstrip("\n") if said == "-" else said
