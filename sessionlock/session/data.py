"""What a request knows of its session: what was loaded, what it has read, what it has changed, however deep.

Nothing here is sent or awaited. The application sees it through :class:`~sessionlock.Session`; the blocks, which
load and save it, work with it directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from ..codecs.base import Codec, Sealing
from ..errors import CodecError, SessionConflict, SessionTooLarge
from ..policies import SessionPolicy
from ..protocol.changes import BEFORE_THE_END, Change, fingerprint
from ..protocol.keys import field_name, key_of_field
from ..protocol.replies import Committed, Conflict, Snapshot
from .merge import MAY_CLASH, MISSING, Clash, last_write_wins, strategy_for

__all__ = ["ALL_KEYS", "SessionData", "SessionFormat", "field_of", "listed"]

MOST_CHANGES = 50_000  # a single call must not occupy Redis for long
AFTER_OURS = b"$"  # the names of reserved fields come before
ALL_KEYS = b"#keys"  # stands for the set of keys where a commit compares it
# A value of these types cannot change in place: no need to encode it again to see whether it did.
SCALARS = frozenset({str, int, float, bool, type(None), bytes})


class SessionFormat:
    """How a session is written."""

    __slots__ = ("codec", "policy", "saves_at_once", "sealing")

    def __init__(self, codec: Codec, policy: SessionPolicy) -> None:
        self.codec: Codec = codec
        self.policy: SessionPolicy = policy
        self.saves_at_once: bool = policy.save == "immediate"
        self.sealing: Sealing | None = cast(Sealing, codec) if hasattr(codec, "unseal") else None

    def encoded_if_changed(self, key: str, value: Any, before: bytes | None) -> bytes | None:
        """The bytes to store, None when ``before`` says the same."""
        codec, sealing = self.codec, self.sealing
        if sealing is not None:
            # Sealing the same value twice gives different bytes: compare what is sealed.
            plain = sealing.inner.encode(key, value)
            if before is not None and plain == sealing.unseal(key, before):
                return None
            return sealing.seal(key, plain)
        raw = codec.encode(key, value)
        if raw == before:
            return None
        if before is None:
            return raw
        stored = codec.decode(key, before)
        if type(value) in SCALARS and stored != value:
            return raw
        # A foreign writer's JSON may spell the same value in another way.
        return None if codec.encode(key, stored) == raw else raw

    def decoded(self, key: str, raw: bytes | None) -> Any:
        """The value, a new object each time; MISSING where there is none."""
        return MISSING if raw is None else self.codec.decode(key, raw)

    def base(self, key: str, before: bytes | None) -> bytes | str:
        """What the store compares with ``before`` when ``key`` is committed."""
        if self.policy.merge and strategy_for(self.policy.merge, key) is last_write_wins:
            return "*"
        return fingerprint(before)


class SessionData:
    """``digest`` names the session in errors."""

    _ends_when_empty = False

    def __init__(self, digest: str, snapshot: Snapshot, how: SessionFormat) -> None:
        self.digest = digest
        self.how = how
        # What is stored, as far as this request knows: loaded, saved, or told with a conflict.
        self._stand = (snapshot.version, True)  # and whether that is all that this version has
        self.created: str = snapshot.created
        # By field, with those by which a record is administered: most requests look at a few keys of many.
        self._stored = dict(snapshot.fields)
        self._had_keys = _has_keys(digest, self._stored)
        # What the application has: values decoded or assigned, keys with an assigned value, keys that it took out.
        self._values: dict[str, Any] = {}
        self._assigned: set[str] = set()
        self._deleted: set[str] = set()
        # What it has looked at: a value that was computed from it must not agree with others' by coincidence. ALL_KEYS
        # among them: which keys there are.
        self._read: set[str | bytes] = set()
        # Keys that were assigned ever: it may hold the very objects.
        self._given: set[str] = set()

    @property
    def version(self) -> int:
        return self._stand[0]

    @property
    def measured(self) -> int | None:
        """The version with which the size of the changes was compared; None: others' keys may have come since."""
        version, is_whole = self._stand
        return version if is_whole else None

    # --- for the mapping

    def read(self, key: str) -> Any:
        if key not in self._assigned and key not in self._deleted:
            self._read.add(key)
        return self._value(key)

    def _value(self, key: str) -> Any:
        if key in self._values:
            return self._values[key]
        if key in self._deleted:
            raise KeyError(key)
        raw = self._raw(key)
        if raw is None:
            raise KeyError(key)
        value = self._values[key] = self.how.codec.decode(key, raw)
        return value

    def _raw(self, key: Any) -> bytes | None:
        """What is stored under a key."""
        try:
            return self._stored.get(field_name(key))
        except (AttributeError, UnicodeEncodeError):
            return None  # no str, or none that can be stored

    def assign(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise CodecError(f"a session key must be a str, not {type(key).__name__}")
        self._values[key] = value
        self._assigned.add(key)
        self._given.add(key)
        self._deleted.discard(key)

    def delete(self, key: str) -> None:
        if not self._has(key):
            raise KeyError(key)
        self._values.pop(key, None)
        self._assigned.discard(key)
        if self._raw(key) is not None:
            self._deleted.add(key)

    def asked_for(self, key: object) -> bool:
        """Whether it is there; the answer counts as read."""
        if type(key) is str and key not in self._assigned and key not in self._deleted:
            self._read.add(key)
        return self._has(key)

    def _has(self, key: object) -> bool:
        return key in self._values or (key not in self._deleted and self._raw(key) is not None)

    def read_all(self) -> None:
        """The application looked at which keys there are."""
        self._read.add(ALL_KEYS)

    def keys(self) -> Iterator[str]:
        for key in own_keys(list(self._stored)):
            if key not in self._deleted:
                yield key
        for key in list(self._values):  # reading while iterating decodes more of them
            if self._raw(key) is None:
                yield key

    def size(self) -> int:
        return self._count() - len(self._deleted) + sum(self._raw(key) is None for key in self._values)

    def _count(self) -> int:
        return sum(1 for _ in own_keys(list(self._stored)))

    @property
    def weight(self) -> int:
        """About how many bytes the stored values have."""
        return sum(map(len, self._stored.values()))

    def ends_when_empty(self) -> None:
        """See :meth:`Session.ends_when_empty`."""
        self._ends_when_empty = True

    # --- without counting as read

    def peek(self, key: str, default: Any = None) -> Any:
        return self._value(key) if self._has(key) else default

    def present(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that are there, with their values."""
        return {key: value for key in keys if (value := self.peek(key, MISSING)) is not MISSING}

    def items(self) -> Iterator[tuple[str, Any]]:
        """All there is. A value that cannot be decoded is None: reading it is the error."""
        for key in self.keys():
            try:
                yield key, self.peek(key)
            except CodecError:
                yield key, None

    def encoded(self) -> dict[str, bytes]:
        """What is stored under each key, as it was when it was loaded or saved last."""
        return _own_fields(self._stored)

    def decoded(self, key: str, raw: bytes | None) -> Any:
        """``raw`` once more as a value, that nobody has in his hands; None where there is nothing."""
        return None if raw is None else self.how.codec.decode(key, raw)

    def given(self) -> list[str]:
        """The keys to which this request assigned something, saved or not."""
        return [key for key in self._given if self._has(key)]

    # --- what changed

    def in_time(self, changes: list[Change]) -> list[Change]:
        """These, if there are any, and only before the absolute end of the record, if it has one."""
        return [BEFORE_THE_END, *changes] if changes and BEFORE_THE_END.field in self._stored else changes

    def changes(self) -> list[Change]:
        """The fields that differ from what was loaded, ready to be sent.

        Raises:
            CodecError: a value cannot be stored.
            SessionTooLarge: a field, or the whole session, is over its limit.
        """
        how = self.how
        # Copies: threads of a request may change the session while it is being saved.
        found: list[Change] = []
        if self._deleted:
            found += [Change("d", field_of(key), b"", how.base(key, self._raw(key))) for key in list(self._deleted)]
        for key, value in list(self._values.items()):
            if key not in self._assigned and (type(value) in SCALARS or not self._handed_out(key)):
                continue
            before = self._raw(key)
            raw = how.encoded_if_changed(key, value, before)
            if raw is not None:
                self._check_field(key, raw)
                found.append(Change("s", field_of(key), raw, how.base(key, before)))
        if found:
            self._check_total(found)
        if self._ends_when_empty and self._had_keys and not self.size():
            found.append(Change("e", ALL_KEYS, b"", "*"))
        return found

    def changed_keys(self) -> list[str]:
        """The keys that :meth:`changes` is about."""
        return [key for change in self.changes() if (key := key_of_field(change.field)) is not None]

    def _handed_out(self, key: str) -> bool:
        """Whether the application may hold the very object, and have changed it inside."""
        return key in self._read or key in self._given or ALL_KEYS in self._read

    def checks(self, changes: list[Change]) -> list[Change]:
        """What was read and not changed, for a commit that is to compare it: absent keys too, and after iterating the
        set of keys. And what was assigned and is now as it was loaded: that is a change if others changed it.
        """
        known = self._read | self._given
        if ALL_KEYS in self._read:
            known |= set(own_keys(self._stored))
        written = {change.field for change in changes}
        found = [
            Change("c", field, b"", base)
            for key in known
            if isinstance(key, str)  # and not ALL_KEYS
            and (field := _field_or_none(key)) is not None
            and field not in written
            and (base := self.how.base(key, self._raw(key))) != "*"
        ]
        if ALL_KEYS in self._read:
            found.append(Change("n", ALL_KEYS, b"%d" % self._count(), "*"))
        return found

    def needs_the_lock(self, changes: list[Change]) -> bool:
        """Whether a lock's holder could be refused for these changes: not all of them merge with any other."""
        keys = (key_of_field(change.field) for change in changes)
        return any(key is not None and strategy_for(self.how.policy.merge, key) in MAY_CLASH for key in keys)

    def _check_field(self, key: str, raw: bytes) -> None:
        size, limit = len(raw) + len(key), self.how.policy.max_field
        if size > limit:
            what = f"key {key[:80]!r} has {size} bytes, its name included, more than SessionPolicy.max_field = {limit}"
            raise self._too_large(what, (key,), size, limit)

    def _check_total(self, found: list[Change]) -> None:
        if len(found) > MOST_CHANGES:
            what = f"{len(found)} keys were changed at once, more than {MOST_CHANGES}"
            raise self._too_large(what, (), len(found), MOST_CHANGES)
        limit = self.how.policy.max_session
        sent = 0
        for change in found:
            sent += len(change.field) + len(change.value)
        if self.weight + sum(map(len, self._stored)) + sent <= limit:
            return  # even with what is not counted
        own = _own_fields(self._stored)
        size = sent + sum(map(len, own)) + sum(map(len, own.values()))
        if size <= limit:
            return
        size -= sum(len(change.field) + len(self._stored.get(change.field, b"")) for change in found)
        if size > limit:
            keys = _largest(found)
            most = f"; of what was changed {keys[0][:80]!r} is the largest" if keys else ""
            what = f"it would have {size} bytes, more than SessionPolicy.max_session = {limit}{most}"
            raise self._too_large(what, keys, size, limit)

    def outgrown(self, changes: list[Change]) -> SessionTooLarge:
        """The error for changes that do not fit any more, with what others have stored since this was loaded."""
        limit = self.how.policy.max_session
        what = f"with what others have stored in it, it would have more bytes than SessionPolicy.max_session = {limit}"
        return self._too_large(what, _largest(changes), None, limit)

    def _too_large(self, what: str, keys: tuple[str, ...], size: int | None, limit: int) -> SessionTooLarge:
        text = f"session {self.digest}: {what}; nothing was saved"
        return SessionTooLarge(text, keys=keys, size=size, limit=limit).about(self.digest)

    # --- what became of it in the store

    def was_saved(self, changes: list[Change], outcome: Committed) -> None:
        """``changes`` are in the store now: later differences count from here."""
        for op, field, raw, _ in changes:
            key = key_of_field(field)
            if key is None:
                continue  # a condition
            if op == "d":
                self._stored.pop(field, None)
                self._deleted.discard(key)
                continue
            self._stored[field] = raw
            if key not in self._values:
                self._deleted.add(key)  # deleted while the save was under way
            elif self.how.encoded_if_changed(key, self._values[key], raw) is None:
                self._assigned.discard(key)
        if outcome.version is not None:
            version, is_whole = self._stand
            self._stand = (outcome.version, is_whole and outcome.version == version + 1)
        if outcome.version == 0:  # it was left empty, and its record has ended
            self._had_keys, self.created = False, ""
        else:
            self.created = outcome.created or self.created

    def was_counted(self, key: str, value: int) -> None:
        """An increment was committed."""
        self._stored[field_name(key)] = b"%d" % value
        self._values[key] = value
        self._assigned.discard(key)
        self._deleted.discard(key)

    def merge(self, conflict: Conflict) -> None:
        """Bring somebody else's changes in, by each key's strategy.

        Raises:
            SessionConflict: a key's strategy cannot merge the two; names all such keys.
        """
        how = self.how
        clashes: dict[str, Any] = {}
        for field, raw in conflict.theirs.items():
            key = key_of_field(field) or ""
            here, there = self.peek(key, MISSING), how.decoded(key, raw)
            if self._agrees(key, here, raw):
                self._take(key, raw, here)
                continue
            try:
                merged = strategy_for(how.policy.merge, key)(how.decoded(key, self._raw(key)), here, there)
            except Clash:
                clashes[key] = there
                continue
            self._read.add(key)  # the merged value was computed from theirs
            self._take(key, raw, merged)
        if clashes:
            raise self.conflict(
                f": somebody else changed {listed(clashes)} since it was loaded; nothing was saved. Load it again, or"
                " declare a merge strategy in SessionPolicy.merge",
                clashes,
            )
        self._stand = (conflict.version, False)

    def _agrees(self, key: str, here: Any, raw: bytes | None) -> bool:
        """Whether both sides came to the same *and* it means something: this one did not look at the key before.
        Equal results of two read-modify-writes are a lost update."""
        if key in self._read or ALL_KEYS in self._read:
            return False
        if here is MISSING or raw is None:
            return here is MISSING and raw is None
        return self.how.encoded_if_changed(key, here, raw) is None

    def _take(self, key: str, raw: bytes | None, merged: Any) -> None:
        """``raw`` is in the store now, and ``merged`` is to be."""
        if raw is None:
            self._stored.pop(field_name(key), None)
        else:
            self._stored[field_name(key)] = raw
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

    def theirs(self, conflict: Conflict) -> dict[str, Any]:
        """The keys of a conflict with the values in the store, MISSING where they were deleted."""
        decoded = self.how.decoded
        found = {key: decoded(key, raw) for f, raw in conflict.theirs.items() if (key := key_of_field(f))}
        if ALL_KEYS in conflict.theirs and conflict.snapshot is not None:
            now, before = _own_fields(conflict.snapshot.fields), _own_fields(self._stored)
            for key in now.keys() ^ before.keys():
                found[key] = decoded(key, now.get(key))
        return found

    def differing(self, other: SessionData) -> dict[str, Any]:
        """The keys whose values here and in ``other`` are not the same, with the values there."""
        keys = dict.fromkeys([*self.keys(), *other.keys()])
        both = ((key, self.peek(key, MISSING), other.peek(key, MISSING)) for key in keys)
        return {key: there for key, here, there in both if here != there}

    def conflict(self, what: str, theirs: dict[str, Any]) -> SessionConflict:
        """``what`` completes the sentence "session x"; ``theirs``: the keys it is about, as they are in the store."""
        return SessionConflict(
            f"session {self.digest}{what}",
            keys=tuple(theirs),
            ours=self.present(theirs),
            theirs={key: value for key, value in theirs.items() if value is not MISSING},
        ).about(self.digest)

    def changed_too_often(self, times: int) -> SessionConflict:
        """The error when others were faster each time that their changes had been merged."""
        return self.conflict(f" was changed by others {times} times while it was being saved; nothing was saved", {})


def _largest(changes: list[Change]) -> tuple[str, ...]:
    """The keys to which something was given, the largest first."""
    grown = sorted(changes, key=lambda change: len(change.value), reverse=True)
    return tuple(key for change in grown if change.value and (key := key_of_field(change.field)) is not None)


def own_keys(fields: Iterable[bytes]) -> Iterator[str]:
    """The application's keys among the fields of a record."""
    return (key for field in fields if (key := key_of_field(field)) is not None)


def _own_fields(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """What a record has, without the fields by which it is administered."""
    return {key: raw for field, raw in list(fields.items()) if (key := key_of_field(field)) is not None}


def _has_keys(digest: str, fields: Mapping[bytes, bytes]) -> bool:
    """Whether any of these is the application's.

    Raises:
        CodecError: one has a name that nobody writes through this library.
    """
    if not fields:
        return False
    try:
        b"\0".join(fields).decode()  # a look at all of them at once
    except UnicodeDecodeError as error:
        before, after = error.object[: error.start], error.object[error.start :]
        field = before.rpartition(b"\0")[2] + after.partition(b"\0")[0]
        raise CodecError(
            f"the stored session {digest} has a field whose name is not UTF-8: {field[:40]!r};"
            " it was not written by this library. Nothing was changed"
        ) from None
    return max(fields) >= AFTER_OURS or next(own_keys(fields), None) is not None


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


def listed(keys: Iterable[str]) -> str:
    """The keys for an error's text."""
    return ", ".join(map(repr, keys))


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
