"""Write ``dashboard.json`` and ``alerts.yml`` beside this file: ``python -m examples.observe``.

The dashboard is imported in Grafana (Dashboards, New, Import), the alerts are a rules file of Prometheus. Both are for
the names of ``sessionlock.integrations.prometheus``. Exporters of OpenTelemetry give the same names to metrics, and
begin labels with ``sessionlock_``: ``python -m examples.observe --opentelemetry FOLDER`` writes both for them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ALERTS", "PANELS", "Alert", "Panel", "alerts", "dashboard", "for_opentelemetry"]

HERE = Path(__file__).parent
RATE = "[$__rate_interval]"
ACQUISITIONS = "sessionlock_lock_acquisitions_total"
TURNED_AWAY = 'outcome=~"timed_out|queue_full|unavailable"'


class Panel(NamedTuple):
    """``queries``: what is drawn, by its legend. ``kind``: timeseries or stat. ``width``: of 24. ``limits``: from which
    value on it has which colour; on a graph, lines. ``stacked``: the values add up to something. ``colours``: of a
    legend; what has none is coloured by its place. ``nothing``: what a stat says instead of "No data".
    """

    title: str
    tells: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    limits: tuple[tuple[float, str], ...] = ()
    stacked: bool = False
    colours: dict[str, str] = {}  # noqa: RUF012 (never changed)
    decimals: int | None = None
    nothing: str = "0"


class Alert(NamedTuple):
    """``lasting``: how long it has to hold. ``because``: why that threshold. ``then``: what to do."""

    name: str
    when: str
    lasting: str
    severity: str
    tells: str
    because: str
    then: str


def _quantile(share: float, metric: str, by: str = "", interval: str = RATE) -> str:
    return f"histogram_quantile({share}, sum by (le{by and ', '}{by}) (rate({metric}_bucket{interval})))"


WAIT, HOLD = "sessionlock_lock_wait_duration_seconds", "sessionlock_lock_hold_duration_seconds"
QUEUE = "sessionlock_lock_queue_length"
STAT = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
TIMESERIES = {
    "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
BLOCKED, HELD_TIME = "sessionlock_lock_blocked_time_seconds_total", "sessionlock_lock_held_time_seconds_total"


def _stat(title: str, tells: str, query: str, **more: Any) -> Panel:
    return Panel(title, tells, {"all": query}, kind="stat", width=4, height=4, **more)


PANELS = (
    # Is anything wrong?
    _stat(
        "Redis out of reach",
        "Of how many processes; each event loop counts for itself",
        "sum(sessionlock_redis_down)",
        limits=((1, "red"),),
    ),
    _stat(
        "Turned away",
        "Of those that asked for a lock, answered 503 or 429: the wait was over, too many waited, no Redis",
        f"(sum(rate({ACQUISITIONS}{{{TURNED_AWAY}}}{RATE})) or vector(0)) / sum(rate({ACQUISITIONS}{RATE}))",
        unit="percentunit",
        limits=((0.0001, "orange"), (0.001, "red")),
        decimals=2,
        nothing="no requests",
    ),
    _stat(
        "Waits, 95 %",
        "Of those that found the lock taken",
        _quantile(0.95, WAIT),
        unit="s",
        limits=((0.3, "orange"), (1, "red")),
        nothing="no waits",
    ),
    _stat(
        "Leases lost, last hour",
        "Each one is a request whose save was refused",
        "sum(increase(sessionlock_lock_lost_total[1h])) or vector(0)",
        limits=((0.5, "red"),),
        decimals=0,
    ),
    _stat(
        "Saves refused, last hour",
        "Conflicts, sessions that are gone or too large, leases that were lost",
        "sum(increase(sessionlock_changes_refused_total[1h])) or vector(0)",
        limits=((0.5, "orange"),),
        decimals=0,
    ),
    _stat(
        "Locks asked for",
        "Requests for a lock per second",
        f"sum(rate({ACQUISITIONS}{RATE}))",
        unit="reqps",
        nothing="no requests",
    ),
    # Who waits, and for whom?
    Panel(
        "Who makes others wait",
        "Requests that wait at a time, on average, by the route that holds the lock they wait for. Look here first",
        {"{{holder_route}}": f"topk(10, sum by (holder_route) (rate({BLOCKED}{RATE})))"},
        stacked=True,
    ),
    Panel(
        "Who waits",
        "The same requests by their own route",
        {"{{route}}": f"topk(10, sum by (route) (rate({BLOCKED}{RATE})))"},
        stacked=True,
    ),
    Panel(
        "How long waits are",
        "Of those that found the lock taken. The line is where people notice",
        {"50 %": _quantile(0.5, WAIT), "95 %": _quantile(0.95, WAIT), "99 %": _quantile(0.99, WAIT)},
        "s",
        limits=((1, "red"),),
        colours={"50 %": "green", "95 %": "yellow", "99 %": "orange"},
    ),
    Panel(
        "How long locks are held, 99 %",
        "By route. A wait is somebody else's hold",
        {"{{route}}": f"topk(10, {_quantile(0.99, HOLD, 'route')})"},
        "s",
        limits=((5, "red"),),
    ),
    # Who got no lock, and whose changes were not saved?
    Panel(
        "Requests that got no lock, per minute",
        "timed_out and unavailable: 503. queue_full: 429. reentrant: 409. abandoned: the visitor left",
        {"{{outcome}}": f'60 * sum by (outcome) (rate({ACQUISITIONS}{{outcome!="granted"}}{RATE}))'},
        colours={
            "timed_out": "red",
            "queue_full": "orange",
            "unavailable": "purple",
            "abandoned": "blue",
            "not_found": "text",
        },
    ),
    Panel(
        "Refused and merged, per minute",
        "Saves that were refused, or merged with somebody else's; reads without a lock that found no session",
        {
            "refused: {{error_type}}": f"60 * sum by (error_type) (rate(sessionlock_changes_refused_total{RATE}))",
            "not read: {{error_type}}": f"60 * sum by (error_type) (rate(sessionlock_loads_refused_total{RATE}))",
            "merged": f"60 * sum(rate(sessionlock_changes_merged_total{RATE})) or vector(0)",
        },
        colours={"merged": "text"},
    ),
    # How many are there, and for how long?
    Panel(
        "Waiting and held now",
        "Over all processes",
        {"waiting": "sum(sessionlock_lock_waiting)", "held": "sum(sessionlock_lock_held)"},
        colours={"waiting": "orange", "held": "blue"},
    ),
    Panel(
        "How many wait for one session",
        "For each that began to wait, itself included. By default 64 may; the line is half of that",
        {"50 %": _quantile(0.5, QUEUE), "99 %": _quantile(0.99, QUEUE)},
        limits=((32, "red"),),
        colours={"50 %": "green", "99 %": "orange"},
    ),
    Panel(
        "Locks held at a time",
        "On average, by route",
        {"{{route}}": f"topk(10, sum by (route) (rate({HELD_TIME}{RATE})))"},
        stacked=True,
    ),
    Panel(
        "Leases lost, per minute",
        "By route. Each one is a request whose save was refused",
        {"{{route}}": f"topk(10, 60 * sum by (route) (rate(sessionlock_lock_lost_total{RATE})))"},
    ),
    # How much is there to do, and how is Redis?
    Panel(
        "Traffic",
        "Per second: locks granted, those of them that a holder passed on, saves; leases renewed, for long bodies",
        {
            "granted": f'sum(rate({ACQUISITIONS}{{outcome="granted"}}{RATE}))',
            "handed over": f"sum(rate(sessionlock_lock_handovers_total{RATE}))",
            "saved": f"sum(rate(sessionlock_changes_saved_total{RATE}))",
            "renewed": f"sum(rate(sessionlock_lock_renewals_total{RATE}))",
        },
        "reqps",
        colours={"granted": "green", "handed over": "blue", "saved": "purple", "renewed": "orange"},
    ),
    Panel(
        "Redis: outages, and calls sent again, per minute",
        "Calls by script: lost connections, failovers, a server that is loading",
        {
            "outages": f"60 * sum(rate(sessionlock_redis_outages_total{RATE}))",
            "{{script}}": f"60 * sum by (script) (rate(sessionlock_redis_repeats_total{RATE}))",
        },
        colours={"outages": "text"},
    ),
)

ALERTS = (
    Alert(
        "SessionStoreDown",
        "max(sessionlock_redis_down) > 0",
        "30s",
        "critical",
        "A process cannot use Redis: its requests with a session are answered 503",
        "calls have been repeated for 4.5 s (retry_for) before an outage begins; 30 s more rule out a slow failover",
        "The log has the reason, and advice. `sessionlock doctor URL`",
    ),
    Alert(
        "SessionLeasesLost",
        "sum by (route) (increase(sessionlock_lock_lost_total[10m])) > 0",
        "0m",
        "warning",
        "A request of {{ $labels.route }} lost its lock before it gave it up; what it changed was not saved",
        "none is lost while requests end within max_hold (60 s) and event loops run",
        "How long does this route hold its lock? Was its process paused, its event loop blocked, did Redis fail over?",
    ),
    Alert(
        "SessionRequestsTurnedAway",
        f"sum(rate({ACQUISITIONS}{{{TURNED_AWAY}}}[5m])) / sum(rate({ACQUISITIONS}[5m])) > 0.001",
        "2m",
        "warning",
        "More than one in 1,000 requests for a lock ends with 503 or 429",
        "to be known before visitors tell of it",
        'Panel "Who makes others wait": shorten that hold, or do its slow part after `session.release()`',
    ),
    Alert(
        "SessionWaitsLong",
        f"{_quantile(0.95, WAIT, 'route', '[5m]')} > 1",
        "10m",
        "warning",
        "Of the requests of {{ $labels.route }} that wait, one in twenty waits for more than a second",
        "from about a second on people notice",
        'Panel "Who makes others wait", or the links of the spans `sessionlock.wait`',
    ),
    Alert(
        "SessionQueuesLong",
        f"{_quantile(0.99, QUEUE, '', '[5m]')} > 32",
        "10m",
        "warning",
        "More than 32 requests of one session wait at a time",
        "it is half of the 64 that may wait in one process (WaitPolicy.max_waiters); who comes then is answered 429",
        "One visitor with many requests at once: a page that polls, a bot. The log names the session's digest",
    ),
    Alert(
        "SessionLocksHeldLong",
        f"{_quantile(0.99, HOLD, 'route', '[5m]')} > 5",
        "10m",
        "warning",
        "One in a hundred requests of {{ $labels.route }} holds its session for more than five seconds",
        "others wait 12 s at the most by default: behind two such holds they are turned away",
        "Move slow work out of the block, or read with mode='optimistic'",
    ),
    Alert(
        "SessionSavesRefused",
        "sum by (route) (rate(sessionlock_changes_refused_total[5m]))"
        " / (sum by (route) (rate(sessionlock_changes_refused_total[5m]))"
        " + (sum by (route) (rate(sessionlock_changes_saved_total[5m]))"
        " or 0 * sum by (route) (rate(sessionlock_changes_refused_total[5m])))) > 0.01",
        "10m",
        "warning",
        "More than one in 100 saves of {{ $labels.route }} is refused (-: saves without a lock)",
        "under the lock only what another mode commits meanwhile can conflict; 1 % is beyond chance",
        "By error_type: SessionConflict: declare a merge strategy, or take the lock; SessionTooLarge: what is stored?",
    ),
    Alert(
        "SessionCallsRepeated",
        f"sum(rate(sessionlock_redis_repeats_total[5m])) / sum(rate({ACQUISITIONS}[5m])) > 0.01",
        "10m",
        "warning",
        "More than one in 100 locks needs a call to Redis to be sent again",
        "on a healthy network none is; each costs its request a timeout or a reconnection",
        "Network, failovers, `timeout` and `maxclients` of the server, proxies that cut idle connections",
    ),
)


def dashboard(those: Iterable[Panel] = PANELS) -> dict[str, Any]:
    """As Grafana imports it; it asks for the data source."""
    panels, x, y, tallest = [], 0, 0, 0
    for number, panel in enumerate(those, 1):
        if x + panel.width > 24:
            x, y, tallest = 0, y + tallest, 0
        panels.append(_panel(number, panel, x, y))
        x, tallest = x + panel.width, max(tallest, panel.height)
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "title": "sessionlock",
        "uid": "sessionlock",
        "description": "Who waits for whom, and what was refused. Made by python -m examples.observe",
        "tags": ["sessionlock", "redis"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": STAT if panel.kind == "stat" else TIMESERIES,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    """Said in full: what is left out is the panel's default, which is red from 80 on, whatever is counted."""
    below = "green" if panel.limits or panel.kind != "stat" else "blue"
    steps = [{"color": below, "value": None}, *({"color": colour, "value": limit} for limit, colour in panel.limits)]
    found: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "noValue": panel.nothing,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
    }
    if panel.decimals is not None:
        found["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        found["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 10,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        }
        if panel.unit == "short":
            found["custom"]["axisSoftMax"] = 1  # without it a graph of zeros goes up to 100
    return found


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in panel.colours.items()
    ]


