"""Some of the Sentinels that a guard was told of are down or hang: the others are asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis.asyncio.sentinel import Sentinel

from sessionlock import SessionGuard
from tests.harness.choice import by_default
from tests.harness.placed import free_port
from tests.harness.sentinels import NAME, Sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.deadline(60)]


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    with Sentinels(replicas=0, watchers=2, down_after_ms=10_000) as sentinels:
        yield sentinels


@pytest.fixture(params=["URL", "Sentinel"])
def made(request: pytest.FixtureRequest, sentinels: Sentinels) -> Any:
    """A guard by an URL of these addresses, or by a client that the application's Sentinel made."""

    def make(*ports: int, reply_within: float = 2.0) -> SessionGuard:
        if request.param == "URL":
            where = ",".join(f"127.0.0.1:{port}" for port in ports)
            _, _, query = sentinels.url.partition("?")
            return SessionGuard.from_url(
                f"redis+sentinel://{where}/{NAME}" + (f"?{query}" if query else ""), reply_within=reply_within
            )
        protocol = by_default(sentinels.master)
        asked = [("127.0.0.1", port) for port in ports]
        watched: Sentinel = Sentinel(asked, sentinel_kwargs=protocol)  # type: ignore[no-untyped-call]
        return SessionGuard(watched.master_for(NAME, **protocol), reply_within=reply_within)

    return make


async def works(guard: SessionGuard) -> None:
    async with guard, guard.session_lock("s", wait=5.0) as session:
        session["n"] = 1


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_nobody_listens_at_one(sentinels: Sentinels, made: Any, where: int) -> None:
    ports = [sentinel.port for sentinel in sentinels.sentinels]
    ports.insert(where, free_port())
    await works(made(*ports))


async def test_most_are_dead(sentinels: Sentinels, made: Any) -> None:
    """Whether a majority is left is the Sentinels' affair; who is asked tells what it knows."""
    await works(made(free_port(), free_port(), free_port(), sentinels.sentinels[1].port))


@pytest.mark.parametrize("hung", [0, 1])
async def test_one_hangs(sentinels: Sentinels, made: Any, hung: int) -> None:
    """Its kernel takes the connection, and nobody answers."""
    one = sentinels.sentinels[hung]
    one.pause()
    try:
        await works(made(*(sentinel.port for sentinel in sentinels.sentinels)))
    finally:
        one.resume()


async def test_most_hang(sentinels: Sentinels, made: Any) -> None:
    """However short the time for a connection is, there is enough of it for the one that answers."""
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [one.getsockname()[1] for one in silent]  # the kernel takes connections, and nobody answers
        await works(made(*ports, sentinels.sentinels[0].port, reply_within=1.0))


async def test_one_is_gone_since_it_was_asked(sentinels: Sentinels, made: Any) -> None:
    """The connection to it is open, and it hangs as the next is made to the master."""
    guard = made(*(sentinel.port for sentinel in sentinels.sentinels))
    async with guard:
        async with guard.session_lock("s") as session:
            session["n"] = 1
        one = sentinels.sentinels[0]
        one.pause()
        try:
            sentinels.master.raw.client_kill_filter(_type="normal", skipme=True)
            async with guard.session_lock("s") as session:
                session["n"] += 1
            assert (await guard.read("s"))["n"] == 2
        finally:
            one.resume()
