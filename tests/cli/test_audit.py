"""``sessionlock audit`` as a user runs it: on servers while an application works there, and on captures."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis

from sessionlock.audit.detector import Detector
from sessionlock.cli import main
from sessionlock.cli.audit import reading, run
from sessionlock.cli.audit.reading import watch
from tests.audit.clients import CLIENTS, use, use_guarded
from tests.audit.traffic import Traffic
from tests.harness.cluster import Cluster
from tests.harness.commands import as_user
from tests.harness.faulty import FaultyServer

CAPTURES = Path(__file__).resolve().parents[1] / "audit" / "captures"
T = TypeVar("T")
PHP = str(CAPTURES / "php.monitor")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["audit", "--json", *arguments])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


async def audited(url: str, work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[Detector, T]:
    """Watched while ``work`` goes on."""
    detector = Detector()
    watching = asyncio.Event()
    doing = asyncio.ensure_future(_after(watching, work))

    def tell(seconds: float) -> None:
        watching.set()
        if doing.done():
            raise Enough

    with pytest.raises(Enough):
        await watch(url, 60, detector, tell)
    return detector, await doing


class Enough(Exception):
    pass


async def _after(begun: asyncio.Event, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    await begun.wait()
    return await work()


# --- live


def test_found_is_what_was_counted(tcp_url: str) -> None:
    detector, counted = asyncio.run(audited(tcp_url, lambda: use(CLIENTS["php"], tcp_url)))
    verdict = detector.finish()
    lost = {field: of.sure + of.likely - of.came_back for field, of in verdict.tally.fields.items()}
    assert lost == {"cart": counted.lost_products, "visits": counted.lost_visits}
    assert verdict.told == "loses"


def test_nothing_is_found_in_guarded_traffic(tcp_url: str) -> None:
    detector, counted = asyncio.run(audited(tcp_url, lambda: use_guarded(tcp_url)))
    verdict = detector.finish()
    assert (counted.lost, verdict.lost, verdict.told) == (0, 0, "none")


@pytest.mark.slow
def test_all_masters_of_a_cluster(shared_cluster: Cluster) -> None:
    url = shared_cluster.url

    async def work() -> None:
        async with Redis.from_url(url) if not url.startswith("redis+cluster") else _cluster(url) as client:
            for number in range(30):
                await client.set(f"session:{number}", "1")

    detector, _ = asyncio.run(audited(url, work))
    assert detector.finish().tally.saves["early"] == 30


def _cluster(url: str) -> Any:
    from sessionlock.urls import client_from_url

    return client_from_url(url)


def test_the_time_is_limited(tcp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = told(capsys, tcp_url, "--seconds", "1", "--yes")
    assert (status, found["verdict"]) == (3, "unknown")
    assert found["source"] == tcp_url.partition("?")[0]
    assert found["seconds"] < 5


def test_a_server_that_ends_meanwhile(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server(tcp=True)

    async def work() -> str:
        return await watch(server.tcp_url, 60, Detector(), lambda over: server.kill())

    assert "closed the connection" in asyncio.run(work())


def test_who_falls_behind_stops(tcp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BEHIND", -1.0)
    assert "more than can be read" in asyncio.run(watch(tcp_url, 3, Detector(), lambda over: None))


def test_a_server_that_does_not_permit_it(
    own_server: Callable[..., FaultyServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server = own_server(tcp=True)
    if server.version < (6, 0):
        pytest.skip("no users before Redis 6")
    assert main(["audit", as_user(server.tcp_url, "-monitor"), "--seconds", "1"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "+monitor" in said.err
    assert "secret" not in said.err


def test_interrupted_it_tells_what_it_has_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Path(PHP).read_bytes().splitlines()

    async def interrupted(url: str, seconds: float, detector: Detector, tell: object) -> str:
        for line in lines:
            detector.feed(line)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "watch", interrupted)
    status, found = told(capsys, "redis://127.0.0.1:1")
    assert (status, found["stopped"]) == (1, "interrupted")


# --- captures


def test_a_capture(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = told(capsys, PHP)
    assert (status, found["verdict"]) == (1, "loses")
    assert found["updates"]["lost_sure"] + found["updates"]["lost_likely"] == 33
    assert [one["prefix"] for one in found["keys"]] == ["PHPREDIS_SESSION:"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(PHP).read_bytes())))
    assert told(capsys, "-")[0] == 1


def test_one_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(CAPTURES)
    for name, headline in (("php", "LOSES UPDATES: 23 sure, 10 likely"), ("guarded", "No lost update was seen.")):
        main(["audit", f"{name}.monitor"])
        page = capsys.readouterr().out
        assert headline in page
        assert len(page.splitlines()) <= 24
        assert max(map(len, page.splitlines())) <= 80
        assert "\nNext:  " in page


@pytest.mark.parametrize("source", ["memory://", "nowhere.monitor", str(Path(__file__)), "http://127.0.0.1"])
def test_nothing_to_read(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", source]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("sessionlock: ")


def test_somebody_at_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(["audit", "redis://127.0.0.1:1"]) == 2
    assert "Go on?" in screen.getvalue()
    assert "nothing was read" in screen.getvalue()


# --- how much it keeps


def test_bounded_memory() -> None:
    """However many keys there are."""
    played = Traffic(3, "fresh", "cart", 3, sessions=120, together=20, requests=12)
    detector = Detector(most_records=10, most_bytes=100_000)
    tracemalloc.start()
    for turn in range(4):
        for line in played.lines:
            detector.feed(line.replace(b"session:", b"session-%d:" % turn))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000 < 3 * sum(map(len, played.lines))
    assert detector.finish().tally.dropped > 0


def test_the_document_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = told(capsys, PHP)
    text = (CAPTURES.parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    schema = text.partition("## For programs")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in schema.splitlines() if row.startswith("| `")]
    assert {name.strip(" `") for row in rows for name in row.split(",")} == found.keys()
    for inner in ("updates", "saves", "locks", "doubts"):
        assert all(f"`{name}`" in schema for name in found[inner])


def test_a_packed_capture_and_its_first_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "php.monitor.gz"
    packed.write_bytes(gzip.compress(Path(PHP).read_bytes()))
    _, whole = told(capsys, PHP)
    _, found = told(capsys, str(packed))
    assert {**found, "source": PHP} == whole
    packed.write_bytes(packed.read_bytes()[:-2000])
    assert 0 < told(capsys, str(packed))[1]["commands"] < whole["commands"]
    twice = tmp_path / "twice.monitor"
    later = Path(PHP).read_bytes().replace(b"\n17", b"\n18")  # years
    twice.write_bytes(Path(PHP).read_bytes() + later)
    assert told(capsys, str(twice), "--seconds", "60")[1]["commands"] < 2 * whole["commands"] - 1


def test_a_capture_that_is_out_of_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = tmp_path / "twice.monitor"
    twice.write_bytes(Path(PHP).read_bytes() * 2)
    assert told(capsys, str(twice))[1]["doubts"]["out_of_order"] == 1
    assert told(capsys, PHP)[1]["doubts"]["out_of_order"] == 0
    main(["audit", str(twice)])
    assert "older than the line before" in " ".join(capsys.readouterr().out.split())


def test_a_pattern_that_fits_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", PHP, "--match", "nothing:*"])
    assert "fits --match" in " ".join(capsys.readouterr().out.split())


def test_a_server_that_does_not_tell_its_time(
    own_server: Callable[..., FaultyServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would know how far behind this is."""
    server = own_server(tcp=True)
    if server.version < (6, 0):
        pytest.skip("no users before Redis 6")
    assert main(["audit", as_user(server.tcp_url, "-time"), "--seconds", "1"]) == 2
    assert "+time" in capsys.readouterr().err


def test_only_the_database_of_the_url() -> None:
    urls = ("redis://h/3", "redis://h:1/3?x=1", "unix:///run/redis.sock?db=3", "redis://h", "unix:///run/redis.sock")
    assert [reading.named_database(url) for url in urls] == [3, 3, 3, None, None]
    detector = Detector(database=3)
    for line in Path(PHP).read_bytes().splitlines():
        detector.feed(line)
    assert detector.finish().told == "unknown"
