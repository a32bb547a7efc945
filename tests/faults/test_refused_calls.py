"""A call that was refused, while an earlier try of it is still under way: what becomes of that one is what counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessionlock import OutcomeUnknown, SessionGuard, SessionNotFound
from sessionlock.protocol.calls import Abandon, Call
from sessionlock.transport.executor import RedisExecutor
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = [pytest.mark.anyio, pytest.mark.server]

Ask = Callable[[SessionGuard], Awaitable[object]]
Arrange = Callable[[Callable[[], Awaitable[object]]], None]


async def count(guard: SessionGuard) -> object:
    return await guard.incr("s", "n")


async def bind(guard: SessionGuard) -> object:
    await guard.bind("s", "user")
    return None


async def make(guard: SessionGuard) -> object:
    return (await guard.create({"n": 1}, sid="s")).sid


@pytest.fixture
def before_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """Makes something happen between a refusal and the call that gives up what may still come."""

    def arrange(step: Callable[[], Awaitable[object]]) -> None:
        once = RedisExecutor.run

        async def run(self: RedisExecutor, call: Call[Any], *limit: float) -> object:
            if isinstance(call, Abandon):
                monkeypatch.undo()
                await step()
            return await once(self, call, *limit)

        monkeypatch.setattr(RedisExecutor, "run", run)

    return arrange


@pytest.mark.parametrize(("ask", "script", "answer"), [(count, "incr", 1), (bind, "bind", None), (make, "create", "s")])
async def test_it_is_carried_out_after_all(
    proxy: FaultyProxy,
    node: MakeGuard,
    stored: Look,
    before_it_is_given_up: Arrange,
    ask: Ask,
    script: str,
    answer: object,
) -> None:
    """The repetition was refused, then the first try came and did it: that is the answer, and it is done once."""
    other, guard, session = node(), node(proxy.url, reply_within=0.2), stored("s")
    await guard.inspect("s")
    if ask is make:
        await other.create({"old": 1}, sid="s")

    async def it_comes() -> None:
        if ask is make:
            session.client.delete(session.keys.session)
        else:
            await other.create({"other": 1}, sid="s")
        assert await proxy.let_go() >= 1

    proxy.hold_requests(calls_of(script))
    before_it_is_given_up(it_comes)
    assert await ask(guard) == answer
    if ask is bind:
        assert len(await other.sessions_of("user")) == 1
    else:
        assert session.data["n"] == 1


async def test_it_comes_when_it_was_given_up(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Then it does nothing, as was said."""
    other, guard = node(), node(proxy.url, reply_within=0.2)
    await guard.inspect("s")
    proxy.hold_requests(calls_of("incr"))
    with pytest.raises(SessionNotFound):
        await count(guard)
    await other.create({"other": 1}, sid="s")
    assert await proxy.let_go() >= 1
    assert stored("s").data == {"other": 1}


async def test_it_cannot_be_given_up(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, before_it_is_given_up: Arrange
) -> None:
    """Redis does not answer any more: nobody knows what will become of the first try, and nobody waits to know."""
    other, guard = node(), node(proxy.url, reply_within=0.2, retry_for=1.0)
    await guard.inspect("s")

    async def silence() -> None:
        proxy.blackhole("replies")

    parked = proxy.hold_requests(calls_of("incr"))
    before_it_is_given_up(silence)
    with pytest.raises(OutcomeUnknown, match="not known"):
        await count(guard)
    await parked.wait()
    proxy.heal()
    await other.create({"other": 1}, sid="s")


async def test_it_is_forgotten_whether_it_was_done(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, before_it_is_given_up: Arrange
) -> None:
    """What would tell was dropped between the refusal and the giving up."""
    guard, session = node(proxy.url, reply_within=0.2), stored("s")
    await guard.inspect("s")

    async def is_dropped() -> None:
        state = b"0" * 49 + b"-" * 26 + b"somebodyelse" + b"%016d" % 1 * 2
        session.client.hset(session.keys.session, mapping={"#floor": "9" * 16, "#state": state})

    parked = proxy.hold_requests(calls_of("incr"))
    before_it_is_given_up(is_dropped)
    with pytest.raises(OutcomeUnknown):
        await count(guard)
    await parked.wait()
