"""Numbers, and how they are shown: a table per benchmark, a list of claims with goal and measurement for all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Claim", "Plot", "Report", "median", "quantile", "shown", "table"]


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


def shown(number: float) -> str:
    """With as many digits as a reader has use for."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


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


@dataclass
class Plot:
    """A picture: ``lines`` by name, each of (x, y), on logarithmic axes unless ``linear``; or ``bars`` by name."""

    name: str
    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    linear: bool = False


@dataclass
class Report:
    """What one benchmark found. ``lost`` are updates that sessionlock lost: anything but 0 is a failure.

    ``facts`` are bare numbers by name, for what is computed from them. ``printed`` is what a
    program printed, in place of a table. ``made``: when and on what it was measured.
    """

    name: str
    title: str
    how: str
    columns: list[str]
    rows: list[list[str]]
    claims: list[Claim]
    lost: int = 0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    printed: str = ""
    made: str = ""

    def text(self) -> str:
        parts = [f"{self.title}", self.how, "", self.printed or table(self.columns, self.rows), ""]
        parts += [f"{claim.what}: {shown(claim.measured)} (goal {claim.goal}: {_word(claim)})" for claim in self.claims]
        parts += [f"note: {note}" for note in self.notes]
        return "\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can say it."""
        whole = asdict(self)
        whole["claims"] = [{**asdict(claim), "met": claim.met} for claim in self.claims]
        return whole

    @classmethod
    def from_dict(cls, whole: dict[str, Any]) -> Report:
        """The reverse of :meth:`as_dict`."""
        claims = [Claim(claim["what"], claim["goal"], claim["measured"]) for claim in whole["claims"]]
        return cls(**{**whole, "claims": claims, "plots": [Plot(**plot) for plot in whole["plots"]]})


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
