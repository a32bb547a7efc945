"""A process that used the face for threads ends without a word: no transport, task or thread is left open."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sessionlock.embedded import EmbeddedServer

pytestmark = pytest.mark.server

PROGRAM = """
import sys, threading
import sessionlock
from sessionlock.blocking import SessionGuard, session_lock

url, how = sys.argv[1:]

def use(guard):
    with guard.session_lock("s") as session:
        session["n"] = session.get("n", 0) + 1

if how == "a guard that is forgotten":
    use(SessionGuard.from_url(url))
elif how == "threads that wait":
    guard = SessionGuard.from_url(url)
    threads = [threading.Thread(target=use, args=(guard,)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
elif how == "the default guard":
    sessionlock.configure(url)
    with session_lock("s") as session:
        session["n"] = 1
elif how == "commits without scripts":
    guard = SessionGuard.from_url(url, commit_by="watch")
    guard.transaction(guard.create({}).sid, lambda session: session.update(a=1))
elif how == "a thread that holds":
    guard = SessionGuard.from_url(url)
    entered = threading.Event()
    def hold():
        with guard.session_lock("s"):
            entered.set()
            threading.Event().wait()
    threading.Thread(target=hold, daemon=True).start()
    entered.wait()
"""
WAYS = [
    "a guard that is forgotten",
    "threads that wait",
    "the default guard",
    "commits without scripts",
    "a thread that holds",
]


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_nothing_is_left_open(how: str) -> None:
    with EmbeddedServer(tcp=True) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, server.tcp_url, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # Development mode also tells of a step of the loop that took over 0.1 s, as it does where the machine is busy.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, said) == (0, [])
