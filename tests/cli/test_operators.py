"""The commands for operators: what they print, in which form, and what they do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessionlock import LeaseLost, RedisUnavailable, SessionGuard
from sessionlock.cli import main
from sessionlock.cli.address import FILE_VARIABLE, URL_VARIABLE
from sessionlock.cli.tables import Column, Page, Table, lines_of
from sessionlock.cli.terminal import Style, cells
from sessionlock.operate import Board, Operator, View
from sessionlock.protocol.keys import keys_for, new_sid
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.quorums import Place
from tests.operate.queueing import waiting

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_url_around")]

SID = "a-very-secret-session-id"
DIGEST = keys_for("sl", SID).digest
Run = Callable[..., Any]


@pytest.fixture
def no_url_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL_VARIABLE, FILE_VARIABLE, "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in a thread: exit status, output, errors. No id may be in there."""

    async def ran(*words: str) -> tuple[int, str, str]:
        status = await anyio.to_thread.run_sync(main, words)
        out, err = capsys.readouterr()
        assert SID not in out + err
        return status, out, err

    return ran


async def test_a_digest_of_a_log_leads_to_its_session(run: Run, node: MakeGuard, redis_url: str) -> None:
    async with node(label="n1").session_lock(SID, label="POST /cart"):
        for named in (DIGEST, f"sl:{{{DIGEST}}}:session", SID):
            status, out, _ = await run("inspect", named, "--url", redis_url)
            assert status == 0
            assert DIGEST in out
            assert "n1 POST /cart, for " in out


async def test_locks_and_top_show_who_holds_and_who_waits(run: Run, node: MakeGuard, redis_url: str) -> None:
    async with node(label="n1").session_lock(SID, label="POST /cart"), waiting(node, SID, label="GET /feed"):
        for command in (("locks",), ("locks", "--queues"), ("top", "--once")):
            status, out, _ = await run(*command, "--url", redis_url)
            assert status == 0
            assert "1 lock held, 1 request waiting" in out
            assert f"{DIGEST}        1" in out
            assert "POST /cart" in out
        assert "GET /feed" in out  # of top: the waiter's route
        assert (await run("locks", "--url", redis_url, "--prefix", "other"))[1].startswith("0 locks held")


async def test_who_waits_in_the_holders_process_is_counted(run: Run, guard: SessionGuard, redis_url: str) -> None:
    """The hottest sessions are those whose waiters are nowhere in Redis but in the holder's record, as a number."""
    other = new_sid()
    async with guard.session_lock(SID, label="POST /cart"), guard.session_lock(other) as session:
        with connect(redis_url) as client:
            for sid, riders in ((SID, 28), (other, 2)):
                record = client.hget(guard.keys_of(sid).session, "#holder").split(b" ")
                record[1] = b"held+%d" % riders
                client.hset(guard.keys_of(sid).session, "#holder", b" ".join(record))
        for command in (("locks", "--queues"), ("top", "--once")):
            _, out, _ = await run(*command, "--url", redis_url)
            assert "2 locks held, 30 requests waiting" in out
            queues = out.partition("longest queues")[2].splitlines()
            assert queues[2].split()[:2] == [DIGEST, "28"]
            assert queues[3].split()[:2] == [session.digest, "2"]
        assert out.partition("hottest sessions")[2].splitlines()[2].split()[:2] == [DIGEST, "28"]  # of top
        assert [line.split()[-1] for line in out.splitlines() if line.startswith("  POST /cart")] == ["28"]
        assert "28 in the holder's process" in (await run("inspect", DIGEST, "--url", redis_url))[1]
        told = json.loads((await run("locks", "--json", "--url", redis_url))[1])
        assert told["waiting"] == 30
        assert {one["digest"]: one["waiting"] for one in told["locks"]} == {DIGEST: 28, session.digest: 2}


async def test_more_locks_than_are_looked_at(run: Run, redis_url: str) -> None:
    """Numbers of a part are not those of all, in an incident least of all."""
    with connect(redis_url) as client:
        client.mset({f"sl:{{{number:014}}}:lock": "t" for number in range(2_050)})
    at = ("--url", redis_url)
    out = (await run("locks", "--most", "5", *at))[1]
    assert out.startswith("at least ")
    assert "--most N looks at more" in out
    assert (await run("locks", *at))[1].startswith("2,050 locks held")
    assert json.loads((await run("locks", "--json", *at))[1])["full"] is False
    out = (await run("top", "--once", *at))[1]
    assert "at least 2,000 locks held" in out
    assert "there are more locks than these" in out
    looks = map(json.loads, (await run("top", "--looks", "3", "--every", "0.01", "--json", *at))[1].splitlines())
    assert [look["full"] for look in looks] == [True] * 3


