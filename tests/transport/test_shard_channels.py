"""Sharded subscriptions of a Cluster (from 7.0 on) whose waiters leave and come while the server is being asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
import redis.asyncio

from sessionlock.embedded import find_server
from sessionlock.protocol.keys import SessionKeys, keys_for
from sessionlock.transport.cluster import ClusterRoute
from sessionlock.transport.cluster_pushes import ShardChannels
from sessionlock.transport.wire import Wire
from tests.harness.cluster import Cluster
from tests.harness.polling import eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_server().version < (7, 0), reason="sharded pub/sub came with 7.0"),
    pytest.mark.server,
]

KEYS = keys_for("sl", "s")
OTHER = keys_for("sl", "other")
WITHIN = 10.0


@pytest.fixture(scope="module")
def one_master() -> Iterator[Cluster]:
    with Cluster(masters=1, replicas=0) as cluster:
        yield cluster


class Heard:
    """The subscriptions of a process, what came by them, and what was sent for them (``sent``)."""

    def __init__(self, cluster: Cluster, client: Any) -> None:
        self._master = cluster.master_of(KEYS.lock)
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.gaps = 0
        self._unread: list[Wire] = []
        self._holds = True
        self.route = ClusterRoute(client, reply_within=WITHIN, on_break=lambda: None)
        self.channels = ShardChannels(
            self.route, "sl", reply_within=WITHIN, on_message=self.messages.put_nowait, on_gap=self._gap
        )

    def _gap(self) -> None:
        self.gaps += 1

    def noted(self, wire: Wire, words: tuple[Any, ...]) -> None:
        """Answers are not read until :meth:`read`."""
        if self._holds:
            wire._transport.pause_reading()
            self._unread.append(wire)
        self.sent.put_nowait(words[0])

    def read(self) -> None:
        for wire in self._unread:
            wire._transport.resume_reading()
        self._unread.clear()

    async def next_sent(self) -> str:
        with anyio.fail_after(WITHIN):  # goes on in the very next turn of the loop, on each Python
            return await self.sent.get()

    async def begins(self, token: str) -> asyncio.Task[bool]:
        """A waiter that subscribes: the command has been sent, and no answer has been read."""
        listening = asyncio.create_task(self.channels.listen(KEYS, token, WITHIN))
        assert await self.next_sent() == "SSUBSCRIBE"
        return listening

    async def leaves(self, listening: asyncio.Task[bool], token: str) -> None:
        """As an acquisition does that is cancelled."""
        listening.cancel()
        self.channels.no_more(KEYS, token)
        with suppress(asyncio.CancelledError):
            await listening

    async def subscribes(self, keys: SessionKeys, token: str) -> None:
        """And reads all the answers, which come in order, whatever else is sent meanwhile."""
        listening = asyncio.create_task(self.channels.listen(keys, token, WITHIN))
        assert await self.next_sent() == "SSUBSCRIBE"
        self._holds = False
        self.read()
        assert await listening
        self._holds = True

    def subscribers(self, keys: SessionKeys = KEYS) -> int:
        told = self._master.ask("PUBSUB", "SHARDNUMSUB", self.channels.channel(keys))
        return int(told[1])

    def publish(self, message: str) -> None:
        self._master.ask("SPUBLISH", self.channels.channel(KEYS), message)


@pytest.fixture
async def heard(one_master: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    host, port = one_master.startup_nodes[0]
    client: Any = redis.asyncio.RedisCluster(host=host, port=port)
    heard = Heard(one_master, client)
    tell = Wire.tell

    def noted(wire: Wire, words: tuple[Any, ...], **options: Any) -> None:
        tell(wire, words, **options)
        heard.noted(wire, words)

    monkeypatch.setattr(Wire, "tell", noted)
    yield heard
    await heard.channels.aclose()
    await heard.route.aclose()
    await client.aclose()


@pytest.mark.slow
async def test_nobody_wants_it_when_it_is_confirmed(heard: Heard) -> None:
    """Then it must not stay for ever."""
    await heard.leaves(await heard.begins("one"), "one")
    await heard.subscribes(OTHER, "other")
    assert await heard.next_sent() == "SUNSUBSCRIBE"
    await eventually(lambda: heard.subscribers() == 0, "it is given back")
    assert not heard.channels.hears(KEYS)
    assert heard.subscribers(OTHER) == 1


async def test_somebody_else_wants_it_when_it_is_confirmed(heard: Heard) -> None:
    """That one relies on it without waiting for the answer, and is told that pushes may have been missed."""
    listening = await heard.begins("one")
    heard.channels.want(KEYS, "two")
    await heard.leaves(listening, "one")
    assert (heard.channels.hears(KEYS), heard.gaps) == (False, 0)
    heard.read()
    await eventually(lambda: heard.channels.hears(KEYS), "it is heard")
    assert heard.gaps == 1
    heard.channels.no_more(KEYS, "two")
    await eventually(lambda: heard.subscribers() == 0, "it is given back")


async def test_wanted_again_before_it_is_confirmed(heard: Heard) -> None:
    """What is under way serves the next one, too."""
    await heard.leaves(await heard.begins("one"), "one")
    listening = asyncio.create_task(heard.channels.listen(KEYS, "two", WITHIN))
    await heard.subscribes(OTHER, "other")
    assert await listening
    assert (heard.channels.hears(KEYS), heard.subscribers()) == (True, 1)
    assert heard.sent.empty()


@pytest.mark.parametrize("confirmed", [False, True])
async def test_wanted_again_while_it_is_given_back(heard: Heard, confirmed: bool) -> None:
    """By one who left after it was confirmed, or before; the answers to both commands are yet to come."""
    listening = await heard.begins("one")
    if confirmed:
        heard.read()
        assert await listening
    await heard.leaves(listening, "one")
    heard.read()
    assert await heard.next_sent() == "SUNSUBSCRIBE"
    await heard.subscribes(KEYS, "two")
    assert (heard.channels.hears(KEYS), heard.subscribers()) == (True, 1)
    heard.publish("here")
    assert await asyncio.wait_for(heard.messages.get(), WITHIN) == b"here"
    heard.channels.no_more(KEYS, "two")
    await eventually(lambda: heard.subscribers() == 0, "it is given back")


async def test_left_again_while_it_is_given_back(heard: Heard) -> None:
    await heard.leaves(await heard.begins("one"), "one")
    heard.read()
    assert await heard.next_sent() == "SUNSUBSCRIBE"
    await heard.leaves(await heard.begins("two"), "two")
    heard.read()
    assert await heard.next_sent() == "SUNSUBSCRIBE"
    await eventually(lambda: heard.subscribers() == 0, "it is given back")
    assert not heard.channels.hears(KEYS)
