"""How these commands reach Redis."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from ...errors import EmbeddedServerUnavailable, SessionLockError
from ...guard import SessionGuard
from ...operate import Operator
from ...quorum.config import Quorum
from ..address import chosen_prefix, chosen_url, given_url, shared
from ..failure import Failure
from ..place import Place

__all__ = ["answered", "answered_user", "ask"]

T = TypeVar("T")
ANSWERS_WITHIN = 2.0  # seconds


def ask(arguments: argparse.Namespace, work: Callable[[Operator], Awaitable[T]]) -> T:
    """What ``work`` comes to, in an event loop of its own.

    Raises:
        Failure: no answer, a refusal, or what makes no sense; in one line, with what to do.
    """

    async def asking() -> T:
        async with _operator(arguments) as operator:
            return await work(operator)

    try:
        return asyncio.run(asking())
    except (SessionLockError, EmbeddedServerUnavailable) as error:
        raise Failure(str(error)) from None


@asynccontextmanager
async def _operator(arguments: argparse.Namespace) -> AsyncIterator[Operator]:
    """Closed at the end, with what was opened for it."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(await _opened(arguments, stack))


async def _opened(arguments: argparse.Namespace, stack: AsyncExitStack) -> Operator:
    place: Place | None = arguments.place
    if place is not None and given_url(arguments) is None and not arguments.masters:
        if place.url is not None:
            shared(place.url)
        guard, codec = place.kept()
        return Operator.of(guard, prefix=arguments.prefix, codec=codec)
    url, prefix = chosen_url(arguments), chosen_prefix(arguments)
    if not arguments.masters:
        return Operator.from_url(url, prefix=prefix)
    guard = SessionGuard.from_url(
        url,
        quorum=Quorum(*arguments.masters, rejoin_after=0),  # it votes for nobody here
        prefix=prefix,
        retry_for=ANSWERS_WITHIN,
        reply_within=ANSWERS_WITHIN,
    )
    return Operator.of(await stack.enter_async_context(guard))


def answered(said: str) -> str:
    """What was said, or what standard input says where that is ``-``."""
    return sys.stdin.readline().rstrip("\n") if said == "-" else said


def answered_user(arguments: argparse.Namespace) -> str:
    """The user that was said, as the application binds sessions to them."""
    place: Place | None = arguments.place
    user = answered(arguments.user)
    return user if place is None else place.user_of(user)
