"""What the attacks have in common: nodes, a look at the server, and a deadline for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.commands import connect
from support.deadline import pytest_pyfunc_call as pytest_pyfunc_call
from support.stored import Stored

import sessionlock
from sessionlock import SessionGuard
from sessionlock.protocol.scripts import script

LUA = Path(sessionlock.__file__).parent / "protocol" / "lua"


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
