"""The absolute end is the end, only the current id can be replaced, and the limit holds for every way in."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from sessionlock import LeasePolicy, SessionNotFound, SessionPolicy, SessionTooLarge
from sessionlock.protocol.keys import user_digest, user_key
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

MOST_OLD = 8


async def ended(session: Stored) -> None:
    """Its absolute end has come, and Redis has not cleaned up."""
    session.client.hset(session.keys.session, "#expires", session.now_us - 1)
    session.client.persist(session.keys.session)


# --- the absolute end


async def test_a_cancelled_waiter_puts_no_end_off(node: MakeGuard, stored: Look) -> None:
    session, guard = stored("s"), node(session=SessionPolicy(absolute=5))
    await guard.create({"user": "ada"}, sid="s")

    async def waits() -> None:
        async with guard.session_lock("s"):
            pass

    async with guard.session_lock("s"):
        waiter = asyncio.ensure_future(waits())
        await session.until(lambda s: len(s.waiting) == 1)
        waiter.cancel()
        await asyncio.wait([waiter])
        assert 0 < int(session.client.pttl(session.keys.session)) <= 5_000


@pytest.mark.parametrize("grace", [0, 30])
async def test_a_new_id_puts_no_end_off(node: MakeGuard, stored: Look, grace: float) -> None:
    session, guard = stored("s"), node(session=SessionPolicy(absolute=5))
    await guard.create({"user": "ada"}, sid="s")
    await guard.regenerate("s", grace=grace)
    assert 0 < int(session.client.pttl(session.keys.session)) <= 5_000


@pytest.mark.parametrize("commit_by", ["script", "watch"])
async def test_a_commit_after_the_end(node: MakeGuard, stored: Look, commit_by: str) -> None:
    session, guard = stored("s"), node(session=SessionPolicy(absolute=60), commit_by=commit_by)
    await guard.create({"old": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s", mode="optimistic") as late:
            late["n"] = 1
            await ended(session)
    async with guard.session_lock("s", mode="optimistic") as new:
        assert dict(new) == {}
        new["n"] = 2
    assert session.data == {"n": 2}
    assert 0 < int(session.client.pttl(session.keys.session)) <= 60_000


@pytest.mark.parametrize("ends", [True, False])
async def test_leaving_after_the_end(node: MakeGuard, stored: Look, ends: bool) -> None:
    """The holder loaded it before; the end has come since, and Redis has not cleaned up."""
    session, guard = stored("s"), node(session=SessionPolicy(absolute=60))
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(SessionNotFound) if ends else nullcontext():
        async with guard.session_lock("s") as held:
            held["n"] = 2
            if ends:
                await ended(session)
    assert session.data == {"n": 1 if ends else 2}
    assert session.free


async def test_counting_saving_and_renaming_after_the_end(node: MakeGuard, stored: Look) -> None:
    session, guard = stored("s"), node(session=SessionPolicy(absolute=60))
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s", lease=LeasePolicy(renew=False)) as held:
            held["n"] = 2
            await ended(session)
            await held.save()
    await ended(session)
    with pytest.raises(SessionNotFound):
        await guard.incr("s", "n")
    with pytest.raises(SessionNotFound):
        await guard.regenerate("s")
    with pytest.raises(SessionNotFound):
        await guard.read("s")


# --- ids


async def test_an_older_id_cannot_be_replaced(node: MakeGuard, stored: Look) -> None:
    """Who has stolen it has it for its grace, and no longer."""
    guard = node()
    await guard.create({"user": "ada"}, sid="s")
    current = await guard.regenerate("s", grace=30)
    assert (await guard.read("s"))["user"] == "ada"
    with pytest.raises(SessionNotFound) as told:
        await guard.regenerate("s")
    assert told.value.replaced
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s") as held:
            await held.regenerate()
    assert (await guard.read(current))["user"] == "ada"
    assert await guard.regenerate(current)


async def test_the_list_of_older_ids_is_bounded(node: MakeGuard, stored: Look) -> None:
    session, guard = stored("s"), node()
    await guard.create({}, sid="s")
    sid = "s"
    for _ in range(3 * MOST_OLD):
        sid = await guard.regenerate(sid, grace=60)
    old = session.client.hget(session.keys.session, "#old")
    assert old is not None
    assert len(old.split()) == MOST_OLD


async def test_destroying_a_renewed_id_whose_reply_is_lost(proxy: FaultyProxy, node: MakeGuard) -> None:
    guard = node(proxy.url)
    await guard.create({"n": 1}, sid="s")
    sid = await guard.regenerate("s")
    dropped = proxy.drop_next_reply(calls_of("destroy"))
    assert await guard.destroy(sid) is True
    assert dropped.count == 1


@pytest.mark.parametrize("how", ["guard", "block", "optimistic"])
async def test_the_index_of_a_user_loses_what_was_destroyed(node: MakeGuard, stored: Look, how: str) -> None:
    session, guard = stored("s"), node()
    await guard.create({"n": 1}, sid="s")
    await guard.bind("s", "ada")
    index = user_key("sl", user_digest("ada"))
    assert session.client.zcard(index) == 1
    if how == "guard":
        await guard.destroy("s")
    else:
        async with guard.session_lock("s", mode="lock" if how == "block" else "optimistic") as held:
            await held.destroy()
    await session.until(lambda s: s.client.zcard(index) == 0)


# --- limits

SMALL = SessionPolicy(max_session=1000, max_field=600)


async def test_parallel_commits_are_measured_together(node: MakeGuard, stored: Look) -> None:
    guard = node(session=SMALL)
    await guard.create({}, sid="s")
    begun = asyncio.Barrier(5) if hasattr(asyncio, "Barrier") else None

    async def add(number: int) -> None:
        async with guard.session_lock("s", mode="optimistic") as session:
            if begun is not None:
                await begun.wait()
            session[f"k{number}"] = "v" * 300

    outcomes = await asyncio.gather(*map(add, range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, SessionTooLarge) for outcome in outcomes) == 2
    assert len(stored("s").data) == 3


@pytest.mark.parametrize("how", ["save", "release"])
async def test_what_others_stored_counts_under_the_lock(node: MakeGuard, stored: Look, how: str) -> None:
    guard = node(session=SMALL)
    await guard.create({}, sid="s")
    with pytest.raises(SessionTooLarge) as told:
        async with guard.session_lock("s") as held:
            async with guard.session_lock("s", mode="optimistic") as other:
                other["theirs"] = "v" * 590
            held["ours"] = "v" * 590
            if how == "save":
                await held.save()
    assert told.value.keys == ("ours",)
    assert list(stored("s").data) == ["theirs"]
    assert stored("s").free


async def test_an_increment_is_no_way_around_the_limits(node: MakeGuard, stored: Look) -> None:
    guard = node(session=SMALL)
    await guard.create({"n": "v" * 590, "c": 1}, sid="s")
    with pytest.raises(SessionTooLarge):
        await guard.incr("s", "k" * 700)
    with pytest.raises(SessionTooLarge):
        await guard.incr("s", "k" * 500)
    async with guard.session_lock("s") as held:
        with pytest.raises(SessionTooLarge):
            await held.incr("k" * 500)
        assert await held.incr("c") == 2
    assert sorted(stored("s").data) == ["c", "n"]


# --- a refusal is final


async def test_a_refused_increment_is_never_done(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """There was no session when it was repeated; its first try arrives when there is one."""
    guard, other, session = node(proxy.url, reply_within=0.2), node(), stored("s")
    await guard.inspect("s")
    proxy.hold_requests(calls_of("incr"))
    with pytest.raises(SessionNotFound):
        await guard.incr("s", "n")
    assert proxy.held.is_set()
    await other.create({"n": 1}, sid="s")
    assert await proxy.let_go() >= 1
    assert session.data == {"n": 1}


async def test_a_release_that_was_refused_is_not_done_already(
    proxy: FaultyProxy, node: MakeGuard, stored: Look
) -> None:
    """The record was gone; that reply is lost, and asked again Redis does not say that it was saved."""
    guard, session = node(proxy.url), stored("s")
    await guard.create({"n": 1}, sid="s")
    dropped = proxy.drop_next_reply(calls_of("release"))
    with pytest.raises(Exception, match=r"lost|expired"):
        async with guard.session_lock("s") as held:
            held["n"] = 2
            session.client.delete(session.keys.session)
    assert dropped.count == 1
    assert session.data == {}
