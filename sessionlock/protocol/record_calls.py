"""Calls about a stored session, as in :mod:`.calls`: with its lock, or without."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY
from typing import Any

from ..policies import SessionPolicy, quickly_frozen
from . import replies
from .calls import Call
from .changes import Change, Word, life, with_changes
from .inspected import Inspected, inspected
from .keys import SessionKeys
from .replies import Bound, Destroyed, Kept, Refused, Saved, Snapshot

__all__ = [
    "NEW",
    "Bind",
    "Commit",
    "Create",
    "Destroy",
    "Expire",
    "ForceRelease",
    "Increment",
    "Inspect",
    "Load",
    "Regenerate",
    "Save",
]

NEW = "new"  # instead of the stamp of a record: there is none yet, and one may be made


@quickly_frozen
class Save(Call[Saved]):
    """``measured``: as :class:`~.calls.Release` has it."""

    script = "save"
    ends = True
    numbered = True
    keys: SessionKeys
    token: str
    fence: int
    created: str
    session: SessionPolicy
    changes: Collection[Change]
    measured: int | None = None
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        stamp = self.created or self.keys.proof
        head: list[Word] = [
            self.op,
            self.low,
            self.token,
            f"{self.fence:016d}",
            stamp,
            life(self.session, self.measured),
        ]
        return with_changes(head, self.changes)

    def outcome(self, reply: Any) -> Saved:
        return replies.committed(reply)


@quickly_frozen
class Load(Call[Snapshot | Refused]):
    script = "load"
    needs_no_script = True
    keys: SessionKeys
    session: SessionPolicy

    def words(self) -> Sequence[Word]:
        return (self.session.idle_ms, self.session.refresh_ms, self.keys.proof)

    def outcome(self, reply: Any) -> Snapshot | Refused:
        return replies.loaded(reply)


@quickly_frozen
class Create(Call[Snapshot | Refused]):
    script = "create"
    numbered = True
    begins = True
    keys: SessionKeys
    session: SessionPolicy
    changes: Collection[Change]
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        return with_changes([self.op, self.low, self.keys.proof, life(self.session, 0)], self.changes)

    def outcome(self, reply: Any) -> Snapshot | Refused:
        return replies.loaded(reply)


@quickly_frozen
class Commit(Call[Saved]):
    """``expected_version`` None: any version whose fields are as they were read. ``measured``: as of a release."""

    script = "commit"
    needs_no_script = True
    numbered = True
    keys: SessionKeys
    created: str
    expected_version: int | None
    session: SessionPolicy
    changes: Collection[Change]
    measured: int | None = None
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        expected: Word = "" if self.expected_version is None else self.expected_version
        limits = life(self.session, self.measured)
        head: list[Word] = [self.op, self.low, self.keys.proof, self.created, expected, limits]
        return with_changes(head, self.changes)

    @property
    def begins(self) -> bool:  # type: ignore[override]
        return not self.created

    def outcome(self, reply: Any) -> Saved:
        return replies.committed(reply)


@quickly_frozen
class Increment(Call[Saved]):
    """``lease``: token and fence when it is done under the lock."""

    script = "incr"
    numbered = True
    keys: SessionKeys
    lease: tuple[str, int] | None
    created: str
    session: SessionPolicy
    change: Change
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        token, fence = self.lease or ("", 0)
        stamp = self.created
        head: list[Word] = [self.op, self.low, token, f"{fence:016d}", stamp, self.keys.proof, life(self.session)]
        return with_changes(head, [self.change])

    @property
    def begins(self) -> bool:  # type: ignore[override]
        return self.created == NEW

    def outcome(self, reply: Any) -> Saved:
        return replies.committed(reply)


@quickly_frozen
class Destroy(Call[Destroyed]):
    """``replaced``: a new session has taken its place, so whoever still comes with its id is to be told that."""

    script = "destroy"
    numbered = True
    keys: SessionKeys
    session: SessionPolicy
    _: KW_ONLY
    replaced: bool = False
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        return (self.op, self.low, self.session.tombstone_ms, self.keys.proof, 1 if self.replaced else 0)

    def outcome(self, reply: Any) -> Destroyed:
        return replies.destroyed(reply)


@quickly_frozen
class Regenerate(Call[Refused | None]):
    """``lease``: token and fence when it is done under the lock. None: done."""

    script = "regenerate"
    numbered = True
    keys: SessionKeys
    new_proof: str
    grace_ms: int
    lease: tuple[str, int] | None
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        token, fence = self.lease or ("", 0)
        return (self.op, self.low, self.keys.proof, self.new_proof, self.grace_ms, token, f"{fence:016d}")

    def outcome(self, reply: Any) -> Refused | None:
        return None if replies.kind_of(reply) in ("regenerated", "already") else replies.refused(reply)


@quickly_frozen
class Expire(Call[Kept | Refused]):
    """Let the record end ``ttl_ms`` from now, sooner or later than it would."""

    script = "expire"
    numbered = True
    keys: SessionKeys
    ttl_ms: int
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        return (self.op, self.low, self.ttl_ms, self.keys.proof)

    def outcome(self, reply: Any) -> Kept | Refused:
        return replies.kept(reply)


@quickly_frozen
class Bind(Call[Bound | Refused]):
    script = "bind"
    numbered = True
    keys: SessionKeys
    user: str
    op: str = ""
    low: str = ""

    def words(self) -> Sequence[Word]:
        return (self.op, self.low, self.user, self.keys.proof)

    def outcome(self, reply: Any) -> Bound | Refused:
        return replies.bound(reply)


@quickly_frozen
class Inspect(Call[Inspected]):
    """``waiters``: whether they are looked at, which takes the longer the more there are."""

    script = "inspect"
    keys: SessionKeys
    _: KW_ONLY
    waiters: bool = True

    def words(self) -> Sequence[Word]:
        return (1 if self.waiters else 0,)

    def outcome(self, reply: Any) -> Inspected:
        return inspected(reply)


@quickly_frozen
class ForceRelease(Call[str]):
    """``released``; ``not-holder``; ``over``: it was the holder, and was the last to be taken out by force."""

    script = "force_release"
    keys: SessionKeys
    token: str
    _: KW_ONLY
    deaf: bool = False

    def words(self) -> Sequence[Word]:
        return (self.token, 1 if self.deaf else 0)

    def outcome(self, reply: Any) -> str:
        return replies.kind_of(reply)
