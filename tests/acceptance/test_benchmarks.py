"""The benchmarks run and say what they should; how fast anything was is never asserted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from benchmarks import frameworks, page, scale
from benchmarks.__main__ import BENCHMARKS
from benchmarks.commands import Options
from benchmarks.distance import relay, round_trip
from benchmarks.instructions import KINDS, Counting
from benchmarks.report import Claim, Plot, Report, quantile, table
from benchmarks.results import Results
from benchmarks.stage import workers
from benchmarks.turns import Seen, overtakings
from tests.harness.programs import run_program

ROOT = Path(__file__).parents[2]
TINY = [
    *("--rounds", "1", "--cycles", "4", "--seconds", "0.1", "--waiters", "4", "--sessions", "4"),
    *("--counted", "4", "--repeats", "1", "--server", "found"),
]
PLAYED = ("uncontended", "sizes", "memory", "shards")  # those that TINY makes quick


def _run(module: str, *arguments: str) -> str:
    done = run_program("-m", module, *TINY, *arguments, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    """What ``python -m benchmarks --json`` said, by benchmark."""
    return {report["name"]: report for report in json.loads(_run("benchmarks", *PLAYED, "--json"))}


def _measured(report: dict[str, Any], what: str) -> float:
    return float(next(claim["measured"] for claim in report["claims"] if claim["what"] == what))


@pytest.mark.slow
@pytest.mark.server
def test_every_benchmark_reports_full_rows_and_loses_nothing(reports: dict[str, dict[str, Any]]) -> None:
    assert tuple(reports) == PLAYED
    for report in reports.values():
        assert report["rows"]
        assert all(len(row) == len(report["columns"]) for row in report["rows"])
        assert report["lost"] == 0


@pytest.mark.slow
@pytest.mark.server
def test_uncontended_counts_the_packets(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["uncontended"]
    assert {"unguarded GET+SET", "sessionlock"} <= {row[0] for row in report["rows"]}
    assert _measured(report, "script calls per uncontended guarded cycle") == 2
    assert _measured(report, "packets to Redis per uncontended guarded cycle") == 2


@pytest.mark.slow
@pytest.mark.server
def test_uncontended_is_compared_in_three_ways(reports: dict[str, dict[str, Any]]) -> None:
    facts = reports["uncontended"]["facts"]
    assert {of.partition(":")[0] for of in facts} == {"apart", "together", "1 ms away", "packets"}
    assert all(facts[f"{way}: unguarded GET+SET"] == 1 for way in ("apart", "together", "1 ms away"))


@pytest.mark.slow
@pytest.mark.server
def test_memory_knows_sessions_locks_and_waiters(reports: dict[str, dict[str, Any]]) -> None:
    facts = reports["memory"]["facts"]
    assert all(facts[f"{thing}, Redis"] > 0 for thing in ("a session", "a held lock", "a waiter", "connections"))
    assert all(facts[f"{thing}, process"] > 0 for thing in ("a held lock", "a waiter"))


@pytest.mark.slow
@pytest.mark.server
def test_a_process_has_a_connection_to_a_shard(reports: dict[str, dict[str, Any]]) -> None:
    facts = reports["shards"]["facts"]
    # Four sessions need not meet all three shards.
    assert all(1 <= facts[f"connections: sessionlock on {shards}"] <= shards for shards in (1, 2, 3))


@pytest.mark.slow
@pytest.mark.server
def test_hot_session_is_fair_and_exact() -> None:
    report = json.loads(_run("benchmarks.hot_session", "--no-curves", "--json"))
    assert [row[0] for row in report["rows"]] == ["4 on 2, bursts", "4 on 2, without pause"]
    assert _measured(report, "guarded grants out of the order of queueing") == 0
    assert _measured(report, "lost guarded updates") == 0


@pytest.mark.slow
@pytest.mark.server
def test_one_benchmark_alone_prints_a_table() -> None:
    lines = _run("benchmarks.many_sessions", "--no-curves").splitlines()
    assert lines[0] == "Many sessions at once"
    assert sum(line.startswith("| ") for line in lines) == 3  # head, rule, one crowd


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind")
def test_instructions_are_those_of_the_work(tmp_path: Path) -> None:
    """Twice the work is twice the instructions, and no time is in them."""
    counting = Counting(tmp_path)
    command = [str(counting.python()), "-uc", "while True: print(sum(1 for _ in range(int(input()))))"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:

        def work(times: int) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            print(times, file=process.stdin, flush=True)
            assert process.stdout.readline() == f"{times}\n"

        work(1)
        none, once, twice = (counting.of(process.pid, partial(work, times)) for times in (0, 5_000, 10_000))
        process.kill()
    assert (twice - none) / (once - none) == pytest.approx(2, rel=0.02)


def test_what_is_counted_covers_the_peers() -> None:
    assert {"unguarded GET+SET", "redis-py Lock + GET+SET", "pottery AIORedlock + GET+SET"} <= {
        kind.name for kind in KINDS
    }


@pytest.mark.server
def test_the_relay_delivers_every_reply_later(tcp_url: str) -> None:
    with workers() as start:
        far = round_trip(start(relay, tcp_url, 0.02).ask("url"))
    assert far >= 0.02


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
    monkeypatch.setattr(frameworks, "server_url", lambda: nullcontext(("redis://nowhere", "nowhere")))
    text = frameworks.run(Options(), ["quart"]).text()
    assert "Quart-Session, redis | not installed |" in text
    assert "needs quart-session: pip install 'sessionlock[benchmarks]'" in text
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


def _report(server_says: float) -> Report:
    claim, plot = Claim("it", "<= 1", server_says), Plot("p", "Picture", "x", "y", {"line": [(1, 2.5)]})
    return Report("sizes", "Title", "how", ["a"], [["x"]], [claim], notes=["a note"], plots=[plot], made="today")


def test_a_report_survives_as_json(tmp_path: Path) -> None:
    results = Results({})
    results.put("Redis 1", _report(2))
    results.save(tmp_path / "results.json")
    loaded = Results.load(tmp_path / "results.json")
    assert loaded.first("sizes").text() == results.first("sizes").text()
    assert loaded.first("sizes").claims == results.first("sizes").claims
    assert [tuple(point) for point in loaded.first("sizes").plots[0].lines["line"]] == [(1, 2.5)]


def test_a_block_of_a_page_is_made_of_the_results() -> None:
    results = Results({})
    text = "before\n<!-- benchmark: sizes -->\nold\n<!-- end -->\n<!-- benchmark: claims -->\n<!-- end -->\nafter"
    assert page.fill(text, results).count(page.NOT_YET) == 2
    results.put("Redis 1", _report(2))
    results.put("Redis 2", _report(0.5))
    filled = page.fill(text, results)
    assert filled.startswith("before\n<!-- benchmark: sizes -->\nhow.\n\n| a |")
    assert "old" not in filled
    assert "- a note" in filled
    assert "![Picture](images/benchmark-p.png)" in filled
    assert "| it    |  ≤ 1 | **2: missed** |     0.5 |" in filled
    assert filled.endswith("<!-- end -->\nafter")
    assert page.fill(filled, results) == filled


@pytest.mark.parametrize("path", page.PAGES, ids=lambda path: str(path.name))
def test_the_pages_say_what_the_results_say(path: Path) -> None:
    """After a change of either: ``python -m benchmarks page``."""
    text, results = path.read_text(), Results.load()
    assert page.fill(text, results) == text
    named = {block["name"] for block in page.BLOCK.finditer(text)}
    assert named, "a page without a block"
    assert named <= {*page.MADE, *BENCHMARKS}
    for picture in re.findall(r"\((images/benchmark-[\w-]+\.png)\)", text):
        assert (path.parent / picture).exists()


def test_the_scale_is_computed_from_what_was_measured() -> None:
    """At the peak 50,000 cycles a second; a shard is used to the half."""
    of_a_cycle = {"busy": 16e-6, "client": 100e-6, "received": 1000.0, "sent": 5000.0}
    of_each = {"a session, Redis": 1000.0, "a held lock, Redis": 300.0, "a waiter, Redis": 200.0}
    results = Results({})
    assert page.fill("<!-- benchmark: scale limits -->\n<!-- end -->", results).count(page.NOT_YET) == 1
    of = {f"{what}: sessionlock on 3": value for what, value in of_a_cycle.items()}
    results.put("Redis 1", Report("shards", "Shards", "how", [], [], [], facts=of))
    results.put("Redis 1", Report("memory", "Memory", "how", [], [], [], facts=of_each))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in scale.limits(results).splitlines()[2:]]
    assert rows[0] == ["network, from Redis", "12,500 cycles/s", "50,000 cycles/s", "4"]
    assert rows[1] == ["processor", "31,250 cycles/s", "50,000 cycles/s", "2"]
    assert "need 4 shards. What ends first is the network, from Redis." in scale.carried(results)
    assert "5 processors on sessions, 5.0 % of one each" in scale.carried(results)
