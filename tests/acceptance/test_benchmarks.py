"""The benchmarks run and say what they should; how fast anything was is never asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frameworks
from benchmarks.__main__ import claims
from benchmarks.commands import Options
from benchmarks.report import Claim, Report, quantile, table
from benchmarks.stage import workers
from benchmarks.turns import Seen, overtakings
from tests.harness.programs import run_program

ROOT = Path(__file__).parents[2]
TINY = ["--rounds", "2", "--cycles", "5", "--seconds", "0.1", "--waiters", "4", "--sessions", "4"]


def _run(module: str, *arguments: str) -> str:
    done = run_program("-m", module, *TINY, *arguments, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    """What ``python -m benchmarks --json`` said, by benchmark."""
    return {report["name"]: report for report in json.loads(_run("benchmarks", "--json"))}


def _measured(report: dict[str, Any], what: str) -> float:
    return float(next(claim["measured"] for claim in report["claims"] if claim["what"] == what))


@pytest.mark.slow
@pytest.mark.server
def test_every_benchmark_reports_full_rows_and_loses_nothing(reports: dict[str, dict[str, Any]]) -> None:
    assert set(reports) == {"uncontended", "hot_session", "many_sessions"}
    for report in reports.values():
        assert report["rows"]
        assert all(len(row) == len(report["columns"]) for row in report["rows"])
        assert report["lost"] == 0


@pytest.mark.slow
@pytest.mark.server
def test_uncontended_counts_the_round_trips(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["uncontended"]
    assert {"unguarded GET+SET", "sessionlock"} <= {row[0] for row in report["rows"]}
    assert _measured(report, "script calls per uncontended guarded cycle") == 2
    assert _measured(report, "round trips per uncontended guarded cycle") == 2


@pytest.mark.slow
@pytest.mark.server
def test_hot_session_is_fair_and_exact(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["hot_session"]
    assert {row[0].partition(":")[0] for row in report["rows"]} == {"burst", "loop"}
    assert _measured(report, "guarded grants out of the order of queueing") == 0
    assert _measured(report, "lost guarded updates") == 0


@pytest.mark.slow
@pytest.mark.server
def test_one_benchmark_alone_prints_a_table() -> None:
    lines = _run("benchmarks.many_sessions").splitlines()
    assert lines[0] == "Many sessions"
    assert sum(line.startswith("| ") for line in lines) == 5  # head, rule, three contenders


@pytest.mark.slow
@pytest.mark.server
def test_frameworks_shows_what_the_usual_sessions_lose() -> None:
    report = json.loads(_run("benchmarks.frameworks", "--framework", "litestar", "--json"))
    ((framework, back_end, lost, _, lost_guarded),) = report["rows"]
    assert (framework, back_end, lost_guarded) == ("litestar", "ServerSideSessionConfig, RedisStore", "0")
    assert int(lost.split()[-1]) > 0
    assert report["lost"] == 0


def test_frameworks_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "find_spec", lambda name: None if name == "quart_session" else object())
    monkeypatch.setattr(frameworks, "_lost", lambda site, url, way: [48, 47] if way == "cookie" else [0])
    text = frameworks.run(Options(url="redis://nowhere"), ["quart"]).text()
    assert "Quart-Session, redis | not installed |" in text
    assert "needs quart-session: pip install 'sessionlock[bench]'" in text
    assert "its signed cookie |      47 to 48 | SessionLockMiddleware |" in text


def test_a_worker_that_fails_is_an_error_not_a_number() -> None:
    with workers() as start, pytest.raises(RuntimeError, match="a benchmark worker failed with status 3"):
        start(_fail).ask("anything")


def _fail(connection: object) -> None:
    sys.exit(3)


@pytest.mark.parametrize(
    ("arrivals_in_order_of_grants", "expected"),
    [([1, 2, 3], 0), ([2, 1, 3], 1), ([3, 1, 2], 1), ([3, 2, 1], 2), ([], 0)],
)
def test_overtakings(arrivals_in_order_of_grants: list[float], expected: int) -> None:
    seen = [Seen(0, 0, 0, order, arrival) for order, arrival in enumerate(arrivals_in_order_of_grants)]
    assert overtakings(seen[::-1]) == expected


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [("<= 1.4", 1.4, True), ("<= 1.4", 1.41, False), (">= 30", 30, True), (">= 30", 29, False), ("= 2", 2.1, False)],
)
def test_a_claim_knows_whether_it_was_met(goal: str, measured: float, met: bool) -> None:
    assert Claim("it", goal, measured).met is met


def test_numbers_and_tables() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.9) == 9
    assert table(["a", "bb"], [["x", "1"]]) == "| a | bb |\n| - | -: |\n| x |  1 |"


def test_the_table_of_claims() -> None:
    report = Report("n", "Title", "how", ["a"], [["x"]], [Claim("it", "= 1", 2), Claim("that", "<= 2", 1.5)])
    assert "it: 2 (goal = 1: MISSED)" in report.text()
    assert claims([report]).splitlines() == [
        "| claim | goal | measured | met |",
        "| ----- | ---: | -------: | --: |",
        "| it    |  = 1 |        2 |  NO |",
        "| that  | <= 2 |      1.5 | yes |",
    ]
