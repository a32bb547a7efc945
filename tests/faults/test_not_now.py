"""A save that was refused for the moment: it is made again, once, whoever refused it and whether it was done or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sessionlock import RedisUnavailable
from sessionlock.observe import CallRepeated
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = [pytest.mark.anyio, pytest.mark.server]

# What those before a server say of their own accord.
UNSERVED = [
    "no upstream host",
    "ERR Connection refused",
    "ERR Host is unreachable",
    "ERR no server connection avaliable",
    "ERR no server avaliable",
    "ERR max requests per second limit exceeded",
    "ERR max concurrent connections exceeded",
    "ERR max number of clients reached",
    "ERR request rate limit exceeded",
    "ERR slot-0017 is not ready, may be offline",
    "ERR temporarily unavailable",
]
LOST = [
    "upstream failure",
    "upstream protocol error",
    "ERR Connection timed out",
    "ERR Connection reset by peer",
    "ERR server connection close",
    "ERR deliver request fail",
    "ERR handle response, backend conn reset",
    "ERR Server closed the connection",
    "ERR Cluster node disconnected: 10.0.0.1:7000",
]


async def test_whoever_refused_it_and_whether_it_was_done(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard, session = node(proxy.url), stored("s")
    await guard.inspect("s")
    n = 0
    for says, does in [*((says, False) for says in (*UNSERVED, *LOST)), *((says, True) for says in LOST)]:
        fault = proxy.refuse_next(says, calls_of("release"), does=does)
        async with guard.session_lock("s") as held:
            held["n"] = n = n + 1
        assert fault.count == 1, says
        assert session.data["n"] == n
        assert session.free
        fault = proxy.refuse_next(says, calls_of("incr"), does=does)
        assert await guard.incr("s", "i") == n, says
        assert fault.count == 1, says


async def test_what_is_not_for_the_moment_is_told_at_once(proxy: FaultyProxy, node: MakeGuard) -> None:
    guard = node(proxy.url)
    await guard.inspect("s")
    for n, says in enumerate(
        (
            "ERR max requests limit exceeded. Limit: 500000, Usage: 500000.",
            "ERR max daily request limit exceeded",
            "NOPERM User app has no permissions: connection reset",
            "ERR Error running script (call to f_1): @user_script:1: server connection close",
        )
    ):
        fault = proxy.refuse_next(says, calls_of("release"), times=1000)
        with pytest.raises(RedisUnavailable, match="refused the release call"):
            async with guard.session_lock(f"s{n}") as held:
                held["n"] = says
        assert fault.count == 2, f"{says}: the save, and giving the lock up"
        fault.disarm()


async def test_it_stays_so(proxy: FaultyProxy, node: MakeGuard) -> None:
    """Then it is told what is known of the save, and what to look at."""
    guard = node(proxy.url, retry_for=0.3)
    for says in ("no upstream host", "upstream failure"):
        proxy.refuse_next(says, calls_of("release"), times=1000)
        with pytest.raises(RedisUnavailable, match="whether it took effect is unknown") as met:
            async with guard.session_lock(says.replace(" ", "-")) as held:
                held["n"] = 1
        assert "what stands between" in str(met.value)
        proxy.heal()


@pytest.fixture
def plighted(own_server: Callable[..., FaultyServer]) -> FaultyServer:
    return own_server()


async def test_memory_that_is_full_for_a_moment(
    plighted: FaultyServer, node: MakeGuard, caplog: pytest.LogCaptureFixture
) -> None:
    """A save waits for its end, as for replicas that are away. What begins is refused at once: nothing is lost."""
    again = asyncio.Event()
    guard = node(
        plighted.url, retry_for=20.0, observer=lambda event: again.set() if isinstance(event, CallRepeated) else None
    )
    with connect(plighted.url) as client:
        await guard.create({"n": 0}, sid="s")
        client.config_set("maxmemory", 1)
        with pytest.raises(RedisUnavailable, match="refused the acquire call: OOM"):
            async with guard.session_lock("other"):
                raise AssertionError("entered")
        client.config_set("maxmemory", 0)

        async def hold() -> None:
            async with guard.session_lock("s") as held:
                held["n"] = 1
                client.config_set("maxmemory", 1)

        holding = asyncio.ensure_future(hold())
        await asyncio.wait_for(again.wait(), 10)  # it was refused once, and is made again
        client.config_set("maxmemory", 0)
        await holding
        assert dict(await guard.read("s")) == {"n": 1}


async def test_memory_that_stays_full(plighted: FaultyServer, node: MakeGuard) -> None:
    """It is known that nothing was saved, and the lock is given up at once."""
    guard = node(plighted.url, retry_for=0.3)
    with connect(plighted.url) as client:
        await guard.create({"n": 0}, sid="s")
        with pytest.raises(RedisUnavailable, match="cannot serve the release call now: OOM") as met:
            async with guard.session_lock("s") as held:
                held["n"] = 1
                client.config_set("maxmemory", 1)
        assert met.value.refused
        assert not client.exists(keys_for("sl", "s").lock)
        client.config_set("maxmemory", 0)
        assert dict(await guard.read("s")) == {"n": 0}
