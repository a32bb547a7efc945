"""What of a key was lost, and what of that came back."""

from __future__ import annotations

from typing import Any

from .compare import Token
from .facts import Path, is_number

__all__ = ["Ledger"]

MOST_LOST = 512  # updates that may come back
MOST_TOKENS = 256  # of one update
MOST_NUMBERS = 64  # of which the step is known


class Ledger:
    """``lost``: by the version whose change it was; and the value, of a scalar. ``back``: with which version."""

    def __init__(self) -> None:
        self.lost: dict[int, dict[Token, Any]] = {}
        self.back: dict[tuple[int, Token], int] = {}
        self._step: dict[Path, float] = {}  # the smallest one seen, of a number
        self._nobody = 0

    def lose(self, number: int, values: dict[Token, Any]) -> None:
        """Changes of that version are gone. ``values``: what stood there, of a scalar."""
        kept = self.lost.setdefault(number, {})
        kept.update(list(values.items())[: MOST_TOKENS - len(kept)] if len(kept) < MOST_TOKENS else ())
        for token in values:
            self.back.pop((number, token), None)
        while len(self.lost) > MOST_LOST:
            del self.lost[next(iter(self.lost))]

    def bring_back(self, number: int, token: Token, by: int) -> None:
        """It is there again with version ``by``."""
        del self.lost[number][token]
        if not self.lost[number]:
            del self.lost[number]
        self.back[number, token] = by
        while len(self.back) > MOST_LOST:
            del self.back[next(iter(self.back))]

    def counted(
        self, token: Token, base: int, makers: list[int], numbers: tuple[Any, Any, Any]
    ) -> tuple[list[int], list[int]]:
        """Of a number that saves count up or down: whose counting is gone, and whose is there again.

        So many are gone as the number lacks steps, whoever made them. ``base``: the save's. ``makers``: who counted
        since. ``numbers``: what the save had read, what stood there, and what stands there now.
        """
        makers += [number for (number, other), by in self.back.items() if other == token and by > base]
        makers = [number for number in dict.fromkeys(makers) if token not in self.lost.get(number, ())]
        steps = self._steps(token.path, *numbers)
        if steps is None:
            return makers[:1], []
        if steps < 0:
            told = [number for number, tokens in self.lost.items() if token in tokens]
            return [], told[steps:]
        while len(makers) < steps:
            self._nobody -= 1
            makers.append(self._nobody)
        return makers[:steps], []

    def _steps(self, path: Path, was: Any, stood: Any, now: Any) -> int | None:
        """How many steps, such as saves make there, lie between two numbers; None where that cannot be said."""
        if not (is_number(was) and is_number(stood) and is_number(now)) or was == now:
            return None
        step = min(abs(now - was), self._step.get(path, abs(now - was)))
        if len(self._step) < MOST_NUMBERS or path in self._step:
            self._step[path] = step
        try:
            steps = abs(stood - was) / step
            if steps != int(steps) or steps > MOST_LOST:
                return None
        except (OverflowError, ValueError):
            return None
        return int(steps) if (stood > was) == (now > was) else -int(steps)