async def test_json_of_every_command(run: Run, node: MakeGuard, redis_url: str) -> None:
    """One object with its schema's number; one a look of top."""
    session = await node().create({"cart": ["A"]})
    await node().bind(session.sid, "ada")
    async with node(label="n1").session_lock(SID, label="POST /cart") as held:
        assert held.lease is not None
        shown = {
            command[0]: json.loads((await run(*command, "--json", "--url", redis_url))[1])
            for command in (("locks",), ("sessions",), ("inspect", SID), ("top", "--looks", "1"))
        }
        assert {name: one["command"] for name, one in shown.items()} == {name: name for name in shown}
        assert {one["schema"] for one in shown.values()} == {1}
        assert shown["locks"]["locks"] == [shown["inspect"]["lock"] | {"holder": shown["locks"]["locks"][0]["holder"]}]
        assert shown["inspect"]["holder"]["token"] == held.lease.token
        assert shown["sessions"]["live"] == 1
        two = (await run("top", "--looks", "2", "--every", "0.01", "--json", "--url", redis_url))[1].splitlines()
        assert [json.loads(line)["held"] for line in two] == [1, 1]
    data = ("inspect", session.digest, "--keys", "--value", "cart", "--json", "--url", redis_url)
    seen = json.loads((await run(*data))[1])
    assert (seen["keys"], seen["values"]) == ([{"key": "cart", "bytes": 5}], {"cart": ["A"]})
    theirs = json.loads((await run("sessions", "--user", "ada", "--json", "--url", redis_url))[1])
    assert [one["digest"] for one in theirs["sessions"]] == [session.digest]


async def test_release_asks_or_compares(run: Run, guard: SessionGuard, redis_url: str) -> None:
    """Without a token and with nobody to ask it does nothing; agreed to, it takes the lock from whom it showed."""
    with pytest.raises(LeaseLost):
        async with guard.session_lock(SID) as session:
            session["n"] = 1
            status, out, err = await run("release", DIGEST, "--url", redis_url)
            assert (status, out) == (2, "")
            assert "--yes" in err
            assert (await run("release", DIGEST, "--token", "other", "--url", redis_url))[0] == 1
            status, out, _ = await run("release", DIGEST, "--yes", "--json", "--url", redis_url)
            assert (status, json.loads(out)["done"]) == (0, True)
    status, _, err = await run("release", DIGEST, "--yes", "--url", redis_url)
    assert status == 1
    assert "nobody holds" in err


async def test_the_locks_of_a_quorum(run: Run, three: Place) -> None:
    """With its masters named all of it is seen, and released at all of them: the next one gets it."""
    at = ("--url", three.store.tcp_url, *(word for master in three.masters for word in ("--master", master.tcp_url)))
    with pytest.raises(LeaseLost):
        async with three.guard(label="n1").session_lock(SID) as session:
            session["n"] = 1
            assert "1 lock held" in (await run("locks", *at))[1]
            assert "held by    n1" in (await run("inspect", DIGEST, *at))[1]
            assert (await run("release", DIGEST, "--yes", *at))[0] == 0
            assert three.is_free()
            async with three.guard().session_lock(SID, wait=5) as other:
                other["n"] = 2
    assert (await three.guard().read(SID))["n"] == 2


async def test_logout_ends_a_session_or_all_of_a_user(run: Run, guard: SessionGuard, redis_url: str) -> None:
    sessions = [await guard.create({}) for _ in range(3)]
    for session in sessions[:2]:
        await guard.bind(session.sid, "ada")
    at = ("--yes", "--url", redis_url)
    assert (await run("logout", sessions[2].digest, *at))[:2] == (0, "ended\n")
    assert (await run("logout", sessions[2].digest, *at))[0] == 1
    assert (await run("logout", "--user", "ada", *at))[:2] == (0, "ended 2 sessions\n")
    assert (await run("logout", "--user", "ada", *at))[0] == 1
    assert (await run("sessions", "--user", "ada", "--url", redis_url))[0] == 1


