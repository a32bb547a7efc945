"""What the tests of real deployments share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from sessionlock import LeaseLost, LeasePolicy, Session, SessionGuard, SessionLockError
from sessionlock.protocol.keys import keys_for

__all__ = [
    "FOR_A_WHILE",
    "LONG",
    "LONG_SECONDS",
    "SID",
    "SIDS",
    "MakeGuard",
    "Tell",
    "fence_of",
    "held_and_waited_for",
    "lock_of",
    "only_the_second_saves",
]

SID = "s"
SIDS = ("one", "two", "three")  # for the processes that count
LONG_SECONDS = 60.0

Tell = Callable[[str], None]
MakeGuard = Callable[..., SessionGuard]

LONG = pytest.mark.skipif(
    "SESSIONLOCK_LONG" not in os.environ, reason="a minute of faults for each: set SESSIONLOCK_LONG=1 to have it"
)

_DURABLE = pytest.mark.parametrize("durable", [0, 1])
_SECONDS = pytest.mark.parametrize("seconds", [1.0, pytest.param(LONG_SECONDS, marks=LONG)])


def FOR_A_WHILE(test: Any) -> Any:
    """With and without waiting for a replica; for a second, and for a minute where one has asked for that."""
    return pytest.mark.once(_SECONDS(_DURABLE(test)))


def lock_of(sid: str) -> bytes:
    """The key of the session's lock: where that is, all of the session is."""
    return keys_for("sl", sid).lock


def fence_of(session: Session) -> int:
    assert session.lease is not None
    return session.lease.fencing_token


@asynccontextmanager
async def held_and_waited_for(holder: SessionGuard, waiter: SessionGuard) -> AsyncIterator[None]:
    """In the body the session is held, and somebody asks for it; who in the end has had it, with a later fence."""
    fences = []

    async def wait_for_it() -> None:
        async with waiter.session_lock(SID) as session:
            fences.append(fence_of(session))
            session["waited"] = True

    async with anyio.create_task_group() as tasks, holder.session_lock(SID) as session:
        fences.append(fence_of(session))
        session["held"] = True
        tasks.start_soon(wait_for_it)
        yield
    assert dict(await holder.read(SID)) == {"held": True, "waited": True}
    assert len(fences) == 2
    assert fences == sorted(set(fences))


async def only_the_second_saves(
    first: SessionGuard, second: SessionGuard, replace_the_master: Callable[[], Awaitable[object]]
) -> None:
    """The first holds the session at a master that is replaced by one that does not know; the second gets it there."""
    saved: list[str] = []
    refused: SessionLockError | None = None
    fences = []
    try:
        async with first.session_lock(SID, lease=LeasePolicy(renew=False)) as session:
            fences.append(fence_of(session))
            session["by"] = [*session["by"], "first"]
            await replace_the_master()
            async with second.session_lock(SID) as other:
                fences.append(fence_of(other))
                other["by"] = [*other["by"], "second"]
            saved.append("second")
        saved.append("first")
    except SessionLockError as error:
        refused = error
    assert saved == ["second"]
    assert isinstance(refused, LeaseLost)
    assert (await second.read(SID))["by"] == ["nobody", "second"]
    assert fences == sorted(set(fences))
