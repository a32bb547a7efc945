"""An application that traces itself sees what a guarded block waits for, and how long it holds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from sessionlock import LeaseLost, LeasePolicy, SessionConflict, SessionGuard, WaitTimedOut
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.integrations.opentelemetry import spans
from sessionlock.protocol.keys import keys_for

sdk = pytest.importorskip("opentelemetry.sdk.trace")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
export = pytest.importorskip("opentelemetry.sdk.trace.export")

pytestmark = pytest.mark.anyio


class Traced:
    """A tracer, and the spans that were made with it, in the order in which they ended."""

    def __init__(self) -> None:
        self._kept = memory.InMemorySpanExporter()
        provider = sdk.TracerProvider()
        provider.add_span_processor(export.SimpleSpanProcessor(self._kept))
        self.tracer = provider.get_tracer("shop")

    @property
    def spans(self) -> list[Any]:
        return list(self._kept.get_finished_spans())

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == f"sessionlock.{name}"]


@pytest.fixture
def traced() -> Traced:
    return Traced()


def outcome(span: Any) -> str:
    return str(span.attributes["sessionlock.outcome"])


async def test_a_cycle(redis_url: str, traced: Traced) -> None:
    async with SessionGuard.from_url(redis_url, observer=spans(traced.tracer)) as guard:
        with traced.tracer.start_as_current_span("request"):
            async with guard.session_lock("s") as session:
                session["n"] = 1
    wait, hold, request = traced.spans
    assert [wait.name, hold.name, request.name] == ["sessionlock.wait", "sessionlock.hold", "request"]
    for span in (wait, hold):
        assert span.parent.span_id == request.context.span_id
        assert span.attributes["sessionlock.session"] == keys_for("sl", "s").digest
        assert span.start_time <= span.end_time
    assert (outcome(wait), outcome(hold)) == ("LockGranted", "LockReleased")
    assert hold.attributes["sessionlock.fencing_token"] == wait.attributes["sessionlock.fencing_token"]
    assert [event.name for event in hold.events] == ["ChangesSaved"]


async def test_waiters(redis_url: str, traced: Traced) -> None:
    """Each in its own request, queued behind the other."""
    async with SessionGuard.from_url(redis_url, observer=spans(traced.tracer)) as guard:

        async def request(number: int) -> None:
            with traced.tracer.start_as_current_span(f"request {number}"):
                async with guard.session_lock("s"):
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(request(number) for number in range(3)))
    requests = {span.context.span_id: span.name for span in traced.spans if span.name.startswith("request")}
    assert sorted(requests[span.parent.span_id] for span in traced.named("wait")[:3]) == sorted(requests.values())
    assert sorted(requests[span.parent.span_id] for span in traced.named("hold")[:3]) == sorted(requests.values())
    queued = [span for span in traced.named("wait") if span.events]
    assert [event.name for event in queued[0].events] == ["LockQueued", "LockHandedOver"]


async def test_what_went_wrong(redis_url: str, elsewhere: SessionGuard, traced: Traced) -> None:
    async with SessionGuard.from_url(redis_url, observer=spans(traced.tracer)) as guard:
        async with elsewhere.lock("s"):
            with pytest.raises(WaitTimedOut):
                async with guard.lock("s", wait=0.01):
                    pass
        with pytest.raises(LeaseLost):
            async with guard.lock("s", lease=LeasePolicy(on_lost="flag")) as lease:
                lease.mark_lost("a test says so")
        await guard.create({"n": 1}, sid="c")
        with pytest.raises(SessionConflict):
            async with guard.session_lock("c", mode="optimistic") as session:
                session["n"] += 1
                async with guard.session_lock("c", mode="optimistic") as theirs:
                    theirs["n"] += 2
    failed = next(span for span in traced.named("wait") if outcome(span) != "LockGranted")
    assert failed.attributes["error.type"] == "WaitTimedOut"
    assert failed.events[-1].name == "exception"
    lost = next(span for span in traced.named("hold") if span.attributes.get("sessionlock.lost"))
    assert "a test says so" in str([dict(event.attributes) for event in lost.events])
    assert [outcome(span) for span in traced.named("save")] == ["ChangesSaved", "ChangesRefused"]
    assert traced.named("save")[1].attributes["error.type"] == "SessionConflict"


def test_threads(redis_url: str, traced: Traced) -> None:
    """Whoever gives back is another task of the loop behind them."""
    with BlockingGuard.from_url(redis_url, observer=spans(traced.tracer)) as guard:

        def request(number: int) -> None:
            with traced.tracer.start_as_current_span(f"request {number}"), guard.session_lock("s") as session:
                session["n"] = session.get("n", 0) + 1

        threads = [threading.Thread(target=request, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    requests = {span.context.span_id for span in traced.spans if span.name.startswith("request")}
    for name in ("wait", "hold"):
        assert {span.parent.span_id for span in traced.named(name)} == requests
    assert len(traced.spans) == 24


async def test_nothing_is_kept(redis_url: str, traced: Traced) -> None:
    observer = spans(traced.tracer)
    async with SessionGuard.from_url(redis_url, observer=observer) as guard:
        for number in range(5):
            async with guard.session_lock(f"s{number}"):
                pass
    inner: Any = observer.__self__  # type: ignore[attr-defined]
    assert not inner._waits
    assert not inner._holds
