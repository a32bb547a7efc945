"""Requests that do not wait: ``read``, ``optimistic`` and ``last_write_wins``.

The commit compares what was read of each changed key with what is there. On a conflict the reply brings the current
state; keys that have a merge strategy are merged and committed in a second call, anything else is a
:class:`~sessionlock.SessionConflict`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

from .. import observe
from ..errors import ConfigurationError, ReadOnlySession, SessionConflict, SessionLockError
from ..protocol.changes import Change
from ..protocol.keys import SessionKeys
from ..protocol.record_calls import NEW, Commit, Load
from ..protocol.replies import EMPTY, Committed, Conflict, Refused, Snapshot, outdated, refusal
from .block import Actions, Guard, used_twice
from .data import ALL_KEYS, SessionData, SessionFormat, listed
from .mapping import Session
from .operations import StoredSession

__all__ = ["BeginningContext", "Unlocked", "UnlockedContext", "UnlockedMode", "check_unchanged"]

UnlockedMode = Literal["read", "optimistic", "last_write_wins"]
MOST_MERGES = 10


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What is to be loaded, and how it will be saved. ``expected_version``: refuse any other (an ETag).
    ``serializable``: what was read and not changed is compared, too. ``yields``: what the holder of the lock could meet
    as a conflict is not committed while there is one.
    """

    guard: Guard
    keys: SessionKeys
    sid: str = field(repr=False)  # the secret: not for tools that print locals
    how: SessionFormat
    mode: UnlockedMode
    missing: str
    expected_version: int | None = None
    serializable: bool = False
    yields: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("read", "optimistic", "last_write_wins"):
            raise ConfigurationError(f"mode must be lock, read, optimistic or last_write_wins, not {self.mode!r}")

    async def load(self) -> Snapshot:
        """Raises :class:`~sessionlock.SessionDestroyed`, :class:`~sessionlock.SessionNotFound`."""
        runtime = self.guard.runtime()
        try:
            outcome = await runtime.engine.load(Load(self.keys, self.how.policy))
            if isinstance(outcome, Snapshot):
                return outcome
            if outcome.kind == "missing" and self.missing == "create" and self.mode != "read":
                return EMPTY
            raise refusal(self.keys.digest, outcome.kind)
        except SessionLockError as error:
            if runtime.observer is not None:
                runtime.observer(observe.LoadRefused(self.keys.digest, "", error))
            raise

    def session(self, snapshot: Snapshot, actions: Actions | None = None) -> Session:
        read_only = "was loaded for reading only" if self.mode == "read" else None
        at_home = None if actions is None else self.guard.runtime().at_home
        return Session(
            self.sid, self.keys.digest, snapshot, self.how, actions=actions, at_home=at_home, read_only=read_only
        )

    async def commit(self, session: Session, *, merges: int = MOST_MERGES) -> Conflict | None:
        """Save what changed. Returns the conflict that was not merged because ``merges`` is 0.

        Raises:
            SessionConflict: it cannot be merged, or was in vain so many times. SessionDestroyed, SessionNotFound: it is
                gone.
        """
        runtime = self.guard.runtime()
        data, engine, observer = session.data, runtime.engine, runtime.observer
        merged: frozenset[bytes] = frozenset()
        try:
            for left in range(merges, -1, -1):
                changes = data.changes()
                if not changes:
                    if self.expected_version not in (None, session.version):
                        raise self._other_version(data, data.version, data)
                    return None
                checks = data.checks(changes) if self.serializable else []
                if self.yields and data.needs_the_lock(changes):
                    checks.append(Change("f", ALL_KEYS, b"", "*"))
                found = [*checks, *changes]
                call = Commit(
                    self.keys, data.created, self.expected_version, self.how.policy, found, measured=data.measured
                )
                outcome = await engine.commit(call)
                if isinstance(outcome, Refused):
                    is_large = outcome.kind == "large"
                    raise data.outgrown(changes) if is_large else refusal(self.keys.digest, outcome.kind)
                if not isinstance(outcome, Conflict):
                    session.was_saved(changes, outcome)
                    if observer is not None:
                        observe.tell_saved(observer, self.keys.digest, "", len(changes), outcome.version, len(merged))
                    return None
                if self.expected_version is not None and outcome.version != self.expected_version:
                    current = SessionData(data.digest, outcome.snapshot or EMPTY, self.how)
                    raise self._other_version(data, outcome.version, current)
                if left == 0:
                    if merges:
                        raise data.changed_too_often(merges)
                    return outcome
                stale = [check.field for check in checks if check.field in outcome.theirs]
                if stale:
                    theirs = data.theirs(outcome)
                    what = f"changed {listed(theirs)}, which this request has read" if theirs else "holds its lock"
                    raise data.conflict(f": somebody else {what}; nothing was saved. Load it again", theirs)
                data.merge(outcome)
                merged |= frozenset(outcome.theirs)
        except SessionLockError as error:
            self.tell_refused(error)
            raise
        raise AssertionError("unreachable")

    def tell_refused(self, error: SessionLockError) -> None:
        """Why nothing was saved."""
        observer = self.guard.runtime().observer
        if observer is not None:
            observer(observe.ChangesRefused(self.keys.digest, "", error))

    def _other_version(self, data: SessionData, version: int, current: SessionData) -> SessionConflict:
        what = f" is at version {version}, not {self.expected_version}; nothing was saved"
        return data.conflict(what, data.differing(current))


