"""A crowd that wonders costs one look, and looks cost this process little; none is left to wonder in vain."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from sessionlock.selfcalls import looks as module
from sessionlock.selfcalls.looks import SHARE, Looks
from sessionlock.selfcalls.sockets import Look, Peer, peer_of
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio

ME = os.getpid()
WITHIN = 10.0
THREAD = "sessionlock-self-call"


@pytest.fixture
def peer() -> Iterator[Peer]:
    """The client of a connection that this process has with itself."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        connection, name = server.accept()
        with connection:
            found = peer_of(*name)
            assert found is not None
            yield found


class Counted(Look):
    """How many looks there were, each of which costs ``seconds`` of a processor; and begins when it ``may``."""

    made = 0
    seconds = 0.0
    began = threading.Event()
    may = threading.Event()

    def __init__(self) -> None:
        super().__init__()
        kind = type(self)
        kind.made += 1
        kind.began.set()
        assert kind.may.wait(WITHIN)
        until = time.thread_time() + kind.seconds
        while time.thread_time() < until:
            pass


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Counted]]:
    class Fresh(Counted):
        began, may = threading.Event(), threading.Event()

    monkeypatch.setattr(module, "Look", Fresh)
    yield Fresh
    Fresh.may.set()


def still() -> bool:
    return True


async def test_a_crowd_has_one_look(counted: type[Counted], peer: Peer) -> None:
    looks = Looks()
    first = asyncio.ensure_future(looks.found_out(peer, ME, still))
    await asyncio.to_thread(counted.began.wait, WITHIN)
    others = [asyncio.ensure_future(looks.found_out(peer, pid, still)) for pid in (ME, os.getppid()) * 20]
    await asyncio.sleep(0)  # they ask
    counted.may.set()
    assert await asyncio.wait_for(first, WITHIN)
    assert await asyncio.wait_for(asyncio.gather(*others), WITHIN) == [True, False] * 20
    assert counted.made == 2


async def test_looks_take_a_small_share_of_a_processor(counted: type[Counted], peer: Peer) -> None:
    """However many ask one after the other without end."""
    counted.may.set()
    counted.seconds = 0.01
    looks, began = Looks(), time.monotonic()
    while time.monotonic() - began < 4 * counted.seconds / SHARE:
        assert await asyncio.wait_for(looks.found_out(peer, ME, still), WITHIN)
    passed = time.monotonic() - began
    assert 2 <= counted.made <= 1 + passed * SHARE / counted.seconds


async def test_who_waits_no_more_costs_no_look(counted: type[Counted], peer: Peer) -> None:
    counted.may.set()
    counted.seconds = 0.01  # so the next look is some time ahead
    looks = Looks()
    assert await asyncio.wait_for(looks.found_out(peer, ME, still), WITHIN)
    gone = [asyncio.ensure_future(looks.found_out(peer, ME, still)) for _ in range(3)]
    await asyncio.sleep(0)
    for each in gone:
        each.cancel()
    await asyncio.wait(gone)
    await eventually(lambda: THREAD not in {each.name for each in threading.enumerate()}, "the thread ends")
    assert counted.made == 1
    assert await asyncio.wait_for(looks.found_out(peer, ME, still), WITHIN)
    assert counted.made == 2


async def test_an_error_is_no_and_the_next_look_is_made(monkeypatch: pytest.MonkeyPatch, peer: Peer) -> None:
    def fail(*_: object) -> bool:
        raise MemoryError

    looks = Looks()
    with monkeypatch.context() as failing:
        failing.setattr(Look, "is_of_process", fail)
        assert not await asyncio.wait_for(looks.found_out(peer, ME, still), WITHIN)
    assert await asyncio.wait_for(looks.found_out(peer, ME, still), WITHIN)


async def test_whose_hold_is_over_was_not_waited_for(peer: Peer) -> None:
    assert not await asyncio.wait_for(Looks().found_out(peer, ME, lambda: False), WITHIN)


CHILD = """
import asyncio, os, sys, threading, time
from sessionlock.selfcalls import looks

def still():
    time.sleep(60)  # the parent's thread is in the midst of it
    return True

async def asks(still, seconds):
    try:
        return await asyncio.wait_for(looks.found_out(("127.0.0.1", 1), os.getpid(), still), seconds)
    except asyncio.TimeoutError:
        return None

assert asyncio.run(asks(still, 0.2)) is None
pid = os.fork()
if not pid:
    os._exit(0 if asyncio.run(asks(lambda: False, 20.0)) is False else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_forked_child_looks_by_itself() -> None:
    """It has none of its parent's threads."""
    asked = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD)], timeout=60, check=False)
    assert asked.returncode == 0
