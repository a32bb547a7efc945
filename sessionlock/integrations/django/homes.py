"""Where the calls of a session run: on the event loop of an async server, or on the portal's for threads.

A request has one home from its beginning to its end, because a lock belongs to the loop that took it. Whoever asks from
elsewhere (a sync view under ASGI, an async view under WSGI) has the call made at home and waits for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from django.conf import settings as django_settings
from django.core.exceptions import SynchronousOnlyOperation

from ...blocking.portal import portal
from ...codecs.base import default_codec
from ...guard import SessionGuard
from ...policies import SessionPolicy
from . import settings
from .serializing import codec_for

__all__ = [
    "Home",
    "LoopHome",
    "PortalHome",
    "Work",
    "check_no_loop",
    "close",
    "forget",
    "home_of_this_loop",
    "home_of_threads",
    "new_guard",
]

T = TypeVar("T")
Work = Callable[..., Coroutine[Any, Any, T]]  # takes the home's guard first


class PortalHome:
    """For WSGI and everything else that has no event loop: the one that all threads of this process share."""

    def __init__(self, guard: SessionGuard) -> None:
        self.guard = guard
        self.pid: int = os.getpid()
        portal().guards.add(guard)

    def here(self) -> bool:
        return False

    def run(self, work: Work[T], *args: Any) -> T:
        """From a thread. One that runs a loop stands still meanwhile: an async view under WSGI has it for itself."""
        return portal().call(work, self.guard, *args, stand_still=True)

    async def call(self, work: Work[T], *args: Any) -> T:
        """From a coroutine."""
        return await asyncio.to_thread(portal().call, work, self.guard, *args)


class LoopHome:
    """For ASGI: the server's own event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, guard: SessionGuard) -> None:
        self.loop = loop
        self.guard = guard
        # asyncio ends the asynchronous generators of a loop that ends: the moment to close its connections.
        self._keeper = self._until_the_loop_ends()
        with suppress(StopIteration):
            self._keeper.asend(None).send(None)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _of_loops.pop(self.loop, None)
            await self.guard.aclose()

    async def aclose(self) -> None:
        await self._keeper.aclose()

    def here(self) -> bool:
        """Whether the caller runs on this very loop."""
        return asyncio._get_running_loop() is self.loop

    def run(self, work: Work[T], *args: Any) -> T:
        """From a thread beside the loop, as sync views under ASGI have."""
        check_no_loop()
        return asyncio.run_coroutine_threadsafe(work(self.guard, *args), self.loop).result()

    async def call(self, work: Work[T], *args: Any) -> T:
        """From a coroutine; on this loop nothing but a call, elsewhere without blocking the caller's loop."""
        if self.here():
            return await work(self.guard, *args)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(self.guard, *args), self.loop))


Home = PortalHome | LoopHome

_of_threads: PortalHome | None = None
_of_loops: dict[asyncio.AbstractEventLoop, LoopHome] = {}


def home_of_threads() -> PortalHome:
    """The home of sync callers."""
    global _of_threads
    if _of_threads is None or _of_threads.pid != os.getpid():
        _of_threads = PortalHome(new_guard())
    return _of_threads


def home_of_this_loop() -> LoopHome:
    """The home of whoever runs on the current event loop."""
    loop = asyncio.get_running_loop()
    home = _of_loops.get(loop)
    if home is None:
        for ended in [other for other in _of_loops if other.is_closed()]:
            _of_loops.pop(ended, None)  # ended without a farewell
        home = _of_loops[loop] = LoopHome(loop, new_guard())
    return home


def forget() -> None:
    """Forget all guards, after the settings were changed; those in use stay with who uses them."""
    global _of_threads
    settings.read_again()
    threads, _of_threads = _of_threads, None
    _of_loops.clear()
    if threads is not None and threads.pid == os.getpid():
        portal().begin(threads.guard.aclose)


async def close() -> None:
    """Close the connections that were opened for the current event loop now, not only when it ends."""
    home = _of_loops.get(asyncio.get_running_loop())
    if home is not None:
        await home.aclose()


def new_guard() -> SessionGuard:
    """As the settings say."""
    said = settings.current()
    options = dict(said.options)
    given = options.pop("session", None) or SessionPolicy()
    # Django decides when a session ends, so a load never prolongs its life; and it saves with the response.
    policy = replace(
        given,
        refresh_below=0,
        save="end_of_request",
        merge={**said.merge, **given.merge},
        absolute=given.absolute if said.absolute is None else said.absolute,
    )
    options["codec"] = codec_for(
        options.get("codec") or default_codec(), django_settings.SESSION_SERIALIZER, said.serializer
    )
    return SessionGuard.from_url(said.url, session=policy, **options)


def check_no_loop() -> None:
    """Raises SynchronousOnlyOperation where a loop runs that others share."""
    if asyncio._get_running_loop() is not None:
        raise SynchronousOnlyOperation(
            "the session is used synchronously while an event loop runs in this thread. Use its async methods: aget,"
            " aset, asave, acycle_key, aflush ..."
        )
