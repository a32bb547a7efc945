"""A session as a mapping: loaded lazily, key by key, and able to tell what was changed in it, however deep."""

from __future__ import annotations

import copy
import inspect
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from ..codecs.base import Codec, Sealing
from ..durability import Safety
from ..errors import CodecError, ReadOnlySession, SessionConflict, SessionTooLarge
from ..lease import Lease
from ..policies import SessionPolicy
from ..protocol.calls import Change, fingerprint
from ..protocol.keys import field_name, key_of_field
from ..protocol.replies import Committed, Conflict, Snapshot
from .block import Actions
from .merge import FLASHES, MAY_CLASH, MISSING, Clash, last_write_wins, strategy_for

__all__ = ["Session", "SessionFormat", "field_of"]

T = TypeVar("T")
AtHome = Callable[[Coroutine[Any, Any, Any]], Any]  # see Runtime.at_home

MOST_CHANGES = 50_000  # a single call must not occupy Redis for long
ALL_KEYS = b"#keys"  # stands for the set of keys where a commit compares it
# A value of these types cannot change in place: no need to encode it again to see whether it did.
SCALARS = frozenset({str, int, float, bool, type(None), bytes})


class SessionFormat(NamedTuple):
    """How a session is written. ``exact``: whole values are compared; a server without redis.sha1hex (fakeredis)."""

    codec: Codec
    policy: SessionPolicy
    exact: bool = False


