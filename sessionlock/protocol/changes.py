"""What a commit changes, field by field, within which limits, and how that is written for ``lua/_commit.lua``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from ..policies import SessionPolicy

__all__ = ["BEFORE_THE_END", "Change", "Word", "fingerprint", "in_one_word", "life", "with_changes"]

SHORT = 64  # bytes; longer values are compared by their SHA-1
MOST_APART = 500  # changes that are sent as words of their own; more travel in one
Word: TypeAlias = "bytes | str | int"


@lru_cache(maxsize=256)
def in_one_word(*given: Word) -> str:
    """In one word: scripts take it apart seldom."""
    return " ".join(str(int(one)) if isinstance(one, bool) else str(one) for one in given)


def life(session: SessionPolicy | None, measured: int | None = None) -> str:
    """How long a record lives and how large it may be, in one word: scripts need it seldom. ``measured``: with a record
    of this version the caller has compared the changes already; None: with none.
    """
    version = "-" if measured is None else measured
    if session is None:
        return f"0 0 0 0 {version}"
    return f"{in_one_word(session.idle_ms, session.absolute_ms, session.refresh_ms, session.max_session)} {version}"


class Change(NamedTuple):
    """One changed field: ``op`` is ``s`` set, ``d`` delete or ``i`` increment; or a condition: ``c`` the field is as it
    was read, ``n`` there are ``value`` fields, ``f`` nobody holds the lock, ``x`` its absolute end has not come;
    or ``e``: the record ends if this leaves it empty.

    ``base`` is the :func:`fingerprint` of the bytes that were read, ``"*"`` for "whatever is there". The store
    refuses the whole commit when a base does not match.
    """

    op: str
    field: bytes
    value: bytes
    base: bytes | str


BEFORE_THE_END = Change("x", b"#expires", b"", "*")


def fingerprint(raw: bytes | None) -> bytes | str:
    """What a commit is compared by: a field's bytes when short, else their SHA-1; ``""`` if absent.

    Content instead of a counter, so that changes by HINCRBY and by foreign writers are noticed too.
    """
    if raw is None:
        return ""
    if len(raw) <= SHORT:
        return b"=" + raw
    return "#" + hashlib.sha1(raw, usedforsecurity=False).hexdigest()


def with_changes(head: list[Word], changes: Collection[Change]) -> list[Word]:
    """Three words a change; of many changes one word in all, for some servers take 3,999 a request at the most."""
    if len(changes) > MOST_APART:
        head.append(_packed(changes))
        return head
    for op, field, value, base in changes:
        head += (op.encode() + (base if isinstance(base, bytes) else base.encode()), field, value)
    return head


def _packed(changes: Collection[Change]) -> bytes:
    """As _commit.lua takes it apart."""
    packed = []
    for op, field, value, base in changes:
        kind = op.encode() + (base if isinstance(base, bytes) else base.encode())
        packed.append(b"%d %d %d:%b%b%b" % (len(kind), len(field), len(value), kind, field, value))
    return b"".join(packed)
