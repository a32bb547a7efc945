"""The demo's result for people (at most 80 columns) and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ...version import __version__
from ..terminal import Style
from .plays import PAUSE, PLAYS
from .tally import Loss, Report, Run, Spread

__all__ = ["as_json", "as_text", "heading"]

LABEL, COLUMN = 38, 19
NEXT = (
    'Next:  guard = SessionGuard.from_url("redis://localhost:6379/0")',
    '       async with guard.session_lock(sid) as s: s["cart"].append("A")',
)


def heading(server: str, private: bool, nodes: int, requests: int, parallel: int, style: Style) -> str:
    """What will be played, before it is."""
    lines = [
        style.bold("sessionlock demo") + ": concurrent requests of one session, on several nodes",
        "",
        f"  server     {server}{' (private, ends with this demo)' if private else ''}",
        f"  nodes      {nodes} process{'es' if nodes != 1 else ''}",
        f"  sessions   {len(PLAYS)}: a cart, flash messages, a counter",
        f"  requests   {_number(requests)} to each session, up to {parallel} of them at once",
        f"  handlers   the same in both runs, with a pause of {PAUSE * 1000:g} ms between load and save",
        "",
    ]
    return "\n".join(lines)


def as_text(report: Report, style: Style) -> str:
    parts = (_lost(report, style), _cost(report, style), _order(report, style), _verdict(report, style), NEXT)
    return "\n\n".join("\n".join(part) for part in parts)


def _lost(report: Report, style: Style) -> Iterator[str]:
    yield style.bold(_row("WHAT WAS LOST", "unguarded", "guarded"))
    yield style.dim(_row("", f"GET {_dots(style)} SET", "session_lock"))
    for name, play in PLAYS.items():
        before, after = report.unguarded.lost[name], report.guarded.lost[name]
        label = f"  {name:<10}{play.what} lost"
        yield _row(label, _of(before), _of(after), style.bad, style.good, before.lost, after.lost)
        if name == "messages":
            yield _row(
                f"  {'':<10}messages delivered twice",
                _number(before.twice),
                _number(after.twice),
                style.bad,
                style.good,
                before.twice,
                after.twice,
            )
        elif before.twice or after.twice:
            yield _row(f"  {'':<10}{play.what} too many", _number(before.twice), _number(after.twice))
    for kind in report.guarded.refused:
        yield _row(f"  refused with {kind}", "-", _number(report.guarded.refused[kind]))


def _cost(report: Report, style: Style) -> Iterator[str]:
    before, after = report.unguarded, report.guarded
    yield style.bold("WHAT IT COST")
    yield _row(f"  requests per second, {len(PLAYS)} sessions", _number(before.per_second), _number(after.per_second))
    yield _row("  one request: median", _time(before.took.median, style), _time(after.took.median, style))
    yield _row("               99th percentile", _time(before.took.p99, style), _time(after.took.p99, style))
    yield _row("               handler alone, median", _time(before.handled, style), _time(after.handled, style))
    yield _row(
        "  meeting no other: load + save, median",
        _time(report.alone.unguarded.median, style),
        _time(report.alone.guarded.median, style),
    )
    yield _row("  Redis calls per request", _calls(before, "GET, SET"), _calls(after, "scripts"))
    yield _row("  Redis busy per request", _busy(before, style), _busy(after, style))
    yield style.dim("  Unguarded requests of one session overlap (so they lose), guarded ones take")
    yield style.dim("  turns: their times include the wait. One that meets no other does not wait.")
    whose = "" if report.private else ", other clients' calls included"
    yield style.dim(f"  Redis' numbers are as counted by the server{whose}.")


def _order(report: Report, style: Style) -> Iterator[str]:
    fifo = report.fifo
    yield style.bold("FIRST COME, FIRST SERVED")
    yield (
        f"  {_number(fifo.queued)} of {_number(fifo.granted)} guarded requests queued in Redis; served out of order: "
        + (_judged(fifo.out_of_order == 0, _number(fifo.out_of_order), style))
    )
    if fifo.queued:
        waits = fifo.waits
        yield (
            f"  wait: median {_time(waits.median, style)}, 99th percentile {_time(waits.p99, style)},"
            f" longest {_time(waits.longest, style)}"
        )
    grow = _judged(fifo.fences_grow, "strictly increasing" if fifo.fences_grow else "NOT increasing", style)
    yield f"  fencing tokens along the order of the saves: {grow}"


def _verdict(report: Report, style: Style) -> Iterator[str]:
    before, after = report.unguarded, report.guarded
    if not after.sound:
        yield style.bad(f"THE GUARDED RUN LOST {after.total_lost} AND DOUBLED {after.total_twice}.") + (
            " That must not happen: please report it."
        )
        return
    yield style.good("The guarded run lost nothing.") + " " + _unguarded_verdict(before)


def _unguarded_verdict(before: Run) -> str:
    if before.sound:
        return "This time the unguarded run lost nothing either: more --requests help."
    share = 100 * before.total_lost / max(1, before.total_acknowledged)
    return f"The unguarded one lost {share:.0f} % and reported no error."


def _row(
    label: str,
    before: str,
    after: str,
    paint_bad: Any = None,
    paint_good: Any = None,
    bad_before: int = 0,
    bad_after: int = 0,
) -> str:
    left, right = f"{before:>{COLUMN}}", f"{after:>{COLUMN}}"
    if paint_bad is not None:
        left = (paint_bad if bad_before else paint_good)(left)
        right = (paint_bad if bad_after else paint_good)(right)
    return f"{label:<{LABEL}}{left}{right}"


def _judged(good: bool, text: str, style: Style) -> str:
    return style.good(text) if good else style.bad(text)


def _of(loss: Loss) -> str:
    return f"{_number(loss.lost)} of {_number(loss.acknowledged)}"


def _calls(run: Run, what: str) -> str:
    return "unknown" if run.redis_calls is None else f"{run.redis_calls:.2f} {what}"


def _busy(run: Run, style: Style) -> str:
    return "unknown" if run.redis_busy is None else _time(run.redis_busy, style)


def _time(seconds: float, style: Style) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 0.0001:
        return f"{seconds * 1e6:.0f} {'µs' if style.rich else 'us'}"
    if seconds < 1:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds:.2f} s"


def _number(number: float) -> str:
    return f"{number:,.0f}"


def _dots(style: Style) -> str:
    return "…" if style.rich else "..."


def as_json(report: Report) -> dict[str, Any]:
    """Seconds everywhere; null where something could not be measured."""
    return {
        "sessionlock": __version__,
        "server": report.server,
        "private_server": report.private,
        "nodes": report.nodes,
        "requests_per_session": report.requests,
        "parallel_per_session": report.parallel,
        "pause": PAUSE,
        "seed": report.seed,
        "unguarded": _run_as_json(report.unguarded),
        "guarded": _run_as_json(report.guarded),
        "fifo": {**asdict(report.fifo), "waits": _spread_as_json(report.fifo.waits)},
        "alone": {
            "unguarded": _spread_as_json(report.alone.unguarded),
            "guarded": _spread_as_json(report.alone.guarded),
        },
        "guarded_lost_nothing": report.guarded.sound,
    }


def _run_as_json(run: Run) -> dict[str, Any]:
    return {
        **asdict(run),
        "took": _spread_as_json(run.took),
        "handled": _or_none(run.handled),
        "total_lost": run.total_lost,
    }


def _spread_as_json(spread: Spread) -> dict[str, float | None]:
    return {name: _or_none(value) for name, value in asdict(spread).items()}


def _or_none(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
