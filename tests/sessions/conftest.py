"""What the tests of sessions have in common: nodes, a look at the server, a deadline for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.commands import connect
from support.deadline import pytest_pyfunc_call as pytest_pyfunc_call
from support.proxy import FaultyProxy
from support.stored import Stored

from sessionlock import SessionGuard
from sessionlock.protocol.scripts import script

SCRIPTS = (
    "abandon",
    "acquire",
    "bind",
    "commit",
    "create",
    "destroy",
    "force_release",
    "incr",
    "inspect",
    "load",
    "regenerate",
    "release",
    "renew",
    "save",
)

# A real server in the loop: an example's time says nothing about the code.
_UNHURRIED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("ci", max_examples=500, print_blob=True, **_UNHURRIED)
settings.register_profile("nightly", max_examples=10_000, print_blob=True, **_UNHURRIED)
settings.register_profile("quick", max_examples=50, **_UNHURRIED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def scripts(redis_url: str) -> None:
    """Every script is known to the server, so that each call is one EVALSHA and can be told by its SHA-1."""
    with connect(redis_url) as client:
        for name in SCRIPTS:
            client.script_load(script(name).text)


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
async def proxy(redis_url: str) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
def stored(redis_url: str) -> Iterator[Callable[..., Stored]]:
    """``stored(sid, url=None)``: what the server holds of that session."""
    with ExitStack() as stack:

        def look(sid: str, url: str | None = None) -> Stored:
            return stack.enter_context(Stored(url or redis_url, sid))

        yield look
