"""An embedded server with the faults that a test commands: killed, paused, started again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from sessionlock.embedded import EmbeddedServer, EmbeddedServerFailed

__all__ = ["FaultyServer"]


class FaultyServer(EmbeddedServer):
    """Only the process that started it can harm it: elsewhere every method raises RuntimeError.

    Its port is kept over :meth:`restart`.
    """

    def describe(self) -> str:
        """One line for people: ``Redis 7.0.15 from PATH, pid 123, unix socket /tmp/…/s``."""
        if not self.running:
            return f"{self.binary}, not running"
        port = f", 127.0.0.1:{self._port}" if self._port is not None else ""
        return f"{self.binary}, pid {self.pid}, unix socket {self.socket_path}{port}"

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server wrote to its log."""
        return self._log_tail(lines)

    def kill(self) -> None:
        """SIGKILL: the server is gone when this returns. Its files stay for ``restart()``; nothing is saved."""
        with self._lock:
            self._running()
            self._end()

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
                    self._end()
                else:
                    self._shut_down_saving()
            if empty:
                shutil.rmtree(self._place / "data")
                (self._place / "data").mkdir()
            self._launch(self.binary)

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

    def _free_port(self) -> int:
        """From below the range that the system gives to outgoing connections, so that none of those can take it while
        the server is down for a restart."""
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
