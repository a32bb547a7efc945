"""Requests that do not wait: ``read``, ``optimistic`` and ``last_write_wins``, and transactions that try again.

The commit compares what was read of each changed key with what is there. On a conflict the reply brings the current
state; keys that have a merge strategy are merged and committed in a second call, anything else is a
:class:`~sessionlock.SessionConflict` (or, in a transaction, another attempt on the current state).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from ..codecs.base import Codec
from ..errors import ReadOnlySession, SessionConflict
from ..policies import SessionPolicy
from ..protocol.keys import SessionKeys
from ..protocol.replies import EMPTY, Change, Conflict, Refused, Snapshot, outdated, refusal
from ..transport.executor import Executor
from .block import used_twice
from .commit_watch import Engine
from .mapping import ALL_KEYS, Session
from .merge import MISSING
from .operations import NEW, StoredSession

__all__ = ["Attempt", "BeginningContext", "Unlocked", "UnlockedContext", "attempts"]

UnlockedMode = Literal["read", "optimistic", "last_write_wins"]
MOST_MERGES = 10


class Home(Protocol):
    """Where a block belongs: what a guard keeps for one event loop, as far as it is needed here."""

    @property
    def executor(self) -> Executor: ...

    def at_home(self, work: Coroutine[Any, Any, Any], /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What is to be loaded, and how it will be saved. ``expected_version``: refuse any other (an ETag).
    ``serializable``: what was read and not changed is compared, too. ``yields``: what the holder of the lock could meet
    as a conflict is not committed while there is one.
    """

    keys: SessionKeys
    sid: str = field(repr=False)  # the secret: not for tools that print locals
    engine: Engine
    codec: Codec
    policy: SessionPolicy
    mode: UnlockedMode
    missing: str
    expected_version: int | None
    exact: bool
    serializable: bool = False
    yields: bool = False

    async def load(self) -> Snapshot:
        """Raises :class:`~sessionlock.SessionDestroyed`, :class:`~sessionlock.SessionNotFound`."""
        outcome = await self.engine.load(self.keys, self.policy)
        if isinstance(outcome, Snapshot):
            return outcome
        if outcome.kind == "missing" and self.missing == "create" and self.mode != "read":
            return EMPTY
        raise refusal(self.keys.digest, outcome.kind)

    def session(self, snapshot: Snapshot) -> Session:
        read_only = "was loaded for reading only" if self.mode == "read" else None
        session = Session(self.keys.digest, snapshot, self.codec, self.policy, read_only=read_only, exact=self.exact)
        session.sid = self.sid
        return session

    async def commit(self, session: Session, *, merges: int = MOST_MERGES) -> Conflict | None:
        """Save what changed. Returns the conflict that was not merged because ``merges`` is 0.

        Raises:
            SessionConflict: it cannot be merged. SessionDestroyed, SessionNotFound: it is gone.
        """
        for left in range(merges, -1, -1):
            changes = session.changes()
            if not changes:
                if self.expected_version not in (None, session.version):
                    raise self._other_version(session, session.version, session)
                return None
            checks = session.checks(changes) if self.serializable else []
            if self.yields and session.needs_the_lock(changes):
                checks.append(Change("f", ALL_KEYS, b"", "*"))
            outcome = await self.engine.commit(
                self.keys, session.created, [*checks, *changes], self.policy, self.expected_version
            )
            if isinstance(outcome, Refused):
                raise refusal(self.keys.digest, outcome.kind)
            if not isinstance(outcome, Conflict):
                session.was_saved(changes, outcome)
                return None
            if self.expected_version is not None and outcome.version != self.expected_version:
                current = self.session(outcome.snapshot or EMPTY)
                raise self._other_version(session, outcome.version, current)
            if left == 0:
                return outcome
            stale = [check.field for check in checks if check.field in outcome.theirs]
            if stale:
                raise self._stale(session, outcome)
            session._merge(outcome)
        raise AssertionError("unreachable")

    def _stale(self, session: Session, conflict: Conflict) -> SessionConflict:
        theirs = session._theirs(conflict)
        what = f"changed {', '.join(map(repr, theirs))}, which this request has read" if theirs else "holds its lock"
        return SessionConflict(
            f"session {session.name}: somebody else {what}; nothing was saved. Load it again",
            keys=tuple(theirs),
            ours={key: value for key in theirs if (value := session._peek(key)) is not MISSING},
            theirs={key: value for key, value in theirs.items() if value is not MISSING},
        ).about(session.name)

    def _other_version(self, session: Session, version: int, current: Session) -> SessionConflict:
        keys = session._differing(current)
        return SessionConflict(
            f"session {session.name} is at version {version}, not {self.expected_version}; nothing was saved",
            keys=tuple(keys),
            ours={key: value for key in keys if (value := session._peek(key)) is not MISSING},
            theirs={key: value for key in keys if (value := current._peek(key)) is not MISSING},
        ).about(session.name)


