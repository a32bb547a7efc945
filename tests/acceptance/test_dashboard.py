"""The dashboard and the alerts are made of metrics that there are, and stand in the tree as they are made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.observe.__main__ import ALERTS, PANELS, alerts, dashboard, for_opentelemetry
from sessionlock.integrations.measures import MEASURES, Measure

FOLDER = Path(__file__).parents[2] / "examples" / "observe"
DOCUMENT = Path(__file__).parents[2] / "docs" / "observe.md"


def queries() -> Iterator[str]:
    for panel in PANELS:
        yield from panel.queries.values()
    yield from (alert.when for alert in ALERTS)


def series(measure: Measure) -> set[str]:
    name = measure.name.replace(".", "_") + ("_seconds" if measure.unit == "s" else "")
    ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {name + end for end in ends[measure.kind]}


def labels_of(query: str) -> set[str]:
    asked = {word.strip() for by in re.findall(r"by \(([^)]*)\)", query) for word in by.split(",")}
    return asked | set(re.findall(r"[{,](\w+)(?:=~?|!=)", query))


def shown_in(legend: str) -> list[str]:
    return re.findall(r"{{(\w+)}}", legend)


def test_every_query_is_of_a_metric_that_there_is() -> None:
    known = {name: measure for measure in MEASURES for name in series(measure)}
    named: set[str] = set()
    for query in queries():
        found = set(re.findall(r"\bsessionlock_\w+", query))
        assert found, query
        assert found <= set(known), query
        labels = {label.replace(".", "_") for name in found for label in known[name].attributes} | {"le"}
        assert labels_of(query) <= labels, query
        named |= {known[name].name for name in found}
    assert named == {measure.name for measure in MEASURES}, "what is measured is shown somewhere"


def test_prometheus_has_those_names() -> None:
    prometheus_client = pytest.importorskip("prometheus_client", reason="it is in the extra `test`")
    from sessionlock.integrations.prometheus import prometheus_metrics, series_name

    prometheus_metrics(prometheus_client.CollectorRegistry())
    for measure in MEASURES:
        assert {name.startswith(series_name(measure)) for name in series(measure)} == {True}


def test_legends_are_of_labels_that_the_query_has() -> None:
    for panel in PANELS:
        for legend, query in panel.queries.items():
            for label in shown_in(legend):
                assert re.search(rf"by \([^)]*\b{label}\b", query), (panel.title, legend)


def test_for_opentelemetry_each_label_has_the_name_that_its_exporters_give() -> None:
    """They make ``sessionlock_route`` of the attribute ``sessionlock.route``."""
    drawn, rules = for_opentelemetry()
    queries = [target["expr"] for panel in drawn["panels"] for target in panel["targets"]]
    queries += [json.loads(line.partition("expr: ")[2]) for line in rules.splitlines() if "  expr: " in line]
    names = {label for query in queries for label in labels_of(query)}
    theirs = {attribute for measure in MEASURES for attribute in measure.attributes} - {"error.type"}
    assert names == {"le", "error_type"} | {f"sessionlock_{name.replace('.', '_')}" for name in theirs}
    legends = {
        name for panel in drawn["panels"] for target in panel["targets"] for name in shown_in(target["legendFormat"])
    }
    assert legends <= names
    assert set(re.findall(r"\$labels\.(\w+)", rules)) == {"sessionlock_route"}


def test_no_panel_is_red_by_default() -> None:
    """Grafana's own default is red from 80 on, of whatever."""
    for panel, drawn in zip(PANELS, dashboard()["panels"], strict=True):
        steps = drawn["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert [step["value"] for step in steps] == [None, *(limit for limit, _ in panel.limits)], panel.title


def test_colours_are_of_names_that_are_drawn() -> None:
    for panel in PANELS:
        if "{{outcome}}" not in panel.queries:
            assert panel.colours.keys() <= panel.queries.keys(), panel.title


@pytest.mark.parametrize(
    ("panel", "alert"),
    [
        ("Redis out of reach", "SessionStoreDown"),
        ("Turned away", "SessionRequestsTurnedAway"),
        ("Waits, 95 %", "SessionWaitsLong"),
        ("How long waits are", "SessionWaitsLong"),
        ("How long locks are held, 99 %", "SessionLocksHeldLong"),
        ("How many wait for one session", "SessionQueuesLong"),
    ],
)
def test_it_is_red_where_the_alert_begins(panel: str, alert: str) -> None:
    (limits,) = (one.limits for one in PANELS if one.title == panel)
    (when,) = (one.when for one in ALERTS if one.name == alert)
    limit, colour = limits[-1]
    assert colour == "red"
    assert float(when.rpartition(">")[2]) == (0 if alert == "SessionStoreDown" else limit)


def test_an_alert_that_has_to_last_does_not_outlive_its_cause() -> None:
    """What lasts longer than the time that a query looks back on is no single burst."""
    for alert in ALERTS:
        looks_back = [int(minutes) for minutes in re.findall(r"\[(\d+)m\]", alert.when)]
        if alert.lasting == "10m":
            assert set(looks_back) == {5}, alert.name


def test_the_files_are_as_they_are_made() -> None:
    """If not: python -m examples.observe."""
    assert json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8")) == dashboard()
    assert (FOLDER / "alerts.yml").read_text(encoding="utf-8") == alerts()


def test_the_rules_can_be_read() -> None:
    yaml = pytest.importorskip("yaml", reason="somebody else's dependency")
    (group,) = yaml.safe_load(alerts())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    assert [rule["alert"] for rule in rules] == [alert.name for alert in ALERTS]
    assert all(re.fullmatch(r"\d+[sm]", rule["for"]) and rule["annotations"]["because"] for rule in rules)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_page_has_every_metric() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for measure in MEASURES:
        assert f"`{measure.name.removeprefix('sessionlock.')}`" in text, measure.name