class UnlockedContext:
    """``async with guard.session_lock(sid, mode="optimistic") as session``; one use. See :class:`.block.Block`."""

    session: Session

    def __init__(self, wanted: Unlocked) -> None:
        self._wanted = wanted
        self._entered = False
        # Nothing is saved at the end: it was saved or given up before.
        self._done = False
        self.outdated: bool = False
        """Whether it was opened by an id that has been replaced."""

    async def __aenter__(self) -> Session:
        if self._entered:
            raise used_twice()
        self._entered = True
        wanted = self._wanted
        snapshot = await wanted.load()
        self.outdated = outdated(wanted.keys, snapshot)
        wanted.guard.on_load(wanted.keys, snapshot)
        return self._begin(snapshot)

    def _begin(self, snapshot: Snapshot) -> Session:
        self.session = self._wanted.session(snapshot, None if self.mode == "read" else self)
        return self.session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is not None:
            self.session.forget_what_nobody_awaited()
        elif not self._done:
            await self.session.do_what_nobody_awaited()
        if error is None and not self._done:
            self.session.close("is being saved")
            if self.mode == "read":
                check_unchanged(self.session)
            else:
                await self.save()
        self.session.close("was saved already")

    # --- what the session asks for

    def changed(self) -> None:
        """Without a lock nothing is saved in passing: a merge may be needed, and that is for the end."""

    async def save(self) -> None:
        if self.mode == "read":
            raise ReadOnlySession(f"session {self.session.digest} was opened for reading only; nothing was saved")
        try:
            await self._wanted.commit(self.session)
        except SessionConflict:
            self.session.had_conflict()
            raise
        self._expect_no_version()

    async def release(self) -> None:
        self.close("is being saved")
        await self.save()
        self.close("was saved already")

    async def incr(self, key: str, by: int) -> int:
        created = self.session.created or (NEW if self._wanted.missing == "create" else "")
        outcome = await self._stored.increment(key, by, created=created)
        self._expect_no_version()
        return self.session.was_counted(key, outcome)

    def _expect_no_version(self) -> None:
        """The version that was expected was there; from now on this request's own commits move it."""
        if self._wanted.expected_version is not None:
            self._wanted = replace(self._wanted, expected_version=None)

    async def regenerate(self, grace: float) -> str:
        new = await self._stored.regenerate(grace)
        self._wanted = replace(self._wanted, sid=new.sid, keys=new.keys)
        self.outdated = False
        self.session.was_renewed(new.sid, new.safety)
        return new.sid

    async def destroy(self, *, replaced: bool = False) -> None:
        _, safety = await self._stored.destroy(replaced=replaced)
        self.close("was destroyed")
        if safety is not None:
            safety.raise_for_shortfall()

    @property
    def _stored(self) -> StoredSession:
        wanted = self._wanted
        runtime = wanted.guard.runtime()
        return StoredSession(runtime.executor, wanted.keys, wanted.how, runtime.ended, runtime.observer)

    # --- for the faces

    @property
    def mode(self) -> UnlockedMode:
        return self._wanted.mode

    def when_waiting(self, ask: object, /) -> None:
        """Nobody waits."""

    async def expire(self, ttl: float) -> bool:
        return await self._stored.expire(ttl)

    async def end_old_ids(self, grace: float) -> None:
        await self._stored.end_old_ids(grace)

    async def discard(self) -> None:
        self.close("belongs to a request that is answered already")

    def close(self, why: str) -> None:
        """Give up what was changed; nothing is saved at the end. ``why`` as :meth:`Session.close` has it."""
        self._done = True
        self.session.close(why)

    def yield_no_more(self) -> None:
        """From now on it commits what the holder of the lock could meet as a conflict: it will not run again."""
        self._wanted = replace(self._wanted, yields=False)

    def move_to(self, guard: Guard) -> None:
        """It is used on with the guard of another event loop."""
        self._wanted = replace(self._wanted, guard=guard)

    def take_over(self, session: Session) -> None:
        """Instead of entering: go on with a session whose lock was released (see :meth:`Session.stay_open`)."""
        self._entered = True
        self.session = session
        session.belongs_to(self)


class BeginningContext(UnlockedContext):
    """A session that has no record yet: there is nothing to load, and nobody to lock out; one use."""

    async def __aenter__(self) -> Session:
        return self.begin()

    def begin(self) -> Session:
        """As ``async with`` begins: nothing is asked of the server."""
        if self._entered:
            raise used_twice()
        self._entered = True
        return self._begin(EMPTY)

    async def create(self, *, idle: float | None = None) -> None:
        """Store it now, empty or not; nothing is ever overwritten. ``idle``: another life than its policy says.

        Raises:
            SessionConflict: there is one of that id. CodecError, SessionTooLarge, RedisUnavailable.
        """
        stored, changes = self._stored, self.session.data.changes()
        if idle is not None:
            stored = replace(stored, how=SessionFormat(stored.how.codec, replace(stored.how.policy, idle=idle)))
        snapshot, safety = await stored.create(changes)
        self.session.was_saved(changes, Committed(snapshot.version, snapshot.created, safety=safety))

    async def regenerate(self, grace: float) -> str:
        if self.session.new:
            return self.session.sid  # nobody has been told it yet
        return await super().regenerate(grace)

    async def destroy(self, *, replaced: bool = False) -> None:
        if self.session.new:
            self.close("was destroyed")
        else:
            await super().destroy(replaced=replaced)


def check_unchanged(session: Session) -> None:
    """A change deep inside a value of a read-only session cannot be prevented, but it is not lost in silence."""
    changed = session.changed_keys()
    if changed:
        raise ReadOnlySession(
            f"session {session.digest} was loaded for reading only, but {', '.join(map(repr, changed))} was changed;"
            " nothing was saved. Use mode='lock' or 'optimistic'"
        )
