"""A plain command right behind a call, in the same write: both replies, or neither."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sessionlock
from sessionlock import RedisUnavailable, SessionGuard
from sessionlock.protocol.calls import Call, Renew
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.record_calls import Expire
from sessionlock.transport.cluster import slot_of
from tests.harness.cluster import Cluster
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of, forget_scripts

pytestmark = [pytest.mark.anyio, pytest.mark.server]

KEYS = keys_for("sl", "s")


class ExpireAndLook(Expire):
    """Its outcome is what came back."""

    __slots__ = ()

    def behind(self) -> tuple[Any, ...]:
        return ("HGET", self.keys.session, "n")

    def outcome(self, reply: Any) -> Any:
        return reply


class RenewAndLook(Renew):
    __slots__ = ()

    def behind(self) -> tuple[Any, ...]:
        return ("HGET", self.keys.session, "n")

    def outcome(self, reply: Any) -> Any:
        return reply


class ExpireAndCount(ExpireAndLook):
    __slots__ = ()

    def behind(self) -> tuple[Any, ...]:
        return ("HLEN", self.keys.lock, "too many words")


def run(guard: SessionGuard, call: Call[Any]) -> Any:
    return guard.runtime().executor.run(call)


LOOKED = ([b"kept", 1], b"1")


async def test_both_replies(node: MakeGuard, redis_url: str) -> None:
    guard = node()
    await guard.create({"n": 1}, sid="s")
    assert await run(guard, ExpireAndLook(KEYS, 60_000)) == LOOKED
    # Amid others of the same tick, of which some are given up.
    calls = [asyncio.ensure_future(run(guard, ExpireAndLook(KEYS, 60_000))) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answer for place, answer in enumerate(answers) if place % 3] == [LOOKED] * 13
    assert await run(guard, Expire(KEYS, 60_000)) is not None


async def test_the_script_was_forgotten(node: MakeGuard, redis_url: str) -> None:
    """It looks again behind the second try."""
    guard = node()
    await guard.create({"n": 1}, sid="s")
    with connect(redis_url) as client:
        for _ in range(3):
            forget_scripts(client)
            assert await run(guard, ExpireAndLook(KEYS, 60_000)) == LOOKED


async def test_what_is_refused_behind_it_is_refused(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(RedisUnavailable, match="wrong number of arguments") as met:
        await run(guard, ExpireAndCount(KEYS, 60_000))
    assert met.value.refused
    assert await run(guard, ExpireAndLook(KEYS, 60_000)) == LOOKED


@pytest.mark.parametrize("lost", [b"HGET", calls_of("expire")], ids=["the-second-reply", "both-replies"])
async def test_the_connection_is_lost(node: MakeGuard, proxy: FaultyProxy, lost: Any) -> None:
    guard = node(proxy.url)
    await guard.create({"n": 1}, sid="s")
    fault = proxy.drop_next_reply(lost)
    assert await run(guard, ExpireAndLook(KEYS, 60_000)) == LOOKED
    assert fault.count == 1


async def test_saves_that_wait_for_replicas(own_server: Any) -> None:
    server: FaultyServer = own_server()
    durability = sessionlock.Replicated(replicas=1, within=0.01)
    async with SessionGuard.from_url(server.unix_url, durability=durability) as guard:
        await guard.create({"n": 1}, sid="s")
        with connect(server.unix_url) as client:
            forget_scripts(client)
        call: Call[Any] = ExpireAndLook(KEYS, 60_000)
        reply, reached = await guard.runtime().executor.save(call)
        assert reply == LOOKED
        assert reached is not None
        assert not reached.enough


async def test_fakeredis() -> None:
    with pytest.warns(sessionlock.MemoryStoreWarning):
        guard = SessionGuard.from_url("memory://behind")
    async with guard:
        await guard.create({"n": 1}, sid="s")
        assert await run(guard, ExpireAndLook(KEYS, 60_000)) == LOOKED


async def test_a_slot_that_is_being_moved(cluster: Cluster, node: MakeGuard) -> None:
    """The node that takes the slot over serves each of the two only behind an ASKING of its own."""
    guard = node(cluster.url)
    await guard.create({"n": 1}, sid="s")
    slot = slot_of(KEYS)
    target = next(master for master in cluster.masters if master is not cluster.master_of(KEYS.lock))
    cluster.raw_for(KEYS.lock).set(KEYS.lock, "token", px=60_000)
    source = await cluster.begin_migration(slot, target)
    try:
        cluster.move_keys(slot, source, target)
        renewed = RenewAndLook([(KEYS, "token", 60_000)])  # of keys that are all there: no "try again"
        assert await run(guard, renewed) == ([1], b"1")
    finally:
        await cluster.finish_migration(slot, source, target)
    try:
        assert await run(guard, renewed) == ([1], b"1")  # redirected for good
    finally:
        await cluster.migrate_slot(slot, source)
