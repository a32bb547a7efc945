"""Transactions without the lock: tried again, on the state that won, until an attempt commits without a conflict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from ..errors import ReadOnlySession, SessionConflict
from ..protocol.replies import Conflict, Snapshot
from .block import used_twice
from .data import listed
from .mapping import Session
from .unlocked import Unlocked

__all__ = ["Attempt", "attempts"]


class Attempt:
    """One attempt of a transaction: ``async with attempt as session``. A conflict ends it; the next follows."""

    def __init__(self, wanted: Unlocked, snapshot: Snapshot) -> None:
        self._wanted = wanted
        self._session = wanted.session(snapshot, _OnlyAtTheEnd(wanted.keys.digest))
        self.conflict: Conflict | None = None
        self._entered = False

    async def __aenter__(self) -> Session:
        if self._entered:
            raise used_twice()
        self._entered = True
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._session.close("belongs to an attempt that is over")
        if error is None:
            self.conflict = await self._wanted.commit(self._session, merges=0)

    def exhausted(self, conflict: Conflict) -> SessionConflict:
        """The error when there is no attempt after this one."""
        theirs = self._session.data.theirs(conflict)
        what = f"{listed(theirs)} was changed by others at every attempt; nothing was saved"
        return self._session.data.conflict(f": {what}. Allow more attempts, or take the lock", theirs)


class _OnlyAtTheEnd:
    """An attempt may run again, so nothing of it may take effect before its commit."""

    def __init__(self, name: str) -> None:
        self._name = name

    def changed(self) -> None:
        """Nothing to do before the end."""

    def _refuse(self, what: str) -> ReadOnlySession:
        return ReadOnlySession(
            f"session {self._name} is in a transaction, which may run again: {what} would take effect twice."
            " Use plain changes (+= counts under merge 'counter'), or do it after the transaction"
        )

    async def save(self) -> None:
        raise self._refuse("save()")

    async def release(self) -> None:
        raise self._refuse("release()")

    async def incr(self, key: str, by: int) -> int:
        raise self._refuse("incr()")

    async def regenerate(self, grace: float) -> str:
        raise self._refuse("regenerate()")

    async def destroy(self) -> None:
        raise self._refuse("destroy()")


class _Conflicted(Exception):
    def __init__(self, conflict: Conflict) -> None:
        self.conflict = conflict


def default_tries() -> AsyncRetrying:
    """Ten attempts, a few random milliseconds apart so that two clashing requests do not stay in step."""
    return AsyncRetrying(stop=stop_after_attempt(10), wait=wait_random(0, 0.02))


async def attempts(wanted: Unlocked, retry: AsyncRetrying | None) -> AsyncIterator[Attempt]:
    """Attempts until one commits; the state for the next comes with the conflict, not from another load.

    Raises:
        SessionConflict: the policy's last attempt met a conflict too; names the keys with both values.
    """
    snapshot = await wanted.load()
    tries = (retry or default_tries()).copy(retry=retry_if_exception_type(_Conflicted), reraise=True)
    try:
        async for one in tries:
            with one:
                attempt = Attempt(wanted, snapshot)
                yield attempt
                if attempt.conflict is not None:
                    snapshot = attempt.conflict.snapshot or await wanted.load()
                    raise _Conflicted(attempt.conflict)
    except _Conflicted as last:
        error = attempt.exhausted(last.conflict)
        wanted.tell_refused(error)
        raise error from None
