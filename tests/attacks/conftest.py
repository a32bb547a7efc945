"""What the attacks have in common: nodes, a look at the server, and a deadline for every test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.commands import connect
from support.stored import Stored

import sessionlock
from sessionlock import SessionGuard
from sessionlock.executor import script

LUA = Path(sessionlock.__file__).parent / "lua"
DEADLINE = 20.0  # seconds; an attack that succeeds by hanging must fail, not hang


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def in_time(*args: Any, **kwargs: Any) -> None:
            with anyio.fail_after(DEADLINE):
                await test(*args, **kwargs)

        pyfuncitem.obj = in_time
    return (yield)


@pytest.fixture
def scripts(redis_url: str) -> None:
    """Every script is known to the server, so that each call is one EVALSHA and can be told by its SHA-1."""
    with connect(redis_url) as client:
        for path in LUA.glob("[!_]*.lua"):
            client.script_load(script(path.stem).text)


@pytest.fixture
async def node(redis_url: str, scripts: None) -> AsyncIterator[Callable[..., SessionGuard]]:
    """``node(url=None, **options)`` makes a guard of its own connections, as another process would have one."""
    async with AsyncExitStack() as stack:

        def make(url: str | None = None, **options: Any) -> SessionGuard:
            guard = SessionGuard.from_url(url or redis_url, **options)
            stack.push_async_callback(guard.aclose)
            return guard

        yield make


@pytest.fixture
def stored(redis_url: str) -> Iterator[Callable[..., Stored]]:
    """``stored(sid, url=None)``: what the server holds of that session."""
    with ExitStack() as stack:

        def look(sid: str, url: str | None = None) -> Stored:
            return stack.enter_context(Stored(url or redis_url, sid))

        yield look