async def test_the_url_is_said_in_one_way(
    run: Run, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option before the environment, a file as good as the URL; nothing else starts or asks another server."""
    closed = "redis://127.0.0.1:1/0"
    file = tmp_path / "url"
    file.write_text(f"{redis_url}\n")
    assert (await run("locks", "--url-file", str(file)))[0] == 0
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    assert (await run("sessions"))[0] == 0
    monkeypatch.setenv(URL_VARIABLE, closed)
    assert (await run("locks"))[0] == 2
    assert (await run("locks", "--url", redis_url))[0] == 0
    for words, said in (
        (("--url-file", str(tmp_path / "none")), "cannot be read"),
        (("--url", "embedded://"), "another process cannot look into it"),
        (("--url", "memory://"), "another process cannot look into it"),
        (("--url", "http://localhost"), "begins with"),
    ):
        status, out, err = await run("inspect", DIGEST, *words)
        assert (status, out) == (2, "")
        assert said in err
        assert err.count("\n") == 1


async def test_an_empty_url_or_two_are_refused(run: Run, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option whose variable is not set must not act on another server than the one that was meant."""
    monkeypatch.setenv(URL_VARIABLE, redis_url)
    act = ("logout", "--user", "ada", "--yes")
    for words, said in (
        ((*act, "--url", ""), "--url is empty"),
        ((*act, "--url", " "), "--url is empty"),
        ((*act, "--url-file", ""), "--url-file is empty"),
        (("doctor", "", "--probe"), "URL is empty"),
        (("doctor", redis_url, "--probe", "--url", redis_url), "URL and --url say two"),
        (("doctor", redis_url, "--url-file", "no such"), "URL and --url-file say two"),
        (("audit", "", "--yes"), "URL|FILE is empty"),
        (("audit", "-", "--url", redis_url, "--yes"), "URL|FILE and --url say two"),
    ):
        status, out, err = await run(*words)
        assert (status, out, err.count("\n")) == (2, "", 1), words
        assert said in err, words
    for name in (URL_VARIABLE, FILE_VARIABLE):
        monkeypatch.delenv(URL_VARIABLE)
        monkeypatch.setenv(name, "")
        status, out, err = await run("locks")
        assert (status, out) == (2, "")
        assert f"{name} in the environment is empty" in err


@pytest.mark.parametrize(
    "words",
    [
        ("locks", "--within", "0"),
        ("locks", "--within", "nan"),
        ("locks", "--within", "1e9"),
        ("locks", "--limit", "0"),
        ("sessions", "--sample", "-1"),
        ("top", "--every", "soon"),
        ("top", "--looks", "1.5"),
    ],
)
def test_a_number_that_makes_no_sense_is_wrong_usage(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is said of it is for people."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert re.search(r"must be|invalid number", capsys.readouterr().err)


async def test_what_is_no_digest_is_not_quietly_an_id(run: Run, guard: SessionGuard, redis_url: str) -> None:
    """A digest that was cut names another session: "nobody holds it" would be a false all-clear."""
    at = ("--url", redis_url)
    async with guard.session_lock(SID):
        for cut in (DIGEST[:-1], DIGEST + "x", DIGEST.upper()):
            for command in (("inspect",), ("release", "--yes"), ("release", "--token", "t"), ("logout", "--yes")):
                status, *told = await run(command[0], cut, *command[1:], *at)
                assert status == 1
                assert "was taken for a session's id; a digest has all of 14 characters" in "".join(told)
        for copied in (f" {DIGEST}", f"{DIGEST} ", f"{{{DIGEST}}}", f"{{{DIGEST}}}:lock"):
            assert "held by    " in (await run("inspect", copied, *at))[1]
            assert (await run("inspect", copied, *at))[0] == 0
    assert "taken for" not in "".join((await run("inspect", "x" * 14, *at))[1:])
    assert "taken for" not in "".join((await run("inspect", "x" * 13, "--id", *at))[1:])
    status, out, err = await run("inspect", f"shop:{{{DIGEST}}}:lock", *at)
    assert (status, out) == (2, "")
    assert "prefix 'shop'" in err
    assert (await run("logout", "--user", "", "--yes", *at))[0] == 2
    assert (await run("sessions", "--user", "", *at))[0] == 2


async def test_errors_say_what_to_do(run: Run, own_server: Callable[..., FaultyServer]) -> None:
    """A forgotten password, a wrong one, a port where nobody listens; the password is never shown."""
    server = own_server(tcp=True, config={"requirepass": "s3cret"})
    wrong = server.tcp_url.replace("redis://", "redis://:wr0ng@")
    for url, advice in (
        (server.tcp_url, "the server wants a password"),
        (wrong, "password is wrong"),
        ("redis://127.0.0.1:1/0", "nobody listens there"),
    ):
        for command in (("locks",), ("sessions",), ("inspect", DIGEST), ("release", DIGEST, "--token", "t")):
            status, out, err = await run(*command, "--url", url)
            assert (status, out, err.count("\n")) == (2, "", 1), command
            assert advice in err, command
            assert "wr0ng" not in err


async def test_a_replica_is_looked_at_and_not_acted_on(run: Run, own_server: Callable[..., FaultyServer]) -> None:
    server = own_server(tcp=True)
    with connect(server.tcp_url) as client:
        client.set(f"sl:{{{DIGEST}}}:lock", "t", px=60_000)
        client.slaveof("127.0.0.1", 1)
    assert "1 lock held" in (await run("locks", "--url", server.tcp_url))[1]
    status, _, err = await run("release", DIGEST, "--token", "t", "--url", server.tcp_url)
    assert status == 2
    assert "connect to the master" in err


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        self.flush()
        buffer: Any = self.buffer
        return str(buffer.getvalue().decode(self.encoding))


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("with_rich", [True, False])
async def test_narrow_and_ascii_terminals(
    width: int,
    encoding: str,
    with_rich: bool,
    run: Run,
    node: MakeGuard,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No line is longer than the terminal is wide, with rich and without; what matters most is still there."""
    if with_rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setattr("sessionlock.cli.tables.rich_page", lambda page, width: None)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    holder = node(label="a-node-with-a-long-name").session_lock(SID, label="POST /a/route/that/is/ever/so/long/é")
    async with holder, waiting(node, SID, label="GET /another/long/route/of/an/application"):
        assert (await run("top", "--once", "--url", redis_url))[0] == 0
    lines = terminal.shown().splitlines()
    assert max(len(_plain(line)) for line in lines) <= width, lines
    assert any(DIGEST in line for line in lines)


def _plain(line: str) -> str:
    return "".join(part.partition("m")[2] if place else part for place, part in enumerate(line.split("\x1b[")))


@pytest.mark.parametrize(("given", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_are_as_the_environment_wants(
    given: dict[str, str], coloured: bool, run: Run, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in (await run("locks", "--url", redis_url))[1]) is coloured


def test_wide_letters_and_combining_marks_leave_columns_where_they_are() -> None:
    columns = Column("a", cut=True), Column("b", right=True)
    rows = [("日本語のラベル", "1"), ("cafe\u0301 de la gare", "2"), ("👍 /likes", "3"), ("plain", "4")]
    for width in (None, 40, 16):
        lines = list(lines_of(Page(tables=[Table("t", columns, rows)]), width, Style()))[2:]
        ends = [sum(cells(char) for char in line) for line in lines]
        assert len(set(ends)) == 1, lines
        assert width is None or ends[0] <= width
        assert [line[-1] for line in lines] == [*"b1234"]


def test_a_column_that_matters_less_goes_first() -> None:
    columns = Column("a"), Column("b", rank=2), Column("c", rank=1), Column("d", cut=True)
    page = Page(tables=[Table("t", columns, [("a" * 10, "b" * 10, "c" * 10, "d" * 30)])])
    widest = {
        width: [name for name in "abcd" if name * 2 in " ".join(lines_of(page, width, Style()))]
        for width in (80, 48, 36, 24)
    }
    assert widest == {80: [*"abcd"], 48: [*"abcd"], 36: [*"acd"], 24: [*"ad"]}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_top_in_a_terminal_ends_with_a_signal(redis_url: str, number: int, status: int) -> None:
    """It shows a look, and leaves the terminal as it was."""
    ours, terminal = os.openpty()
    environment = {**os.environ, URL_VARIABLE: redis_url, "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("COVERAGE_PROCESS_START", None)  # which has a handler of its own for SIGTERM
    command = [sys.executable, "-m", "sessionlock", "top", "--every", "0.1"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, env=environment, start_new_session=True) as process:
        os.close(terminal)
        screen, told = b"", False
        with os.fdopen(ours, "rb", 0) as read, contextlib.suppress(OSError):  # as a terminal tells its end
            while part := read.read(65_536):
                screen += part
                if b"locks held" in screen and not told:
                    told = True
                    process.send_signal(number)
    assert process.returncode == status
    assert b"waits by route" in screen
    assert screen.count(b"\x1b[?1049h") == screen.count(b"\x1b[?1049l")
    assert screen.count(b"\x1b[?25l") == screen.count(b"\x1b[?25h")


def ends(*words: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, whose end is awaited."""
    return subprocess.run([sys.executable, "-m", "sessionlock", *words], timeout=60, check=False, **streams)


def test_nothing_is_said_beside_the_answer(own_server: Callable[..., FaultyServer]) -> None:
    """No line of the library's log, no warning with the path of a file, no client of redis-py's with its settings."""
    full = own_server(config={"maxmemory": "1mb", "maxmemory-policy": "noeviction"})
    for words in (("doctor", full.unix_url), ("doctor", "--probe", "memory://")):
        assert ends(*words, capture_output=True).stderr == b"", words
    ran = ends("locks", "--url", "redis+sentinel://127.0.0.1:1,127.0.0.1:2/shop", capture_output=True)
    assert b"127.0.0.1:1 - network" in ran.stderr
    assert b"<redis" not in ran.stderr


def test_closed_and_full_streams_end_no_command_by_a_traceback(redis_url: str) -> None:
    """What is closed is like /dev/null; what is full is told, and is not "no" (1)."""
    shell = f"{sys.executable} -m sessionlock"
    for rest, status in (
        ("locks --url $U >&-", 0),
        ("locks --url $U --json >&- 2>&-", 0),
        ("doctor --probe --url $U >&-", 0),
        ("release - --yes --url $U <&-", 2),
        ("release x --url $U <&-", 1),
    ):
        ran = subprocess.run(
            ["sh", "-c", f"{shell} {rest}"],
            env={**os.environ, "U": redis_url},
            timeout=60,
            check=False,
            capture_output=True,
        )
        assert ran.returncode == status, (rest, ran)
        assert b"Traceback" not in ran.stderr, rest
    with open("/dev/full", "wb") as full:
        ran = ends("locks", "--url", redis_url, stdout=full, stderr=subprocess.PIPE)
    assert ran.returncode == 2
    assert ran.stderr.decode().count("\n") == 1
    assert b"could not be written (No space left" in ran.stderr


# --- what top follows


async def test_the_board_finds_what_is_hot(node: MakeGuard, redis_url: str) -> None:
    """A session that is saved again and again, and one that is waited for, before one that is only held."""
    guard, sids = node(label="n1"), [new_sid() for _ in range(3)]
    digests = [keys_for("sl", sid).digest for sid in sids]
    async with Operator.from_url(redis_url) as operator, guard.session_lock(sids[0]), guard.session_lock(sids[1]):
        board = Board(operator)
        async with guard.session_lock(sids[2], label="POST /cart") as session, waiting(node, sids[1], label="GET /"):
            first = await board.look(5.0)
            assert {lock.digest for lock in first.locks.locks} == set(digests)
            assert first.share == 1.0
            for number in range(5):
                session["n"] = number
                await session.save()
            view = await board.look(5.0)
            assert [hot.digest for hot in view.hot] == [digests[1], digests[2]]
            assert view.hot[1].saves > 0
            assert [(one.route, one.waiting, one.blocking) for one in view.routes] == [("GET /", 1, 0), ("", 0, 1)]
        await board.aclose()


async def test_top_waits_for_a_server_that_went_away(
    run: Run, own_server: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says since when, and goes on; only where there never was an answer, or the last look had none, it ends so."""
    server = own_server()
    look, before_looks = Board.look, list[Callable[[], object]]()

    async def looks(board: Board, within: float) -> View:
        before_looks.pop(0)()
        return await look(board, within)

    monkeypatch.setattr(Board, "look", looks)
    at = ("--every", "0.01", "--url", server.unix_url)
    before_looks[:] = list, server.kill, server.restart
    status, out, _ = await run("top", "--looks", "3", "--json", *at)
    first, second, third = map(json.loads, out.splitlines())
    assert (status, first["held"], third["held"]) == (0, 0, 0)
    assert "nobody listens there" in second["failed"] or "No such file" in second["failed"]
    before_looks[:] = list, server.kill, server.restart
    status, out, _ = await run("top", "--looks", "3", *at)
    assert status == 0
    assert re.search(r"no answer since \d\d:\d\d:\d\d: .+\n0 locks held", out)
    before_looks[:] = list, server.kill
    assert (await run("top", "--looks", "2", "--json", *at))[0] == 2
    before_looks[:] = (list,)
    assert (await run("top", "--looks", "2", "--json", *at))[0] == 2


async def test_a_server_that_goes_away_ends_top_with_advice(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server()
    async with Operator.from_url(server.unix_url) as operator:
        board = Board(operator)
        await board.look(1.0)
        server.kill()
        with pytest.raises(RedisUnavailable, match="nobody listens there"):
            await board.look(1.0)
        await board.aclose()
