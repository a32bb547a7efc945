"""What the requests of an application usually do to their sessions: by that it is judged which read a save is based on.

A request that adds a product and counts it, as all do, is likelier than one that takes out what another has just put
in, adds its own, and does not count. So of each path it is counted what saves did to it whose base is known, and how
often a save's base was old. How odd something is, is the negative logarithm of its share (naive Bayes; the constants
here are pseudo-counts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .compare import Deed
from .facts import Path

__all__ = ["Habits"]

LEFT_ALONE = "left alone"
USUAL: dict[Deed, float] = {
    LEFT_ALONE: 3.0,
    "new": 0.5,
    "set": 0.5,
    "grown 1": 1.0,
    "grown 2": 0.2,
    "emptied": 0.3,
    1: 1.0,
}
UNUSUAL = 0.15
ALL_USUAL = sum(USUAL.values()) + 4 * UNUSUAL
FRESH, STALE, AGAIN = 9.0, 0.5, 2.0
MOST_PATHS = 2_000
MOST_KINDS = 16  # of one path
ENOUGH = 200  # saves, from which on only few more are learned from
LONG_ENOUGH = 5_000  # reads and saves, behind which no more are waited for
SELDOM = 16


class Habits:
    """Of keys whose names begin alike. What is learned counts by its ``surety``, from 0 to 1."""

    def __init__(self) -> None:
        self.are_new: bool = True
        """Whether nothing was judged yet."""
        self._heard = self._awaited = self._asked = 0
        self._saves = self._fresh = self._stale = self._again = 0.0
        self._done: dict[Path, dict[Deed, float]] = {}
        self._changed: dict[Path, float] = {}

    def await_save(self, what: str) -> bool:
        """Something came that is not judged yet; whether there are enough saves now to learn from."""
        self._heard += 1
        self._awaited += what not in ("read", "extend")
        return self._awaited >= ENOUGH or self._heard >= LONG_ENOUGH

    def have_begun(self) -> None:
        """From now on they are learned."""
        self.are_new = False

    # --- what a save is based on

    def timing(self, *, stale: bool, again: bool) -> float:
        """How odd it is that a save is based on something that has been overwritten; or is a request's second one."""
        seen, usual = (self._again, AGAIN) if again else (self._stale, STALE) if stale else (self._fresh, FRESH)
        judged = self._fresh + self._stale + self._again
        return -math.log((seen + usual) / (judged + FRESH + STALE + AGAIN))

    def was_timed(self, *, stale: bool, again: bool, surety: float) -> None:
        """So one was found to be."""
        if again:
            self._again += surety
        elif stale:
            self._stale += surety
        else:
            self._fresh += surety

    # --- what it does

    def wants_more(self) -> bool:
        """Whether another save is worth reading what it did."""
        self._asked += 1
        return self._saves < ENOUGH or self._asked % SELDOM == 0

    def learn(self, done: dict[Path, Deed], surety: float) -> None:
        """What one save did."""
        self._saves += surety
        for path, deed in done.items():
            if path not in self._done and len(self._done) >= MOST_PATHS:
                continue
            of_path = self._done.setdefault(path, {})
            if deed in of_path or len(of_path) < MOST_KINDS:
                of_path[deed] = of_path.get(deed, 0.0) + surety
            self._changed[path] = self._changed.get(path, 0.0) + surety

    def oddness(self, done: dict[Path, Deed], paths: Iterable[Path]) -> float:
        """Of a save that does that. ``paths``: those that it, or another that it is compared with, changes."""
        return sum(self._odd(path, done.get(path, LEFT_ALONE)) for path in paths)

    def _odd(self, path: Path, deed: Deed) -> float:
        of_path = self._done.get(path)
        usual = USUAL.get(deed, UNUSUAL)
        if of_path is None:
            return -math.log(usual / ALL_USUAL)
        seen = self._saves - self._changed[path] if deed == LEFT_ALONE else of_path.get(deed, 0.0)
        return -math.log((seen + usual) / (self._saves + ALL_USUAL))
