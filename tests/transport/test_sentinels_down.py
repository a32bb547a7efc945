"""Some of the Sentinels that a guard was told of are down or hang: the others are asked."""

from __future__ import annotations

from collections.abc import Iterator
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

    def make(*ports: int) -> SessionGuard:
        if request.param == "URL":
            where = ",".join(f"127.0.0.1:{port}" for port in ports)
            _, _, query = sentinels.url.partition("?")
            return SessionGuard.from_url(f"redis+sentinel://{where}/{NAME}" + (f"?{query}" if query else ""))
        protocol = by_default(sentinels.master)
        asked = [("127.0.0.1", port) for port in ports]
        watched: Sentinel = Sentinel(asked, sentinel_kwargs=protocol)  # type: ignore[no-untyped-call]
        return SessionGuard(watched.master_for(NAME, **protocol))

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
