"""The field ``#state`` (``lua/_base.lua``), and the completion record at its end (``lua/_done.lua``)."""

from __future__ import annotations

from .numbers import NAME_LENGTH, OP_LENGTH

__all__ = [
    "begun",
    "created_in",
    "done_in",
    "ended",
    "fence_in",
    "finish",
    "finished_after",
    "has_finished",
    "id_in",
    "issuer_of",
    "state_of",
]

NO_NUMBER = b"0" * 16
NO_ID = b"-" * 26
FENCE, CREATED, DUE = slice(16), slice(16, 32), slice(32, 48)
QUEUED, ID, DONE = slice(48, 49), slice(49, 75), slice(75, None)
LAST_LENGTH = OP_LENGTH + 16  # name, the number that finished last, low


def fence_in(state: bytes | None) -> int:
    """The highest fencing token granted."""
    return int(state[FENCE]) if state else 0


def id_in(state: bytes | None) -> bytes | None:
    """The proof of the id that is valid now; None: there is no record."""
    proof = state[ID] if state else NO_ID
    return None if proof == NO_ID or not proof else proof


def finished_after(state: bytes, token: str, low: str) -> bytes:
    """``#state`` when the acquisition of that token has finished, where that is simple: the one before was the same
    client's and has been answered, and no others are kept. Else ``b""``.
    """
    name, below = token[:NAME_LENGTH].encode(), low.encode()
    end = DONE.start + LAST_LENGTH
    if len(state) != end or state[DONE.start : end - 32] != name or state[end - 32 : end - 16] >= below:
        return b""
    return state[: DONE.start] + token[:OP_LENGTH].encode() + below


def done_in(state: bytes | None) -> str | None:
    """The completion record of whoever finished something last."""
    return state[DONE].decode() or None if state else None


def created_in(state: bytes | None) -> str:
    """When the record came to be; "": there is none."""
    stamp = state[CREATED] if state else NO_NUMBER
    return "" if stamp == NO_NUMBER else stamp.decode()


def state_of(state: bytes | None, done: str) -> bytes:
    """The field after a commit."""
    if not state:
        return NO_NUMBER * 3 + b"0" + NO_ID + done.encode()
    return state[: DONE.start] + done.encode()


def begun(state: bytes, created: int, proof: str) -> bytes:
    """The field of a record that begins. It has no due time: the next load looks after its life."""
    known = state[ID]
    head = state[FENCE] + b"%016d" % created + NO_NUMBER + state[QUEUED]
    return head + (proof.encode() if known == NO_ID else known) + state[DONE]


def ended(state: bytes) -> bytes:
    """The field of a record that has ended."""
    return state[FENCE] + NO_NUMBER * 2 + state[QUEUED] + NO_ID + state[DONE]


def issuer_of(record: str) -> str:
    """Of the client whose record or op this is."""
    return record[:NAME_LENGTH]


def has_finished(op: str, record: str) -> bool:
    """Whether that call, or all with such low numbers, finished before."""
    number = op[NAME_LENGTH:OP_LENGTH]
    return number < record[OP_LENGTH:LAST_LENGTH] or number in _numbers(record)


def finish(op: str, low: str, record: str | None) -> str:
    """The record of the same client after this call; None: it had none."""
    name, number = issuer_of(op), op[NAME_LENGTH:OP_LENGTH]
    if record is None:
        return name + number + low
    low = max(low, record[OP_LENGTH:LAST_LENGTH])
    if number < low:
        return record
    kept = {entry.partition("=")[0]: f" {entry}" for entry in record[LAST_LENGTH:].split()}
    kept.setdefault(record[NAME_LENGTH:OP_LENGTH], " " + record[NAME_LENGTH:OP_LENGTH])
    kept.pop(number, None)
    return name + number + low + "".join(entry for other, entry in kept.items() if other >= low)


def _numbers(record: str) -> list[str]:
    entries = record[LAST_LENGTH:].split()
    return [record[NAME_LENGTH:OP_LENGTH], *(entry.partition("=")[0] for entry in entries)]
