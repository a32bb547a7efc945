"""Tables and pictures of the documentation, made of the results: no number there is written by hand.

A page has a block for each; what is between its two lines is replaced::

    <!-- benchmark: hot_session -->
    <!-- end -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks import scale
from benchmarks.contenders import GUARDED, GUARDED_ALL, POTTERY, REDIS_PY_LOCK, UNGUARDED
from benchmarks.report import Claim, Report, shown, table
from benchmarks.results import Results

__all__ = ["PAGES", "fill", "write"]

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("audit", "benchmarks", "outages", "scale")))
IMAGES = ROOT / "docs" / "images"
BLOCK = re.compile(r"(<!-- benchmark: (?P<name>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SPELT = {
    "starlette": "Starlette",
    "fastapi": "FastAPI",
    "litestar": "Litestar",
    "quart": "Quart",
    "django-asgi": "Django, ASGI",
    "django-wsgi": "Django, WSGI",
    "flask": "Flask",
}
RELATIONS = {"<=": "≤", ">=": "≥", "=": "="}
NOT_YET = "*Not measured yet.*"


def write(results: Results) -> None:
    """All pages and pictures; the pictures stay as they are where matplotlib is not installed."""
    for page in PAGES:
        page.write_text(fill(page.read_text(), results))
    if find_spec("matplotlib") is None:
        print("no pictures without matplotlib: pip install 'sessionlock[benchmarks]'", file=sys.stderr)
        return
    from benchmarks.pictures import draw

    names = {report.name for _, report in results.all}
    for name in names:
        draw(results.of(name), IMAGES)


def fill(text: str, results: Results) -> str:
    """The page's text with all its blocks as the results have them."""

    def filled(block: re.Match[str]) -> str:
        make = MADE.get(block["name"])
        try:
            made = _reports(results.of(block["name"])) if make is None else make(results)
        except LookupError:
            made = NOT_YET
        return f"{block[1]}{made}\n{block[3]}"

    return BLOCK.sub(filled, text)


def _reports(of: dict[str, Report]) -> str:
    """How, table and notes for each server; then the pictures."""
    parts = []
    for report in of.values():
        parts += [
            f"{report.how}.",
            f"```text\n{report.printed}\n```" if report.printed else table(report.columns, report.rows),
        ]
        parts += [f"Measured: {report.made}."]
    for report in list(of.values())[:1]:
        parts += [f"- {note}" for note in report.notes]
        parts += [f"![{plot.title}](images/benchmark-{plot.name}.png)" for plot in report.plots]
    return "\n\n".join(parts) or NOT_YET


def claims(results: Results) -> str:
    """All claims, with what each server showed. A missed one is in bold."""
    servers = list(dict.fromkeys(server for server, _ in results.all))
    found: dict[str, dict[str, Claim]] = {}
    for server, report in results.all:
        for claim in report.claims:
            found.setdefault(claim.what, {})[server] = claim
    if not found:
        return NOT_YET
    rows = []
    for what, of in found.items():
        relation, bound = next(iter(of.values())).goal.split()
        goal = f"{RELATIONS[relation]} {shown(float(bound))}"
        rows.append([what, goal, *(_cell(of.get(server)) for server in servers)])
    return table(["claim", "goal", *servers], rows)


def _cell(claim: Claim | None) -> str:
    if claim is None:
        return ""
    if claim.met:
        return shown(claim.measured)
    missed = f"{claim.measured:.4g}" if abs(claim.measured) < 1000 else shown(claim.measured)  # 1.003 is not 1
    return f"**{missed}: missed**"


def _lost(results: Results) -> str:
    """What the frameworks' usual back ends lose."""
    rows = results.first("frameworks").rows
    return table(
        ["framework", "its usual back end", "lost of 50", "with sessionlock"],
        [[SPELT.get(site, site), back_end, lost, guarded] for site, back_end, lost, _, guarded in rows],
    )


def _in_short(results: Results) -> str:
    """What a reader of the README wants to know."""
    one, hot, counted = (results.first(name) for name in ("uncontended", "hot_session", "instructions"))
    bursts = next(claim for claim in hot.claims if REDIS_PY_LOCK in claim.what)
    together = {name: one.facts[f"together: {name}"] for name in (GUARDED, GUARDED_ALL, REDIS_PY_LOCK)}
    pottery = one.facts.get(f"together: {POTTERY}")
    rows = [
        [
            "packets to Redis of a request that meets no other; of GET + SET",
            "; ".join(shown(one.facts[f"packets: {name}"]) for name in (GUARDED, UNGUARDED)),
        ],
        [
            "its time / unguarded GET + SET, median",
            f"{together[GUARDED]:.2f}; {together[GUARDED_ALL]:.2f} when the handler reads every key",
        ],
        [
            "the same with redis-py's `Lock`, pottery's `AIORedlock`",
            f"{together[REDIS_PY_LOCK]:.2f}, {'–' if pottery is None else f'{pottery:.2f}'}",
        ],
        [
            "instructions at Redis, and in the process",
            f"{counted.facts['server: sessionlock']:,.0f}, {counted.facts['client: sessionlock']:,.0f}",
        ],
        [
            bursts.what.partition(",")[0].replace("waiters", "requests of one session at the same instant"),
            f"{shown(bursts.measured)} times the throughput of redis-py's `Lock`, first come first served",
        ],
    ]
    return table(["", "measured"], rows)


MADE: dict[str, Callable[[Results], str]] = {
    "claims": claims,
    "in short": _in_short,
    "lost": _lost,
    "scale costs": scale.costs,
    "scale checked": scale.checked,
    "scale assumptions": scale.assumptions,
    "scale limits": scale.limits,
    "scale carried": scale.carried,
}
