"""Numbers, and how they are shown: a table per benchmark, a list of claims with goal and measurement for all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Claim", "Report", "median", "quantile", "table"]


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie, nan for no values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Iterable[float]) -> float:
    return quantile(values, 0.5)


@dataclass(frozen=True)
class Claim:
    """One sentence that was put to the test. ``goal`` as ``"<= 1.4"`` or ``">= 30"``, or ``"= 2"``."""

    what: str
    goal: str
    measured: float

    @property
    def met(self) -> bool:
        relation, bound = self.goal.split()
        if relation == "<=":
            return self.measured <= float(bound)
        if relation == ">=":
            return self.measured >= float(bound)
        return self.measured == float(bound)

    def cells(self) -> list[str]:
        return [self.what, self.goal, f"{self.measured:.4g}", "yes" if self.met else "NO"]


@dataclass
class Report:
    """What one benchmark found. ``lost`` are updates that sessionlock lost: anything but 0 is a failure."""

    name: str
    title: str
    how: str
    columns: list[str]
    rows: list[list[str]]
    claims: list[Claim]
    lost: int = 0
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        parts = [f"{self.title}", self.how, "", table(self.columns, self.rows), ""]
        parts += [f"{claim.what}: {claim.measured:.4g} (goal {claim.goal}: {_word(claim)})" for claim in self.claims]
        parts += [f"note: {note}" for note in self.notes]
        return "\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can say it."""
        whole = asdict(self)
        whole["claims"] = [{**asdict(claim), "met": claim.met} for claim in self.claims]
        return whole


def _word(claim: Claim) -> str:
    return "met" if claim.met else "MISSED"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it stands; the first column is text, the others are numbers."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]

    def drawn(line: Sequence[str]) -> str:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([drawn(lines[0]), drawn(rule), *map(drawn, lines[1:])])
