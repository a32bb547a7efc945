"""Numbers that options take, as types for argparse, which names a type in its messages."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["at_least", "between", "seconds"]

LONGEST = 86_400.0  # a day


def between(least: int, most: int | None) -> Callable[[str], int]:
    """A whole number from ``least`` to ``most``; None: there is no end."""

    def number(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(
                f"must be {least} or more" if most is None else f"must be from {least} to {most}"
            )
        return value

    return number


def at_least(least: int) -> Callable[[str], int]:
    return between(least, None)


def seconds(text: str) -> float:
    """Above 0, and no more than a day; so neither infinite nor not a number."""
    value = float(text)
    if not 0 < value <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be above 0, and at most {LONGEST:.0f} seconds")
    return value


seconds.__name__ = "number of seconds"