def alerts(those: Iterable[Alert] = ALERTS) -> str:
    """A rules file. A string of JSON is one of YAML."""
    lines = [
        "# Alerts on what sessionlock measures; made by `python -m examples.observe`. Why each threshold is what it is",
        "# stands in its annotation `because`: change it with the policies that you have changed.",
        "# What has to last 10 minutes looks back on 5: a burst that is over raises nothing.",
        "groups:",
        "  - name: sessionlock",
        "    rules:",
    ]
    for alert in those:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.when)}",
            f"        for: {alert.lasting}",
            f"        labels: {{severity: {alert.severity}}}",
            "        annotations:",
            f"          summary: {json.dumps(alert.tells)}",
            f"          because: {json.dumps(alert.because)}",
            f"          then: {json.dumps(alert.then)}",
        ]
    return "\n".join(lines) + "\n"


def for_opentelemetry() -> tuple[dict[str, Any], str]:
    """Dashboard and alerts with the labels that OpenTelemetry's exporters give; ``error_type`` is theirs, too."""

    def named(text: str) -> str:
        return re.sub(r"\b(holder_route|route|outcome|script)\b(?=[,)}]| }|!?=)", r"sessionlock_\1", text)

    panels = (
        one._replace(queries={named(legend): named(query) for legend, query in one.queries.items()}) for one in PANELS
    )
    return dashboard(panels), alerts(one._replace(when=named(one.when), tells=named(one.tells)) for one in ALERTS)


def main() -> None:
    parser = argparse.ArgumentParser("python -m examples.observe", description="write dashboard.json and alerts.yml")
    parser.add_argument("--opentelemetry", metavar="FOLDER", type=Path, help="there, for metrics of OpenTelemetry")
    folder: Path | None = parser.parse_args().opentelemetry
    drawn, rules = (dashboard(), alerts()) if folder is None else for_opentelemetry()
    (folder or HERE).joinpath("dashboard.json").write_text(json.dumps(drawn, indent=2) + "\n", encoding="utf-8")
    (folder or HERE).joinpath("alerts.yml").write_text(rules, encoding="utf-8")


if __name__ == "__main__":
    main()
