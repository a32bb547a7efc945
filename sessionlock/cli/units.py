"""Numbers for people: times, sizes, counts."""

from __future__ import annotations

__all__ = ["count", "duration", "share", "size"]

LARGER = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float) -> str:
    """Two units at the most: ``13 d 4 h``, ``2 min 5 s``, ``0.42 s``."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    whole = int(seconds)
    for unit, name, part, small in LARGER:
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {name}" + (f" {rest} {small}" if rest else "")
    raise AssertionError("unreachable")


def size(number: float) -> str:
    """``408 B``, ``1.2 KiB``."""
    if number < 1024:
        return f"{number:.0f} B"
    power = min((int(number).bit_length() - 1) // 10, 4)
    return f"{number / 1024**power:.1f} {' KMGT'[power]}iB"


def count(number: int, one: str, many: str = "") -> str:
    """``1 lock``, ``1,000 locks``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: float) -> str:
    """Of a whole, in percent, and never 100 % before it is."""
    return "100 %" if part >= 1 else f"{min(99, int(part * 100))} %"
