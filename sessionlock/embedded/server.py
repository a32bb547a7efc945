"""A private, real Redis-compatible server process: what ``embedded://`` runs on.

For development, demos and tests, on Linux. The server listens on a unix socket in a directory that only this user can
enter (and, on request, on a free TCP port of the loopback interface), persists nothing unless told to, and dies with
the process that started it, however that process dies.

How it dies with its owner: a small ``sh`` process (the *watcher*) reads a pipe whose other end only the owner holds.
When the owner is gone, in whatever way, the pipe ends; the watcher then kills the server and removes the directory.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import monotonic
from ..errors import EmbeddedServerUnavailable
from .binary import ServerBinary, find_server

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EmbeddedServer", "EmbeddedServerFailed", "shared_server"]

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


class EmbeddedServer:
    """One private server process; ``with EmbeddedServer() as server: connect(server.url)``.

    It always listens on a unix socket, with ``tcp=True`` also on a free port of 127.0.0.1. ``config`` are lines of a
    redis.conf (``{"appendonly": "yes"}``), as that file would spell their values; they win over the defaults, which
    persist nothing. ``start_within`` is how many seconds the server may take to answer its first PING.

    Every method blocks, for milliseconds. Only the process that started the server can stop it: in a forked child
    ``url`` stays usable, ``stop()`` does nothing, and ``start()`` raises RuntimeError.
    """

    def __init__(
        self,
        binary: ServerBinary | str | None = None,
        *,
        tcp: bool = False,
        config: Mapping[str, str] | None = None,
        start_within: float = 10.0,
    ) -> None:
        # What was asked for; the program is looked for when it is needed first.
        self._wanted = binary
        self._binary = binary if isinstance(binary, ServerBinary) else None
        self._tcp = tcp
        self._config = dict(config or {})
        self._start_within = start_within
        # What there is from start() to stop(), whether the process runs or not; of the process that started it.
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._folder: Path | None = None
        self._port: int | None = None
        self._watcher: _Watcher | None = None
        # Only while the server runs.
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
        """The TCP port on 127.0.0.1."""
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

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self._binary or 'not started'}>"

    # -- its life

    def start(self) -> Self:
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
                self._open()
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
            self._end()
            watcher, folder = self._watcher, self._folder
            _started.discard(self)
            self._folder = self._port = self._watcher = self._owner = None
            if watcher is not None:
                watcher.dismiss()
            shutil.rmtree(folder, ignore_errors=True)  # in case somebody killed the watcher

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
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

    def _open(self) -> None:
        """Make the directory and the watcher that will remove it."""
        with _spawning:
            self._folder = _short_private_folder()
            self._owner = os.getpid()
            _started.add(self)
            try:
                (self._folder / "data").mkdir()
                self._watcher = _Watcher(self._folder)
            except BaseException:
                self.stop()
                raise

    def _launch(self, binary: ServerBinary) -> None:
        """Start the process and wait for its first PONG; on a fresh start, with another port if one was taken."""
        deadline = monotonic() + self._start_within
        chosen_before = self._port is not None
        while True:
            if self._tcp and not chosen_before:
                self._port = self._free_port()
            self._spawn(binary)
            if self._await_answer(deadline):
                return
            reason = self._ending()
            self._end()
            tail = self._log_tail()
            if "Address already in use" in tail and monotonic() < deadline:
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
                stdout=self._watcher.ear,
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
            if monotonic() > deadline:
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

    def _end(self) -> None:
        """Kill the process, if there is one, and reap it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._forget_process()

    def _forget_process(self) -> None:
        """Tell the watcher that this process id is nobody's now, so that it never kills a later bearer of it."""
        self._process = None
        if self._watcher is not None:
            self._watcher.tell(b"-\n")

    def _free_port(self) -> int:
        """A port of 127.0.0.1 that nobody has now."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.bind(("127.0.0.1", 0))
            found: int = trial.getsockname()[1]
            return found

    def _log_tail(self, lines: int = 20) -> str:
        """The last lines that the server wrote to its log."""
        try:
            written = (self._place / "log").read_bytes()
        except FileNotFoundError:
            return ""
        return "\n".join(written[-16384:].decode(errors="replace").splitlines()[-lines:])

    def _disown(self) -> None:
        """In a forked child: let go of the pipe, so that the child does not keep the server of a dead parent alive."""
        self._lock = threading.RLock()
        if self._watcher is not None:
            self._watcher.ear.close()
            self._watcher.process.returncode = 0  # no child of this process: Popen must not wait for it nor complain
        if self._process is not None:
            self._process.returncode = 0


class _Watcher:
    """The small process that outlives us just long enough to kill the server and to remove its directory."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sessionlock-watcher", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.ear = self.process.stdin

    def tell(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # somebody killed the watcher: there is nobody to tell
            self.ear.write(line)

    def dismiss(self) -> None:
        self.tell(b"end\n")
        self.ear.close()
        self.process.wait()


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
