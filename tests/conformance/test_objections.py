"""Whether a wait makes sense may be asked while it lasts (``on_wait``); what is raised ends it, unless it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sessionlock import SessionGuard, WaitPolicy, WaitTimedOut
from sessionlock.lock.blocks import SessionContext
from sessionlock.lock.request import LockRequest, Question
from sessionlock.protocol.replies import Holder
from tests.conformance.topologies import Node, Record

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]
HELD = 60.0  # seconds; longer than any test
WITHIN = 10.0


class Senseless(Exception):
    """This wait would never end."""


def context_of(guard: SessionGuard, wait: float = HELD) -> SessionContext:
    context: Any = guard.session_lock("s", wait=WaitPolicy.seconds(wait))
    assert isinstance(context, SessionContext)
    return context


async def enters(context: SessionContext) -> None:
    async with context as session:
        session["seen"] = session["seen"] + 1


class Unanswered:
    """A question that is never answered."""

    def __init__(self) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


async def test_an_objection_ends_the_wait(node: Node, record: Look) -> None:
    """With who is waited for; nothing of the waiter stays behind, and the holder is not disturbed."""
    told: list[str] = []

    def object_to(request: LockRequest, holder: Holder) -> Question:
        told.append(holder.label)

        async def refuse() -> None:
            raise Senseless(request.digest)

        return refuse

    context = context_of(node())
    context.when_waiting(object_to)
    async with node().session_lock("s", label="the holder") as session:
        with pytest.raises(Senseless, match=session.name):
            await asyncio.wait_for(enters(context), WITHIN)
        assert [label.rpartition(" ")[2] for label in told] == ["holder"]
        assert record("s").waiting == []
        session["seen"] = 0
    assert record("s").free
    assert record("s").data == {"seen": 0}


async def test_who_has_no_objection_waits_on(node: Node) -> None:
    """It is asked once, however long the wait lasts."""
    asked: list[str] = []
    answered = asyncio.Event()

    async def agree() -> None:
        asked.append("agreed")
        answered.set()

    guard, context = node(), context_of(node())
    context.when_waiting(lambda wanted, holder: agree)
    async with guard.session_lock("s") as session:
        session["seen"] = 0
        waiting = asyncio.create_task(enters(context))
        await asyncio.wait_for(answered.wait(), WITHIN)
        with pytest.raises(WaitTimedOut):
            await enters(context_of(node(), wait=0.2))
        assert not waiting.done()
    await asyncio.wait_for(waiting, WITHIN)
    assert len(asked) == 1
    assert await guard.read("s") == {"seen": 1}


async def test_there_may_be_no_question(node: Node) -> None:
    """It is said once, however long the wait lasts, who is waited for."""
    told: list[str] = []
    guard, context = node(), context_of(node(), wait=0.3)
    context.when_waiting(lambda wanted, holder: told.append(holder.label))
    async with guard.session_lock("s", label="the holder"):
        with pytest.raises(WaitTimedOut):
            await enters(context)
    assert [label.rpartition(" ")[2] for label in told] == ["holder"]


async def test_a_grant_comes_before_an_objection(node: Node) -> None:
    """The lock is not withheld until the question is answered; the answer is of no interest any more."""
    question = Unanswered()
    guard, context = node(), context_of(node())
    context.when_waiting(lambda wanted, holder: question)
    async with guard.session_lock("s") as session:
        session["seen"] = 0
        waiting = asyncio.create_task(enters(context))
        await asyncio.wait_for(question.asked.wait(), WITHIN)
    await asyncio.wait_for(waiting, WITHIN)
    await asyncio.wait_for(question.left.wait(), WITHIN)
    assert await guard.read("s") == {"seen": 1}


async def test_nobody_is_asked_without_a_wait(node: Node) -> None:
    def object_to(request: LockRequest, holder: Holder) -> Question | None:
        raise Senseless

    guard, context = node(), context_of(node())
    await guard.create({"seen": 0}, sid="s")
    context.when_waiting(object_to)
    await enters(context)
    assert await guard.read("s") == {"seen": 1}


async def test_a_waiter_that_is_cancelled_while_it_asks(node: Node, record: Look) -> None:
    question = Unanswered()
    context = context_of(node())
    context.when_waiting(lambda wanted, holder: question)
    async with node().session_lock("s"):
        waiting = asyncio.create_task(enters(context))
        await asyncio.wait_for(question.asked.wait(), WITHIN)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(question.left.wait(), WITHIN)
        assert record("s").waiting == []
    assert record("s").free
