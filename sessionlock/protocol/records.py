"""Completion records as ``lua/_done.lua`` keeps them, for commits that may not run scripts."""

from __future__ import annotations

from .numbers import NAME_LENGTH, OP_LENGTH

__all__ = ["LAST_LENGTH", "finish", "has_finished", "issuer_of"]

LAST_LENGTH = OP_LENGTH + 16  # name, the number that finished last, low


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
