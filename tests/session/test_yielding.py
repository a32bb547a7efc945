"""A request without the lock that can run again does not commit what the lock's holder would meet as a conflict."""

from __future__ import annotations

from typing import Any

import pytest

from sessionlock import SessionConflict, SessionGuard, SessionPolicy
from sessionlock.integrations.web.asked import Asked
from sessionlock.integrations.web.request_session import RequestSession, RunAgain
from sessionlock.integrations.web.rules import RoutePolicy, Rules
from sessionlock.views.cookies import CookieSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["script", "watch"])
def guard(request: pytest.FixtureRequest, node: Any) -> SessionGuard:
    policy = SessionPolicy(merge={"seen": "append"})
    guard: SessionGuard = node(commit_by=request.param, session=policy)
    return guard


def a_get(guard: SessionGuard) -> RequestSession:
    return RequestSession(Asked.of(guard, CookieSettings(), RoutePolicy(), "s", rules=Rules()))


async def test_the_holder_saves_what_it_read(guard: SessionGuard) -> None:
    await guard.create({"n": 0}, sid="s")
    async with guard.session_lock("s") as held:
        held["n"] += 1
        async with a_get(guard) as visit:
            visit.mapping["n"] += 10
            with pytest.raises(RunAgain):
                await visit.finish()
    async with visit.again() as again:
        again.mapping["n"] += 10
        await again.finish()
    assert (await guard.read("s"))["n"] == 11


async def test_what_merges_does_not_wait(guard: SessionGuard) -> None:
    await guard.create({"seen": []}, sid="s")
    async with guard.session_lock("s") as held:
        held["seen"].append("post")
        async with a_get(guard) as visit:
            visit.mapping["seen"].append("get")
            await visit.finish()
    assert sorted((await guard.read("s"))["seen"]) == ["get", "post"]


async def test_nobody_waits_where_nobody_holds(guard: SessionGuard) -> None:
    await guard.create({"n": 0}, sid="s")
    async with a_get(guard) as visit:
        visit.mapping["n"] += 1
        await visit.finish()
    assert (await guard.read("s"))["n"] == 1


async def test_who_cannot_run_again_commits_as_ever(guard: SessionGuard) -> None:
    await guard.create({"n": 0}, sid="s")
    with pytest.raises(SessionConflict, match="'n'"):
        async with guard.session_lock("s") as held:
            held["n"] += 1
            async with guard.session_lock("s", mode="optimistic") as session:
                session["n"] += 10
    assert (await guard.read("s"))["n"] == 10
