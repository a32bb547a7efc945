"""The dashboard and the alerts are made of metrics that there are, and stand in the tree as they are made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.observe.__main__ import ALERTS, PANELS, alerts, dashboard
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


def test_every_query_is_of_a_metric_that_there_is() -> None:
    known = {name: measure for measure in MEASURES for name in series(measure)}
    named: set[str] = set()
    for query in queries():
        found = set(re.findall(r"\bsessionlock_\w+", query))
        assert found, query
        assert found <= set(known), query
        labels = {label.replace(".", "_") for name in found for label in known[name].attributes} | {"le"}
        asked = {word.strip() for by in re.findall(r"by \(([^)]*)\)", query) for word in by.split(",")}
        assert asked | set(re.findall(r"[{,](\w+)=~?", query)) <= labels, query
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
            for label in re.findall(r"{{(\w+)}}", legend):
                assert re.search(rf"by \([^)]*\b{label}\b", query), (panel.title, legend)


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
