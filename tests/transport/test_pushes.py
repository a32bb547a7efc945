"""Where pushes are heard: at the server that the calls go to, and at a master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from sessionlock.embedded import EmbeddedServer
from sessionlock.policies import LeasePolicy
from sessionlock.protocol.calls import Acquire
from sessionlock.protocol.keys import keys_for
from sessionlock.transport.one_server import ServerRoute
from sessionlock.transport.pushes import ProcessChannel
from sessionlock.transport.route import NotNow
from tests.harness.choice import by_default
from tests.harness.commands import connect
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio

KEYS = keys_for("sl", "s")
WITHIN = 10.0
OwnServer = Callable[..., EmbeddedServer]


class Place:
    """A master with a replica, and one client that is led to either: by Sentinel, or by a name in DNS."""

    def __init__(self, stack: AsyncExitStack, own_server: OwnServer) -> None:
        self.servers = [own_server(tcp=True), own_server(tcp=True)]
        self.ports = [int(urlsplit(server.tcp_url).port or 0) for server in self.servers]
        self.client: Any = redis.asyncio.Redis(port=self.ports[0], **by_default(self.servers[0]))
        stack.push_async_callback(self.client.aclose)
        self.gaps = 0
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()

    def lead_to(self, number: int) -> None:
        self.client.connection_pool.connection_kwargs["port"] = self.ports[number]

    def replicate(self, number: int, of: int | None) -> None:
        with connect(self.servers[number].tcp_url) as raw:
            raw.replicaof(*(("NO", "ONE") if of is None else ("127.0.0.1", self.ports[of])))

    def listeners(self, number: int) -> int:
        with connect(self.servers[number].tcp_url) as raw:
            told: Any = raw.pubsub_numsub("sl:push:p")
            return int(told[0][1])

    def gap(self) -> None:
        self.gaps += 1


@pytest.fixture
async def place(own_server: OwnServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(stack, own_server)


@pytest.fixture
async def route(place: Place) -> AsyncIterator[ServerRoute]:
    route = ServerRoute(place.client, reply_within=WITHIN, on_break=lambda: None)
    yield route
    await route.aclose()


@pytest.fixture
async def pushes(place: Place, route: ServerRoute) -> AsyncIterator[ProcessChannel]:
    channel = ProcessChannel(
        place.client,
        "sl:push:p",
        reply_within=WITHIN,
        on_message=place.messages.put_nowait,
        on_gap=place.gap,
        calls_go_to=lambda: route.link.leads_to,
    )
    yield channel
    await channel.aclose()


async def test_a_replica_is_not_listened_to(place: Place, pushes: ProcessChannel) -> None:
    """It accepts the subscription, but its master would count nobody."""
    place.replicate(0, of=1)
    assert not await pushes.listen(KEYS, "t", WITHIN)
    assert (pushes.hears(KEYS), place.listeners(0)) == (False, 0)
    place.replicate(0, of=None)
    await eventually_listens(pushes)
    assert place.listeners(0) == 1


async def eventually_listens(pushes: ProcessChannel) -> None:
    while not await pushes.listen(KEYS, "t", WITHIN):
        await asyncio.sleep(0.05)  # subscribing is not tried again at once


async def test_it_follows_the_calls(place: Place, route: ServerRoute, pushes: ProcessChannel) -> None:
    await route.ask("PING")
    assert await pushes.listen(KEYS, "t", WITHIN)
    pushes.check()
    assert pushes.hears(KEYS)
    place.lead_to(1)
    route.close()
    pushes.check()
    assert pushes.hears(KEYS), "where the calls will go to is not known yet"
    await route.ask("PING")
    pushes.check()
    assert (pushes.hears(KEYS), place.gaps) == (False, 2)
    assert await pushes.listen(KEYS, "t", WITHIN)
    assert (place.listeners(0), place.listeners(1)) == (0, 1)


async def test_a_master_that_has_become_a_replica_is_left(
    place: Place, route: ServerRoute, pushes: ProcessChannel
) -> None:
    """Nothing tells who only listens there, and it hears all the same what is published at the new master; a call finds
    out. The address may stay the same, where it is a name."""
    await route.ask("PING")
    assert await pushes.listen(KEYS, "t", WITHIN)
    place.replicate(0, of=1)
    with pytest.raises(NotNow):
        await route.send(Acquire(KEYS, "t", LeasePolicy(), None))
    await route.ask("PING")
    pushes.check()
    assert not pushes.hears(KEYS)


async def test_a_subscription_that_the_server_has_dropped_is_made_again(place: Place, pushes: ProcessChannel) -> None:
    """The connection lives, but nothing is subscribed on it any more."""
    assert await pushes.listen(KEYS, "t", WITHIN)
    ear: Any = pushes._ear
    ear.wire.tell(("UNSUBSCRIBE", "sl:push:p"))
    await eventually(lambda: place.listeners(0) == 0, "it is dropped")
    pushes.mistrust()
    await eventually(lambda: place.listeners(0) == 1, "it is there again")


async def test_closing_cancels_nobody_who_waits_for_the_subscription() -> None:
    connecting = asyncio.Event()

    async def for_ever(**_hooks: Any) -> Any:
        connecting.set()
        await asyncio.Event().wait()

    nobody = {"on_message": lambda _message: None, "on_gap": lambda: None}
    pushes = ProcessChannel(None, "sl:push:p", reply_within=WITHIN, connect=for_ever, **nobody)  # type: ignore[arg-type]
    waiting = asyncio.create_task(pushes.listen(KEYS, "t", WITHIN))
    await connecting.wait()
    await pushes.aclose()
    await asyncio.wait([waiting])
    assert not waiting.cancelled()
    assert not await waiting