class Session(MutableMapping[str, Any]):
    """The session's data and what may be done with it.

    Use it like a dict with str keys. Changes deep inside values are noticed. What changed is saved when the
    ``async with`` block ends; :meth:`save` does it at once and :meth:`release` ends the lock early. The methods that
    are awaited may also be called from a thread without an event loop: then they are done when they return.

    ``name`` is the digest under which Redis, logs and errors know it; ``sid`` is the secret id itself.
    ``lease`` is None for a session that was loaded without a lock. ``new``: there was no record when it was loaded.
    ``version`` counts the commits of this session (usable as an ETag). ``created``: when it began, by the server's
    clock in microseconds; empty for a new one.
    """

    saved: Safety | None
    """How safe the last save was, where the guard waits for replicas (``durability``)."""
    touched = False
    """Whether loading it began its idle time anew."""
    conflicted = False
    """Whether a :meth:`save` of this request met a conflict that could not be merged."""
    took_effect = False
    """Whether :meth:`save` or :meth:`incr` have changed the store: doing the request again would do that twice."""

    # Most requests leave these as they are.
    _touched = _destroyed = _cleared = _ended = _read_all = _ends_when_empty = _was_released = False
    _before_saving: Callable[[], Awaitable[None]] | None = None
    _after_destroying: Callable[[], Awaitable[None]] | None = None
    _begun: Sequence[Coroutine[Any, Any, Any]] = ()

    def __init__(
        self,
        sid: str,
        name: str,
        snapshot: Snapshot,
        how: SessionFormat,
        *,
        actions: Actions | None = None,
        at_home: AtHome | None = None,
        lease: Lease | None = None,
        read_only: str | None = None,
        saved: Safety | None = None,
    ) -> None:
        self.sid = sid
        self.name = name
        self.lease = lease
        self.saved = saved
        # The block that it belongs to, and the way to that block's event loop. None: it cannot be changed.
        self._actions = actions
        self._at_home = at_home
        self._codec, self._policy, self._exact = how
        self._sealing = cast(Sealing, self._codec) if hasattr(self._codec, "unseal") else None
        self._closed = read_only
        self._stays_open = False
        self._values: dict[str, Any] = {}
        self._assigned: set[str] = set()
        self._deleted: set[str] = set()
        # What this request knows of the stored state: a value that was computed from it must not agree by coincidence.
        self._read: set[str] = set()
        self._given: set[str] = set()  # assigned ever: these objects are the application's
        if snapshot.touched:
            self.touched = True
        self._rebase(snapshot)

    def _rebase(self, snapshot: Snapshot) -> None:
        """Take ``snapshot`` as what was loaded."""
        self.version = snapshot.version
        self.created = snapshot.created
        self._had_keys = False
        self._raw: dict[str, bytes] = {}
        for field, raw in snapshot.fields.items():
            try:
                key = key_of_field(field)
            except UnicodeDecodeError:
                raise CodecError(
                    f"the stored session {self.name} has a field whose name is not UTF-8: {field[:40]!r};"
                    " it was not written by this library. Nothing was changed"
                ) from None
            if key is not None:
                self._raw[key] = raw
                self._had_keys = True

    # --- the mapping

    def __getitem__(self, key: str) -> Any:
        self._touched = True
        if key not in self._assigned and key not in self._deleted:
            self._read.add(key)
        return self._value(key)

    def _value(self, key: str) -> Any:
        if key in self._values:
            return self._values[key]
        if key in self._deleted:
            raise KeyError(key)
        value = self._values[key] = self._codec.decode(key, self._raw[key])
        return value

    def _note_read_all(self) -> None:
        self._touched = self._read_all = True

    def __setitem__(self, key: str, value: Any) -> None:
        self._touched = True
        self._check_open()
        if type(key) is not str:
            raise CodecError(f"a session key must be a str, not {type(key).__name__}")
        self._values[key] = value
        self._assigned.add(key)
        self._given.add(key)
        self._deleted.discard(key)
        self._changed()

    def __delitem__(self, key: str) -> None:
        self._touched = True
        self._check_open()
        if not self._has(key):
            raise KeyError(key)
        self._values.pop(key, None)
        self._assigned.discard(key)
        if key in self._raw:
            self._deleted.add(key)
        self._changed()

    def __contains__(self, key: object) -> bool:
        self._touched = True
        if type(key) is str and key not in self._assigned and key not in self._deleted:
            self._read.add(key)
        return self._has(key)

    def _has(self, key: object) -> bool:
        return key in self._values or (key in self._raw and key not in self._deleted)

    def __iter__(self) -> Iterator[str]:
        self._note_read_all()
        return self._keys()

    def _keys(self) -> Iterator[str]:
        for key in list(self._raw):
            if key not in self._deleted:
                yield key
        for key in list(self._values):  # reading while iterating decodes more of them
            if key not in self._raw:
                yield key

    def __len__(self) -> int:
        self._note_read_all()
        return self._size()

    def _size(self) -> int:
        return len(self._raw) - len(self._deleted) + sum(key not in self._raw for key in self._values)

    def clear(self) -> None:
        """Take every key out, without looking at them. What others put in meanwhile is a conflict, not overlooked."""
        self._touched = True
        self._check_open()
        self._cleared = True
        for key in list(self._keys()):
            del self[key]

    def copy(self) -> dict[str, Any]:
        """A plain dict of the same values (not of copies of them)."""
        return dict(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: copy.deepcopy(value, memo) for key, value in self.items()}

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self} if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        # Values are the user's private data.
        return f"<Session {self.name} version={self.version} keys={len(self._raw)} lease={self.lease!r}>"

    @property
    def new(self) -> bool:
        """Whether there was no record when this session was loaded."""
        return not self.created

    @property
    def modified(self) -> bool:
        """Whether anything differs from what was loaded or saved last."""
        return bool(self.changes())

    @property
    def accessed(self) -> bool:
        """Whether the application looked at the session: read, wrote, asked for a key, even one that is absent."""
        return self._touched

    @property
    def destroyed(self) -> bool:
        """Whether this request destroyed the session."""
        return self._destroyed

    @property
    def ended(self) -> bool:
        """Whether the record ended with the last save, because it was left empty (see :meth:`ends_when_empty`)."""
        return self._ended

    def ends_when_empty(self) -> None:
        """Should this request leave nothing in the record, let it end: where Redis finds it empty, and nobody else
        holds or waits for the lock.
        """
        self._ends_when_empty = True

    @property
    def cleared(self) -> bool:
        """Whether :meth:`clear` was called: by frameworks' convention a logout, or the first half of a login."""
        return self._cleared

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ReadOnlySession(f"session {self.name} {self._closed}; this change would be lost")

    def _changed(self) -> None:
        if self._policy.save == "immediate" and self._actions is not None:
            self._actions.changed()

    # --- moments

    def save(self) -> Coroutine[Any, Any, None]:
        """Save what changed now, and go on; under the lock with the same fence, which is kept.

        With ``SessionPolicy(save="immediate")`` every assignment starts this by itself (assignments of one tick travel
        together, in order); changes deep inside a value are noticed at the next assignment, ``save()`` or the end.
        An error of such a save is raised by the next ``save()`` or at the end of the block.

        Raises:
            LeaseLost, SessionConflict, SessionDestroyed, CodecError, SessionTooLarge, RedisUnavailable.
        """
        return self._step(self._save(self._do()))

    async def _save(self, actions: Actions) -> None:
        if self._before_saving is not None:
            await self._before_saving()
        changed = self.modified
        await actions.save()
        self.took_effect |= changed

    def release(self) -> Coroutine[Any, Any, None]:
        """Save what changed and give the lock up before the block ends. Later changes raise."""
        return self._step(self._release(self._do()) if self._closed is None else _nothing())

    async def _release(self, actions: Actions) -> None:
        if self._before_saving is not None:
            await self._before_saving()
        await actions.release()
        self._was_released = True

    def incr(self, key: str, by: int = 1) -> Coroutine[Any, Any, int]:
        """Add to an integer, in Redis and at once, with or without the lock; returns the new value.

        Other unsaved changes stay unsaved; when this very key has one, everything is saved before.

        Raises:
            SessionConflict: what is stored is not an integer. Otherwise as :meth:`save`.
        """
        return self._step(self._incr(self._do(), key, by))

    async def _incr(self, actions: Actions, key: str, by: int) -> int:
        if key in self.changed_keys():
            await actions.save()
        value = await actions.incr(key, by)
        self.took_effect = True
        return value

    def regenerate(self, *, grace: float = 30.0) -> Coroutine[Any, Any, str]:
        """Give the session a new id, at once (at login, against session fixation); returns it, as ``session.sid``.

        The data, the lock and its waiters stay. The old id works ``grace`` seconds longer, for requests in flight.

        Raises:
            LeaseLost, SessionDestroyed, SessionNotFound, RedisUnavailable. NotDurable: it has the new id, but not on as
                many replicas as required.
        """
        return self._step(self._regenerate(self._do(), grace))

    async def _regenerate(self, actions: Actions, grace: float) -> str:
        self.sid = await actions.regenerate(grace)
        return self.sid

    def destroy(self) -> Coroutine[Any, Any, None]:
        """End the session (log out), at once. Nothing that this request changed is saved. Once more does no harm."""
        if self._destroyed:
            return self._step(_nothing())
        if self._was_released and self._actions is not None:
            return self._step(self._destroy(self._actions))
        return self._step(self._destroy(self._do()))

    async def _destroy(self, actions: Actions) -> None:
        await actions.destroy()
        self._destroyed = True
        if self._after_destroying is not None:
            await self._after_destroying()

    def _step(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """``work``, for the caller to await. What nobody awaits is done when the block ends, for a security step must
        not be dropped in silence. From a thread it is done now, and what is returned is its result.
        """
        begun = work if self._at_home is None else self._at_home(work)
        if begun is work:
            self._begun = [*filter(_not_begun, self._begun), work]
        return begun

    @property
    def is_owed(self) -> bool:
        """Whether a step was asked for that nobody has awaited yet."""
        return bool(self._begun)

    async def do_what_nobody_awaited(self) -> None:
        """Carry out the steps that were asked for and not awaited. For those who end the block."""
        begun, self._begun = self._begun, ()
        for work in filter(_not_begun, begun):
            await work

    def forget_what_nobody_awaited(self) -> None:
        """The block failed: nothing of it is to take effect any more."""
        begun, self._begun = self._begun, ()
        for work in filter(_not_begun, begun):
            work.close()

    def _do(self) -> Actions:
        self._check_open()
        if self._actions is None:
            raise ReadOnlySession(f"session {self.name} is not inside an `async with guard.session_lock(...)` block")
        return self._actions

    # --- messages for the next page

    def flash(self, category: str, message: Any) -> None:
        """Keep a message until a page shows it. Two nodes at once keep both."""
        self[FLASHES] = [*self.get(FLASHES, []), [secrets.token_urlsafe(6), category, message]]

    def pop_flashes(self) -> list[tuple[str, Any]]:
        """Take all messages, as (category, message), oldest first. Each is delivered once.

        Without the lock a message may have been taken by another request meanwhile; then saving raises
        :class:`~sessionlock.SessionConflict` (a transaction tries again), so show them after the save.
        """
        if FLASHES not in self:
            return []
        taken = self[FLASHES]
        self[FLASHES] = []
        return [(category, message) for _, category, message in taken]

    # --- what changed

    def changes(self) -> list[Change]:
        """The fields that differ from what was loaded, ready to be sent.

        Raises:
            CodecError: a value cannot be stored.
            SessionTooLarge: a field, or the whole session, is over its limit.
        """
        # Copies: threads of a request may change the session while it is being saved.
        found = [self._deletion(key) for key in list(self._deleted)]
        for key, value in list(self._values.items()):
            if key not in self._assigned and (type(value) in SCALARS or not self._handed_out(key)):
                continue
            before = self._raw.get(key)
            raw = self._encoded_if_changed(key, value, before)
            if raw is not None:
                self._check_field(key, raw)
                found.append(Change("s", field_of(key), raw, self._base(key, before)))
        if found:
            self._check_total(found)
        if self._ends_when_empty and self._had_keys and not self._size():
            found.append(Change("e", ALL_KEYS, b"", "*"))
        return found

    def _handed_out(self, key: str) -> bool:
        """Whether the application may hold the very object, and have changed it inside."""
        return self._read_all or key in self._read or key in self._given

    def checks(self, changes: list[Change]) -> list[Change]:
        """What was read and not changed, for a commit that is to compare it: absent keys too, and after iterating the
        set of keys. And what was assigned and is now as it was loaded: that is a change if others changed it.
        """
        known = self._read | self._given
        if self._read_all:
            known |= self._raw.keys()
        written = {change.field for change in changes}
        found = [
            Change("c", field, b"", base)
            for key in known
            if (field := _field_or_none(key)) is not None
            and field not in written
            and (base := self._base(key, self._raw.get(key))) != "*"
        ]
        if self._read_all:
            found.append(Change("n", ALL_KEYS, b"%d" % len(self._raw), "*"))
        return found

    def needs_the_lock(self, changes: list[Change]) -> bool:
        """Whether a lock's holder could be refused for these changes: not all of them merge with any other."""
        keys = (key_of_field(change.field) for change in changes)
        return any(key is not None and strategy_for(self._policy.merge, key) in MAY_CLASH for key in keys)

    def _encoded_if_changed(self, key: str, value: Any, before: bytes | None) -> bytes | None:
        """The bytes to store, None when they say what is stored already."""
        codec = self._codec
        if self._sealing is not None:
            # Sealing the same value twice gives different bytes: compare what is sealed.
            plain = self._sealing.inner.encode(key, value)
            if before is not None and plain == self._sealing.unseal(key, before):
                return None
            return self._sealing.seal(key, plain)
        raw = codec.encode(key, value)
        if raw == before:
            return None
        if before is not None and codec.encode(key, codec.decode(key, before)) == raw:
            return None  # a foreign writer's JSON that spells the same value in another way
        return raw

    def _deletion(self, key: str) -> Change:
        return Change("d", field_of(key), b"", self._base(key, self._raw[key]))

    def _base(self, key: str, before: bytes | None) -> bytes | str:
        if strategy_for(self._policy.merge, key) is last_write_wins:
            return "*"
        return fingerprint(before, exact=self._exact)

    def _check_field(self, key: str, raw: bytes) -> None:
        size, limit = len(raw) + len(key), self._policy.max_field
        if size > limit:
            raise SessionTooLarge(
                f"session {self.name}: key {key[:80]!r} has {size} bytes, its name included, more than"
                f" SessionPolicy.max_field = {limit}; nothing was saved",
                keys=(key,),
                size=size,
                limit=limit,
            ).about(self.name)

    def _check_total(self, found: list[Change]) -> None:
        if len(found) > MOST_CHANGES:
            raise SessionTooLarge(
                f"{len(found)} keys of session {self.name} were changed at once, more than {MOST_CHANGES};"
                " nothing was saved",
                size=len(found),
                limit=MOST_CHANGES,
            ).about(self.name)
        size = sum(len(key) + len(raw) for key, raw in self._raw.items())
        size += sum(len(change.field) + len(change.value) for change in found)
        if size <= self._policy.max_session:
            return
        size -= sum(len(change.field) + len(self._raw.get(key_of_field(change.field) or "", b"")) for change in found)
        if size > self._policy.max_session:
            grown = sorted(found, key=lambda change: len(change.value), reverse=True)
            keys = tuple(key for change in grown if change.value and (key := key_of_field(change.field)) is not None)
            most = f"; of what was changed {keys[0][:80]!r} is the largest" if keys else ""
            raise SessionTooLarge(
                f"session {self.name} would have {size} bytes, more than SessionPolicy.max_session ="
                f" {self._policy.max_session}{most}; nothing was saved",
                keys=keys,
                size=size,
                limit=self._policy.max_session,
            ).about(self.name)

    # --- for those who open and save it: the guard, its modes and the integrations

    @property
    def is_open(self) -> bool:
        """Whether it can be changed."""
        return self._closed is None

    @property
    def has_stored_keys(self) -> bool:
        """Whether there was anything in it when it was loaded, or saved last. Asking is no access."""
        return bool(self._raw)

    def stored(self) -> Iterator[tuple[str, Any]]:
        """Keys and values, without counting as read. One that cannot be decoded is None: reading it is the error."""
        for key in self._keys():
            try:
                yield key, self._peek(key)
            except CodecError:
                yield key, None

    def belongs_to(self, actions: Actions) -> None:
        """Another block does from now on what the session asks for."""
        self._actions = actions

    @property
    def actions(self) -> Actions | None:
        """The block that does what the session asks for."""
        return self._actions

    @property
    def policy(self) -> SessionPolicy:
        return self._policy

    def had_conflict(self) -> None:
        """A save met a conflict that could not be merged."""
        self.conflicted = True

    def around(
        self, *, before_saving: Callable[[], Awaitable[None]], after_destroying: Callable[[], Awaitable[None]]
    ) -> None:
        """Have these done before the application saves or releases by itself, and after it has ended the session."""
        self._before_saving, self._after_destroying = before_saving, after_destroying

    def all_encoded(self) -> dict[str, bytes]:
        """What is stored under each key, as it was when it was loaded or saved last."""
        return dict(self._raw)

    def given(self) -> list[str]:
        """The keys to which this request assigned something, saved or not."""
        return [key for key in self._given if self._has(key)]

    def decoded(self, key: str, raw: bytes | None) -> Any:
        """``raw`` once more as a value, that nobody has in his hands; None where there is nothing."""
        return None if raw is None else self._codec.decode(key, raw)

    def peek(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, ``default`` where there is none. Does not count as read."""
        return self._value(key) if self._has(key) else default

    def changed_keys(self) -> list[str]:
        """The keys that :meth:`changes` is about."""
        return [key for change in self.changes() if (key := key_of_field(change.field)) is not None]

    def close(self, why: str) -> None:
        """From now on it can be read only; ``why`` completes the sentence "session x ..." for who changes it still."""
        self._closed = None if self._stays_open else why

    def stay_open(self) -> None:
        """It will be used on without its lock, by who commits what changes from now on by comparison: :meth:`close` has
        no effect.
        """
        self._stays_open = True

    def was_renewed(self, sid: str, safety: Safety | None) -> None:
        """It has a new id. Raises :class:`~sessionlock.NotDurable` as :meth:`was_saved` does."""
        self.sid = sid
        self.saved = safety
        if safety is not None:
            safety.insist()

    def was_saved(self, changes: list[Change], outcome: Committed) -> None:
        """``changes`` are in the store now: later differences count from here.

        Raises:
            NotDurable: they are not on as many replicas as required.
        """
        for change in changes:
            key = key_of_field(change.field)
            if key is None:
                continue  # a condition
            if change.op == "d":
                self._raw.pop(key, None)
                self._deleted.discard(key)
                continue
            self._raw[key] = change.value
            if key not in self._values:
                self._deleted.add(key)  # deleted while the save was under way
            elif self._encoded_if_changed(key, self._values[key], change.value) is None:
                self._assigned.discard(key)
        if outcome.version is not None:
            self.version = outcome.version
        self._ended = outcome.version == 0
        self._had_keys = self._had_keys and not self._ended
        self.created = "" if self._ended else outcome.created or self.created
        if outcome.safety is not None:
            self.saved = outcome.safety
            outcome.safety.insist()

    def was_counted(self, key: str, outcome: Committed) -> int:
        """An increment was committed; returns the new value."""
        assert outcome.value is not None
        self._raw[key] = b"%d" % outcome.value
        self._values[key] = outcome.value
        self._assigned.discard(key)
        self._deleted.discard(key)
        self.was_saved([], outcome)
        return outcome.value

    def merge(self, conflict: Conflict) -> None:
        """Bring somebody else's changes in, by each key's strategy.

        Raises:
            SessionConflict: a key's strategy cannot merge the two; names all such keys.
        """
        ours: dict[str, Any] = {}
        theirs: dict[str, Any] = {}
        for field, raw in conflict.theirs.items():
            key = key_of_field(field) or ""
            here, there = self._peek(key), self._decoded(key, raw)
            if self._agrees(key, here, raw):
                self._take(key, raw, here)
                continue
            try:
                merged = strategy_for(self._policy.merge, key)(self._decoded(key, self._raw.get(key)), here, there)
            except Clash:
                ours[key], theirs[key] = here, there
                continue
            self._read.add(key)  # the merged value was computed from theirs
            self._take(key, raw, merged)
        if ours:
            raise SessionConflict(
                f"session {self.name}: somebody else changed {', '.join(map(repr, ours))} since it was loaded;"
                " nothing was saved. Load it again, or declare a merge strategy in SessionPolicy.merge",
                keys=tuple(ours),
                ours=_present(ours),
                theirs=_present(theirs),
            ).about(self.name)
        self.version = conflict.version

    def _agrees(self, key: str, here: Any, raw: bytes | None) -> bool:
        """Whether both sides came to the same *and* it means something: this one did not look at the key before. The
        equal results of two read-modify-writes are a lost update.
        """
        if key in self._read or self._read_all:
            return False
        if here is MISSING or raw is None:
            return here is MISSING and raw is None
        return self._encoded_if_changed(key, here, raw) is None

    def theirs(self, conflict: Conflict) -> dict[str, Any]:
        """The keys of a conflict with the values in the store, MISSING where they were deleted."""
        found = {key: self._decoded(key, raw) for f, raw in conflict.theirs.items() if (key := key_of_field(f))}
        if ALL_KEYS in conflict.theirs and conflict.snapshot is not None:
            now = {key: raw for f, raw in conflict.snapshot.fields.items() if (key := key_of_field(f))}
            for key in now.keys() ^ self._raw.keys():
                found[key] = self._decoded(key, now.get(key))
        return found

    def differing(self, other: Session) -> list[str]:
        """The keys whose values here and in ``other`` are not the same."""
        keys = dict.fromkeys([*self._keys(), *other._keys()])
        return [key for key in keys if self._peek(key) != other._peek(key)]

    def present(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that it has, with their values."""
        return {key: value for key in keys if (value := self._peek(key)) is not MISSING}

    def _peek(self, key: str) -> Any:
        """The value, MISSING where there is none. Looking at it this way is no reading of the application's."""
        return self._value(key) if self._has(key) else MISSING

    def _decoded(self, key: str, raw: bytes | None) -> Any:
        return MISSING if raw is None else self._codec.decode(key, raw)

    def _take(self, key: str, raw: bytes | None, merged: Any) -> None:
        if raw is None:
            self._raw.pop(key, None)
        else:
            self._raw[key] = raw
        self._deleted.discard(key)
        if merged is MISSING:
            self._values.pop(key, None)
            self._assigned.discard(key)
            if raw is not None:
                self._deleted.add(key)
        else:
            self._values[key] = _in_place(self._values.get(key), merged)
            self._assigned.add(key)
            self._given.add(key)


def _in_place(held: Any, merged: Any) -> Any:
    """``merged``, in the very list or dict that the application may be holding, so that its next change is noticed."""
    if held is merged or type(held) is not type(merged):
        return merged
    if type(held) is list:
        held[:] = list(merged)
        return held
    if type(held) in (dict, set):
        content = merged.copy()
        held.clear()
        held.update(content)
        return held
    return merged


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not MISSING}


def field_of(key: str) -> bytes:
    """The hash field of ``key``. Raises :class:`~sessionlock.CodecError` if it cannot be written as UTF-8."""
    if type(key) is not str:
        raise CodecError(f"a session key must be a str, not {type(key).__name__}")
    try:
        return field_name(key)
    except UnicodeEncodeError:
        raise CodecError("a session key contains a lone surrogate and cannot be stored", key=key) from None


def _field_or_none(key: str) -> bytes | None:
    try:
        return field_of(key)
    except CodecError:
        return None  # nothing of that name can be stored, so nobody can have changed it


async def _nothing() -> None:
    """Where there is nothing to do."""


def _not_begun(work: Coroutine[Any, Any, Any]) -> bool:
    return inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED
