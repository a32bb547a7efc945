"""Write ``dashboard.json`` and ``alerts.yml`` beside this file: ``python -m examples.observe``.

The dashboard is imported in Grafana (Dashboards, New, Import), the alerts are a rules file of Prometheus. Both are for
the names of ``sessionlock.integrations.prometheus``; exporters of OpenTelemetry give the same names to metrics, and
begin labels with ``sessionlock_``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ALERTS", "PANELS", "Alert", "Panel", "alerts", "dashboard"]

HERE = Path(__file__).parent
RATE = "[$__rate_interval]"
ACQUISITIONS = "sessionlock_lock_acquisitions_total"
REFUSED = 'outcome=~"timed_out|queue_full|unavailable"'


class Panel(NamedTuple):
    """``queries``: what is drawn, by its legend. ``kind``: timeseries, stat or table. ``width``: of 24."""

    title: str
    tells: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8


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
BLOCKED, HELD_TIME = "sessionlock_lock_blocked_time_seconds_total", "sessionlock_lock_held_time_seconds_total"

PANELS = (
    Panel(
        "Locks asked for",
        "Requests for a lock per second",
        {"all": f"sum(rate({ACQUISITIONS}{RATE}))"},
        "reqps",
        "stat",
        4,
        4,
    ),
    Panel(
        "Waits, 95 %",
        "Of those that found the lock taken",
        {"95 %": _quantile(0.95, WAIT)},
        "s",
        "stat",
        4,
        4,
    ),
    Panel(
        "Turned away",
        "Answered 503 or 429 per second: the wait was over, too many waited, no Redis",
        {"all": f"sum(rate({ACQUISITIONS}{{{REFUSED}}}{RATE})) or vector(0)"},
        "reqps",
        "stat",
        4,
        4,
    ),
    Panel(
        "Leases lost, last hour",
        "Each one is a request whose save was refused",
        {"all": "sum(increase(sessionlock_lock_lost_total[1h])) or vector(0)"},
        "short",
        "stat",
        4,
        4,
    ),
    Panel(
        "Saves refused, last hour",
        "Conflicts, sessions that are gone or too large, leases that were lost",
        {"all": "sum(increase(sessionlock_changes_refused_total[1h])) or vector(0)"},
        "short",
        "stat",
        4,
        4,
    ),
    Panel(
        "Redis cannot be used",
        "By how many processes; 0 is well",
        {"all": "sum(sessionlock_redis_down)"},
        "short",
        "stat",
        4,
        4,
    ),
    Panel(
        "Who makes others wait",
        "Seconds waited per second, put down to the route that held the lock. Look here first",
        {"{{holder_route}}": f"topk(10, sum by (holder_route) (rate({BLOCKED}{RATE})))"},
        "s",
    ),
    Panel(
        "Who waits",
        "The same seconds, by the route that waited",
        {"{{route}}": f"topk(10, sum by (route) (rate({BLOCKED}{RATE})))"},
        "s",
    ),
    Panel(
        "How long waits are",
        "Of those that found the lock taken",
        {"50 %": _quantile(0.5, WAIT), "95 %": _quantile(0.95, WAIT), "99 %": _quantile(0.99, WAIT)},
        "s",
    ),
    Panel(
        "How long locks are held, 95 %",
        "By route. A wait is somebody else's hold",
        {"{{route}}": f"topk(10, {_quantile(0.95, HOLD, 'route')})"},
        "s",
    ),
    Panel(
        "What became of requests for a lock",
        "granted, timed_out (503), queue_full (429), unavailable (503), abandoned (the visitor left), not_found",
        {"{{outcome}}": f"sum by (outcome) (rate({ACQUISITIONS}{RATE}))"},
        "reqps",
    ),
    Panel(
        "Waiting and held now",
        "Over all processes",
        {"waiting": "sum(sessionlock_lock_waiting)", "held": "sum(sessionlock_lock_held)"},
    ),
    Panel(
        "How long queues are",
        "For those that joined one; 64 may wait by default",
        {"50 %": _quantile(0.5, QUEUE), "99 %": _quantile(0.99, QUEUE)},
    ),
    Panel(
        "Time under locks",
        "Locks held at the same time, on average, by route",
        {"{{route}}": f"topk(10, sum by (route) (rate({HELD_TIME}{RATE})))"},
    ),
    Panel(
        "Saves",
        "That took effect, that were merged with somebody else's, that were refused",
        {
            "saved": f"sum(rate(sessionlock_changes_saved_total{RATE}))",
            "merged": f"sum(rate(sessionlock_changes_merged_total{RATE}))",
            "refused: {{error_type}}": f"sum by (error_type) (rate(sessionlock_changes_refused_total{RATE}))",
        },
        "ops",
    ),
    Panel(
        "Hand-overs and renewals",
        "Locks passed on to a waiter; leases of bodies that took longer than a third of their ttl",
        {
            "handed over": f"sum(rate(sessionlock_lock_handovers_total{RATE}))",
            "renewed": f"sum(rate(sessionlock_lock_renewals_total{RATE}))",
        },
        "ops",
    ),
    Panel(
        "Redis: calls that were sent again, by script",
        "Lost connections, failovers, a server that is loading",
        {"{{script}}": f"sum by (script) (rate(sessionlock_redis_repeats_total{RATE}))"},
        "ops",
    ),
    Panel(
        "Outages, and reads that failed",
        "Outages that processes found out; sessions that could not be read without a lock",
        {
            "outages": "sum(increase(sessionlock_redis_outages_total[5m]))",
            "{{error_type}}": "sum by (error_type) (increase(sessionlock_loads_refused_total[5m]))",
        },
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
        f"sum(rate({ACQUISITIONS}{{{REFUSED}}}[5m])) / sum(rate({ACQUISITIONS}[5m])) > 0.001",
        "5m",
        "warning",
        "More than one in 1,000 requests for a lock ends with 503 or 429",
        "a request of each thousand: to be known before visitors tell of it",
        'Panel "Who makes others wait": shorten that hold, or do its slow part after `session.release()`',
    ),
    Alert(
        "SessionWaitsLong",
        f"{_quantile(0.95, WAIT, 'route', '[10m]')} > 1",
        "10m",
        "warning",
        "Of the requests of {{ $labels.route }} that wait, one in twenty waits for more than a second",
        "from about a second on people notice",
        'Panel "Who makes others wait", or the links of the spans `sessionlock.wait`',
    ),
    Alert(
        "SessionQueuesLong",
        f"{_quantile(0.99, QUEUE, '', '[10m]')} > 32",
        "10m",
        "warning",
        "Queues for one session are more than half full",
        "64 may wait (WaitPolicy.max_waiters); who comes then is answered 429",
        "One visitor with many requests at once: a page that polls, a bot. The log names the session's digest",
    ),
    Alert(
        "SessionLocksHeldLong",
        f"{_quantile(0.99, HOLD, 'route', '[10m]')} > 5",
        "10m",
        "warning",
        "One in a hundred requests of {{ $labels.route }} holds its session for more than five seconds",
        "others wait 12 s at the most by default: behind two such holds they are turned away",
        "Move slow work out of the block, or read with mode='optimistic'",
    ),
    Alert(
        "SessionSavesRefused",
        "sum by (route) (rate(sessionlock_changes_refused_total[10m]))"
        " / (sum by (route) (rate(sessionlock_changes_refused_total[10m]) ) +"
        " sum by (route) (rate(sessionlock_changes_saved_total[10m]))) > 0.01",
        "10m",
        "warning",
        "More than one in 100 saves of {{ $labels.route }} is refused",
        "under the lock only what another mode commits meanwhile can conflict; 1 % is beyond chance",
        "By error_type: SessionConflict: declare a merge strategy, or take the lock; SessionTooLarge: what is stored?",
    ),
    Alert(
        "SessionCallsRepeated",
        f"sum(rate(sessionlock_redis_repeats_total[10m])) / sum(rate({ACQUISITIONS}[10m])) > 0.01",
        "10m",
        "warning",
        "More than one in 100 locks needs a call to Redis to be sent again",
        "on a healthy network none is; each costs its request a timeout or a reconnection",
        "Network, failovers, `timeout` and `maxclients` of the server, proxies that cut idle connections",
    ),
)


def dashboard() -> dict[str, Any]:
    """As Grafana imports it; it asks for the data source."""
    panels, x, y, tallest = [], 0, 0, 0
    for number, panel in enumerate(PANELS, 1):
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
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def alerts() -> str:
    """A rules file. A string of JSON is one of YAML."""
    lines = [
        "# Alerts on what sessionlock measures; made by `python -m examples.observe`. Why each threshold is what it is",
        "# stands in its annotation `because`: change it with the policies that you have changed.",
        "groups:",
        "  - name: sessionlock",
        "    rules:",
    ]
    for alert in ALERTS:
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


if __name__ == "__main__":
    (HERE / "dashboard.json").write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")
    (HERE / "alerts.yml").write_text(alerts(), encoding="utf-8")