class UnlockedContext:
    """``async with guard.session_lock(sid, mode="optimistic") as session``; one use."""

    def __init__(
        self,
        wanted: Callable[[], Unlocked],
        home: Callable[[], Home],
        noticed: Callable[[SessionKeys, Snapshot], None],
    ) -> None:
        self._noticed = noticed
        self._prepare = wanted
        self._find_home = home
        self._session: Session
        self._done = False
        self._entered = False
        self.outdated = False
        """Whether it was opened by an id that has been replaced."""
        self.yields = False
        """Set before entering: see :class:`Unlocked`."""

    def when_waiting(self, ask: object, /) -> None:
        """As blocks with a lock have it; here nobody waits."""

    async def __aenter__(self) -> Session:
        if self._entered:
            raise used_twice()
        self._entered = True
        self._wanted = replace(self._prepare(), yields=self.yields)
        snapshot = await self._load(self._wanted)
        self._session = self._wanted.session(snapshot)
        if self._wanted.mode != "read":
            self._session._actions = self
            self._session._at_home = self._find_home().at_home
        return self._session

    async def _load(self, wanted: Unlocked) -> Snapshot:
        snapshot = await wanted.load()
        self.outdated = outdated(wanted.keys, snapshot)
        self._noticed(wanted.keys, snapshot)
        return snapshot

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is not None:
            self._session.forget_what_nobody_awaited()
        elif not self._done:
            await self._session.do_what_nobody_awaited()
        if error is None and not self._done:
            self._session.close("is being saved")
            if self._wanted.mode == "read":
                check_unchanged(self._session)
            else:
                await self.save()
        self._session.close("was saved already")

    def changed(self) -> None:
        """Without a lock nothing is saved in passing: a merge may be needed, and that is for the end."""

    async def save(self) -> None:
        try:
            conflict = await self._wanted.commit(self._session)
        except SessionConflict:
            self._session.conflicted = True
            raise
        self._expect_no_version()
        if conflict is not None:
            raise SessionConflict(
                f"session {self._session.name} was changed by others {MOST_MERGES} times while it was being saved;"
                " nothing was saved"
            ).about(self._session.name)

    async def release(self) -> None:
        self.close("is being saved")
        await self.save()
        self.close("was saved already")

    async def incr(self, key: str, by: int) -> int:
        created = self._session.created or (NEW if self._wanted.missing == "create" else "")
        outcome = await self._stored.increment(key, by, created=created)
        self._expect_no_version()
        return self._session.was_counted(key, outcome)

    def _expect_no_version(self) -> None:
        """The version that was expected was there; from now on this request's own commits move it."""
        self._wanted = replace(self._wanted, expected_version=None)

    async def regenerate(self, grace: float) -> str:
        new = await self._stored.regenerate(grace)
        self._wanted = replace(self._wanted, keys=new.keys)
        self._session.was_renewed(new.sid, new.safety)
        return new.sid

    @property
    def _stored(self) -> StoredSession:
        wanted = self._wanted
        return StoredSession(self._find_home().executor, wanted.keys, wanted.policy, wanted.codec)

    @property
    def keys(self) -> SessionKeys:
        """The session's keys, by its newest id."""
        return self._wanted.keys

    async def expire(self, ttl: float) -> bool:
        return await self._stored.expire(ttl)

    async def end_old_ids(self, grace: float) -> None:
        await self._stored.end_old_ids(grace)

    async def destroy(self, *, replaced: bool = False) -> None:
        _, safety = await self._stored.destroy(replaced=replaced)
        self.close("was destroyed")
        if safety is not None:
            safety.insist()

    def close(self, why: str) -> None:
        """Give up what was changed; nothing is saved at the end. ``why`` as :meth:`Session.close` has it."""
        self._done = True
        self._session.close(why)


class BeginningContext(UnlockedContext):
    """A session that has no record yet: there is nothing to load, and nobody to lock out; one use."""

    async def _load(self, wanted: Unlocked) -> Snapshot:
        return EMPTY

    async def regenerate(self, grace: float) -> str:
        if self._session.new:
            return self._session.sid  # nobody has been told it yet
        return await super().regenerate(grace)

    async def destroy(self, *, replaced: bool = False) -> None:
        if self._session.new:
            self.close("was destroyed")
        else:
            await super().destroy(replaced=replaced)


def check_unchanged(session: Session) -> None:
    """A change deep inside a value of a read-only session cannot be prevented, but it is not lost in silence."""
    changed = session.changed_keys()
    if changed:
        raise ReadOnlySession(
            f"session {session.name} was loaded for reading only, but {', '.join(map(repr, changed))} was changed;"
            " nothing was saved. Use mode='lock' or 'optimistic'"
        )


class Attempt:
    """One attempt of a transaction: ``async with attempt as session``. A conflict ends it; the next follows."""

    def __init__(self, wanted: Unlocked, snapshot: Snapshot) -> None:
        self._wanted = wanted
        self._session = wanted.session(snapshot)
        self.conflict: Conflict | None = None
        self._entered = False

    async def __aenter__(self) -> Session:
        if self._entered:
            raise used_twice()
        self._entered = True
        self._session._actions = _OnlyAtTheEnd(self._session)
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._session.close("belongs to an attempt that is over")
        if error is None:
            self.conflict = await self._wanted.commit(self._session, merges=0)


class _OnlyAtTheEnd:
    """An attempt may run again, so nothing of it may take effect before its commit."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def changed(self) -> None:
        """Nothing to do before the end."""

    def _refuse(self, what: str) -> ReadOnlySession:
        return ReadOnlySession(
            f"session {self._session.name} is in a transaction, which may run again: {what} would take effect twice."
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
        raise _exhausted(attempt._session, last.conflict) from None


def _exhausted(session: Session, conflict: Conflict) -> SessionConflict:
    theirs = session._theirs(conflict)
    return SessionConflict(
        f"session {session.name}: {', '.join(map(repr, theirs))} was changed by others at every attempt; nothing was"
        " saved. Allow more attempts, or take the lock",
        keys=tuple(theirs),
        ours={key: value for key in theirs if (value := session._peek(key)) is not MISSING},
        theirs={key: value for key, value in theirs.items() if value is not MISSING},
    ).about(session.name)
