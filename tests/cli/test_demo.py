"""The command line as a user runs it: real processes, real exit statuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessionlock import LeaseLost, LeasePolicy, SessionGuard, __version__
from sessionlock.cli import main
from sessionlock.cli.demo import report
from sessionlock.cli.demo import run as demo
from sessionlock.cli.demo.scenarios import Served
from sessionlock.cli.failure import without_secrets
from sessionlock.cli.units import duration
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.scripts import script_calls

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds; for a machine that has a lot to do
SMALL = ("demo", "--requests", "40", "--nodes", "2")


@contextmanager
def started(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command line as a process that has ended when the block has."""
    with subprocess.Popen(
        [sys.executable, "-m", "sessionlock", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **(environment or {})},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    with started(*arguments, environment=environment) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def until(true: Callable[[], Any]) -> Any:
    """What ``true`` returns as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    pytest.fail(f"not within {PATIENCE} s")


# --- demo


def test_demo_shows_both_runs_side_by_side() -> None:
    status, out, err = ran(*SMALL)
    assert (status, err) == (0, "")
    lost = [line.split() for line in out.splitlines() if " lost " in line and " of " in line]
    assert [words[-3:] for words in lost] == [["0", "of", "40"]] * 3, out
    assert any("delivered twice" in line and line.split()[-1] == "0" for line in out.splitlines()), out
    assert "strictly increasing" in out
    assert "served out of order: 0" in out
    assert "The guarded run lost nothing." in out
    assert "private, ends with this demo" in out


@pytest.mark.slow
def test_demo_output_is_plain_and_narrow_without_a_terminal() -> None:
    _, out, _ = ran(*SMALL)
    assert "\x1b" not in out
    assert "\r" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[-2].startswith("Next:")
    assert "session_lock(sid)" in out.splitlines()[-1]


@pytest.mark.slow
def test_demo_does_without_anything_but_ascii() -> None:
    status, out, _ = ran(*SMALL, environment={"PYTHONIOENCODING": "ascii"})
    assert status == 0
    assert out.isascii()


@pytest.mark.slow
def test_demo_as_json() -> None:
    status, out, err = ran(*SMALL, "--json", "--seed", "7")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["guarded_lost_nothing"] is True
    assert found["seed"] == 7
    assert found["nodes"] == 2
    for loss in found["guarded"]["lost"].values():
        assert loss == {"acknowledged": 40, "lost": 0, "twice": 0}
    assert {loss["acknowledged"] for loss in found["unguarded"]["lost"].values()} == {40}
    assert found["guarded"]["refused"] == {}
    assert found["fifo"]["granted"] == 120
    assert 0 < found["fifo"]["queued"] <= 120
    assert found["fifo"]["out_of_order"] == 0
    assert found["fifo"]["fences_grow"] is True
    assert found["fifo"]["waits"]["longest"] > 0
    assert found["alone"]["guarded"]["median"] > 0


@pytest.mark.slow
def test_demo_counts_what_a_request_costs_redis() -> None:
    _, out, _ = ran("demo", "--requests", "100", "--nodes", "2", "--json")
    found = json.loads(out)
    assert found["unguarded"]["redis_calls"] == 2.0
    # Two, and once per node and session what the first wait of a process costs.
    assert 2.0 <= found["guarded"]["redis_calls"] <= 2.2


@pytest.mark.slow
def test_the_unguarded_run_does_lose_something() -> None:
    """Four nodes and a thousand requests: if nothing collides there, the demo shows nothing."""
    _, out, _ = ran("demo", "--requests", "200", "--json")
    unguarded = json.loads(out)["unguarded"]["lost"]
    assert all(loss["lost"] > 0 for loss in unguarded.values()), unguarded


@pytest.mark.slow
def test_demo_leaves_nothing_in_a_redis_of_the_user(server: FaultyServer, tcp_url: str) -> None:
    with connect(tcp_url) as client:
        client.set("of the user", "stays")
    status, out, err = ran(*SMALL, "--url", tcp_url)
    assert (status, err) == (0, "")
    assert f"127.0.0.1:{server.port}" in out
    with connect(tcp_url) as client:
        assert client.keys() == [b"of the user"]


@pytest.mark.parametrize(
    "unusable", ["redis://127.0.0.1:{port}/0", "memory://", "http://127.0.0.1:{port}", "redis://h:x"]
)
def test_demo_without_a_usable_redis(unusable: str, closed_port: int) -> None:
    status, out, err = ran(*SMALL, "--url", unusable.format(port=closed_port))
    assert (status, out) == (2, "")
    assert err.startswith("sessionlock: ")
    assert err.count("\n") == 1, err


def test_demo_with_a_wrong_password(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server(tcp=True, config={"requirepass": "right"})
    status, out, err = ran(*SMALL, "--url", f"redis://:wrong-secret@127.0.0.1:{server.port}/0")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "wrong-secret" not in err


def test_demo_without_a_server_program(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    status, out, err = ran(*SMALL, environment={"SESSIONLOCK_SERVER": missing})
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "nowhere" in err


@pytest.mark.slow
def test_wrong_usage() -> None:
    for arguments in ([], ["demo", "--nodes", "0"], ["demo", "--requests", "many"], ["no-such-command"]):
        status, out, err = ran(*arguments)
        assert (status, out) == (2, "")
        assert "usage: sessionlock" in err


@pytest.mark.slow
def test_redis_dies_during_the_demo(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server(tcp=True)
    with started("demo", "--requests", "3000", "--nodes", "2", "--url", server.tcp_url) as process:
        until(lambda: _runs_scripts(server))
        server.kill()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err.startswith("sessionlock: ")
    assert err.count("\n") == 1, err


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_it_leaves_neither_process_nor_key(
    how: signal.Signals, status: int, own_server: Callable[..., FaultyServer]
) -> None:
    server = own_server()
    with started("demo", "--requests", "3000", "--nodes", "2", "--url", server.unix_url) as process:
        until(lambda: _runs_scripts(server))
        family = _children(process.pid)
        assert len(family) == 2
        process.send_signal(how)
        process.send_signal(how)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert not any(map(_alive, family))
    with connect(server.unix_url) as client:
        assert client.keys() == []


@pytest.mark.slow
def test_interrupted_it_ends_its_own_server_too() -> None:
    with started("demo", "--requests", "3000", "--nodes", "2") as process:
        out = process.stdout
        assert out is not None
        until(lambda: "unguarded" in out.readline())
        family = _children(process.pid)
        assert len(family) >= 3
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    until(lambda: not any(map(_alive, family)))


@pytest.mark.slow
def test_killed_it_leaves_no_process(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server()
    with started("demo", "--requests", "3000", "--nodes", "2", "--url", server.unix_url) as process:
        until(lambda: _runs_scripts(server))
        family = _children(process.pid)
    assert len(family) == 2
    until(lambda: not any(map(_alive, family)))
    with connect(server.unix_url) as client:
        assert all(0 < client.ttl(key) <= 700 for key in client.scan_iter())


def test_a_reader_that_leaves_is_no_accident() -> None:
    with started(*SMALL) as process:
        out = process.stdout
        assert out is not None
        assert out.readline().startswith("sessionlock demo")
        out.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 141


CARELESS = """
import sys
from sessionlock.cli.demo import node, scenarios

class Careless(node.Node):
    async def served_by(self, way, scenario, sid, request):
        if way == "unguarded" or not request.item.endswith("3"):
            return await super().served_by(way, scenario, sid, request)
        answer = await scenario.handle(scenario.new_session(), request)  # acknowledged, never saved
        return scenarios.Served(scenario.name, request.item, answer.count, [], 0.002, 0.001, fence=1)

sys.exit(node.work(Careless))
"""


@pytest.fixture
def careless_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose guarded way acknowledges every tenth request without saving it."""
    script = tmp_path / "careless.py"
    script.write_text(CARELESS)
    monkeypatch.setattr(demo, "NODE", (str(script),))


@pytest.mark.slow
@pytest.mark.usefixtures("careless_nodes")
def test_exit_status_1_when_the_guarded_run_loses_something(redis_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--url", redis_url]) == 1
    out, _ = capfd.readouterr()
    assert "THE GUARDED RUN LOST 12 " in out
    assert "lost nothing" not in out


@pytest.mark.slow
@pytest.mark.usefixtures("careless_nodes")
def test_json_tells_it_too(redis_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json", "--url", redis_url]) == 1
    out, _ = capfd.readouterr()
    found = json.loads(out)
    assert found["guarded_lost_nothing"] is False
    assert found["guarded"]["lost"]["cart"] == {"acknowledged": 40, "lost": 4, "twice": 0}
    assert found["guarded"]["lost"]["counter"]["lost"] == 4


# --- the figures


def served(scenario: str, item: str, *, delivered: tuple[str, ...] = (), count: int = 0, **numbers: int) -> Served:
    return Served(scenario, item, count, list(delivered), 0.0, 0.0, **numbers)


def test_what_is_lost_and_what_came_twice() -> None:
    requests = [
        *(served("cart", f"c{n}") for n in range(4)),
        served("messages", "m1", delivered=("m1",)),
        served("messages", "m2", delivered=("m1", "m2")),
        served("messages", "m3"),
        served("messages", "m4"),
        *(served("counter", f"n{n}") for n in range(3)),
    ]
    found = report.losses(requests, {"cart": ["c0", "c3"], "messages": ["m4"], "counter": 2})
    assert found["cart"] == report.Loss(4, 2, 0)
    assert found["messages"] == report.Loss(4, 1, 1)
    assert found["counter"] == report.Loss(3, 1, 0)


def test_a_grant_that_overtakes_is_seen() -> None:
    first_come = [served("counter", "a", count=1, fence=100), served("counter", "b", count=2, fence=120, ticket=110)]
    none_left = {"cart": [], "messages": [], "counter": 2}
    assert report.fifo(first_come, none_left).out_of_order == 0
    # Seen at 130, granted at once, although somebody waited since 110.
    barged = [served("counter", "c", count=3, fence=130), served("counter", "d", count=4, fence=140, ticket=110)]
    assert report.fifo([*first_come, *barged], none_left).out_of_order == 1


def test_fencing_tokens_that_do_not_grow_are_seen() -> None:
    left = {"cart": ["a", "b"], "messages": [], "counter": 0}
    assert report.fifo([served("cart", "a", fence=1), served("cart", "b", fence=2)], left).fences_grow
    assert not report.fifo([served("cart", "a", fence=2), served("cart", "b", fence=1)], left).fences_grow
    assert not report.fifo([served("cart", "a", fence=2), served("cart", "b", fence=2)], left).fences_grow


# --- inspect, release, --version

SID = "a-very-secret-session-id"


def test_inspect_and_release(redis_url: str) -> None:
    async def scene() -> tuple[tuple[int, str, str], ...]:
        async with SessionGuard.from_url(redis_url, label="node-a") as guard:
            context = guard.session_lock(SID, label="/cart", lease=LeasePolicy(on_lost="flag"))
            session = await context.__aenter__()
            session["cart"] = ["A"]
            await session.save()
            assert session.lease is not None
            target = ("--url", redis_url, SID)
            held = await anyio.to_thread.run_sync(ran, "inspect", *target)
            wrong = await anyio.to_thread.run_sync(ran, "release", *target, "--token", "of-somebody-else")
            right = await anyio.to_thread.run_sync(ran, "release", *target, "--token", session.lease.token)
            free = await anyio.to_thread.run_sync(ran, "inspect", *target, "--json")
            assert session.lease.token in held[1]
            with pytest.raises(LeaseLost):
                await context.__aexit__(None, None, None)
        return held, wrong, right, free

    held, wrong, right, free = anyio.run(scene)
    assert held[0] == 0
    assert "node-a /cart, for " in held[1]
    assert "version 1, expires in 1" in held[1]
    assert (wrong[0], wrong[1], wrong[2].count("\n")) == (1, "", 1)
    assert right[0] == 0
    assert json.loads(free[1])["holder"] is None
    for _, out, err in (held, wrong, right, free):
        assert SID not in out + err


def test_inspect_of_nothing(redis_url: str) -> None:
    status, out, _ = ran("inspect", "--url", redis_url, SID)
    assert status == 1
    assert "nobody" in out


@pytest.mark.slow
@pytest.mark.parametrize("command", [("inspect",), ("release", "--token", "t")])
def test_inspect_without_redis(command: tuple[str, ...], closed_port: int) -> None:
    status, out, err = ran(*command, "--url", f"redis://user:secret@127.0.0.1:{closed_port}/0", SID)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "secret" not in err


def test_version() -> None:
    assert ran("--version") == (0, f"sessionlock {__version__}\n", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pass@host:1/0?password=x", "redis://host:1/0"),
        ("unix://user:pass@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("rediss://[::1]:6380/2", "rediss://[::1]:6380/2"),
        ("redis://host:no-port", "(an URL that cannot be read)"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4234, "0.42 s"), (61, "1 min 1 s"), (7200, "2 h"), (14 * 86_400 - 1, "13 d 23 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- helpers


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that nobody else gets it, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def _runs_scripts(server: FaultyServer) -> bool:
    """Whether guarded cycles are on their way there (each node's warm-up makes two)."""
    with connect(server.unix_url) as client:
        return script_calls(client) > 100


def _children(pid: int) -> list[int]:
    """All descendants that run now, the way any Linux tells it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it ended while we looked
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        todo = [child for parent in todo for child in parents.get(parent, [])]
        found += todo
    return found


def _alive(pid: int) -> bool:
    """Whether that process still runs; one that ended but was not waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
