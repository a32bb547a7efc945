"""The face for threads: the same promises, kept while real threads, signals and forks do what they like."""

# ruff: noqa: SIM117 - what raises is the end of the block, and the block is what the test is about

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from tenacity import Retrying, stop_after_attempt, wait_fixed

import sessionlock
from sessionlock import (
    ConfigurationError,
    InvalidSessionId,
    LeaseLost,
    LeasePolicy,
    ReadOnlySession,
    ReentrantLock,
    SessionConflict,
    SessionLockError,
    SessionNotFound,
    SessionPolicy,
    StaleFencingToken,
    WaitPolicy,
    WaitTimedOut,
    blocking,
)
from sessionlock.blocking.portal import Portal, portal
from sessionlock.embedded import EmbeddedServer

PATIENCE = 20.0


@pytest.fixture
def guard(redis_url: str) -> Iterator[blocking.SessionGuard]:
    with blocking.SessionGuard.from_url(redis_url) as guard:
        yield guard


@pytest.fixture
def other(redis_url: str) -> Iterator[blocking.SessionGuard]:
    """Another node."""
    with blocking.SessionGuard.from_url(redis_url) as guard:
        yield guard


def in_threads(*works: Callable[[], object]) -> None:
    """Run each in a thread; what one raises is raised here."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def until(condition: Callable[[], object], within: float = 10.0) -> None:
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.002)


def free(guard: blocking.SessionGuard, sid: str) -> bool:
    seen = guard.inspect(sid)
    return seen.holder is None and not seen.waiters


# --- the same as the async face


def test_what_changes_is_saved(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    with guard.session_lock("s") as session:
        assert session.new
        assert not session.modified
        session["cart"] = ["A"]
        session["cart"].append("B")
        session.update(a=1, b=2)
        del session["a"]
        assert session.modified
        assert session.lease is not None
        assert session.lease.remaining() > 0
        assert session.sid == "s"
    found = other.read("s")
    assert dict(found) == {"cart": ["A", "B"], "b": 2}
    assert not found.new
    assert found.version == 1
    assert found.lease is None
    assert "cart" in found
    assert len(found) == 2
    assert repr(found).startswith("<Session ")


def test_a_session_is_over_after_its_block(guard: blocking.SessionGuard) -> None:
    block = guard.session_lock("s")
    with block as session:
        session["a"] = 1
    assert session["a"] == 1
    with pytest.raises(ReadOnlySession):
        session["a"] = 2
    with pytest.raises(ConfigurationError, match="one use"), block:
        pass


def test_nothing_is_saved_when_the_body_raises(guard: blocking.SessionGuard) -> None:
    with pytest.raises(KeyError), guard.session_lock("s") as session:
        session["a"] = 1
        raise KeyError("mine")
    assert free(guard, "s")
    with guard.session_lock("s", mode="optimistic") as session:
        assert not session
    with pytest.raises(KeyError), guard.session_lock("s", save_on_error=True) as session:
        session["a"] = 1
        raise KeyError("mine")
    assert guard.read("s")["a"] == 1


def test_modes(guard: blocking.SessionGuard) -> None:
    with guard.session_lock("s") as session:
        session["n"] = 1
    with pytest.raises(ReadOnlySession), guard.session_lock("s", mode="read") as session:
        session["n"] = 2
    with guard.session_lock("s", mode="optimistic", expected_version=1) as session:
        session["n"] = 3
    with pytest.raises(SessionConflict), guard.session_lock("s", mode="optimistic") as session:
        session["n"] = 4
        with guard.session_lock("s") as faster:
            faster["n"] = 5
    with pytest.raises(SessionNotFound):
        guard.read("nobody's")
    with pytest.raises(InvalidSessionId):
        guard.read("")


def test_several_at_once(guard: blocking.SessionGuard) -> None:
    with guard.session_lock("guest", "user") as (guest, user):
        guest["cart"] = 1
        user["cart"] = 2
        assert guard.inspect("guest").holder
        assert guard.inspect("user").holder
    assert (guard.read("guest")["cart"], guard.read("user")["cart"]) == (1, 2)


def test_only_the_lock(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    with guard.lock("report") as lease:
        lease.check()
        with pytest.raises(WaitTimedOut), other.lock("report", wait=0):
            pass
    with other.lock("report", wait=0) as later:
        assert later.fencing_token > lease.fencing_token


def test_moments(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    with guard.session_lock("s") as session:
        session["a"] = 1
        session.save()
        assert other.read("s")["a"] == 1
        assert session.incr("n", 5) == 5
        session.flash("info", "hello")
        new_sid = session.regenerate()
        assert session.sid == new_sid
        session.release()
        assert free(other, "s")
        with pytest.raises(ReadOnlySession):
            session["a"] = 2
    with guard.session_lock(new_sid) as session:
        assert session.pop_flashes() == [("info", "hello")]
        session.destroy()
    with pytest.raises(SessionNotFound):
        guard.read(new_sid)


def test_saved_at_once(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    """With save="immediate" an assignment returns when it is stored; its error is raised right there."""
    at_once = SessionPolicy(save="immediate", merge={"log": "append"})
    with guard.session_lock("s", session=at_once) as session:
        session["a"] = 1
        assert other.read("s")["a"] == 1
        session.update(b=2, c=3)
        assert dict(other.read("s")) == {"a": 1, "b": 2, "c": 3}
        assert session.version == 2
        del session["a"]
        assert "a" not in other.read("s")
        with pytest.raises(sessionlock.CodecError):
            session["d"] = object()
        del session["d"]


def test_administration(guard: blocking.SessionGuard) -> None:
    session = guard.create({"a": 1})
    sid = session.sid
    assert guard.incr(sid, "n") == 1
    guard.bind(sid, "ann")
    assert [info.name for info in guard.sessions_of("ann")] == [session.name]
    assert guard.repair_index() == 1
    sid = guard.regenerate(sid)
    with guard.session_lock(sid):
        holder = guard.inspect(sid).holder
        assert holder is not None
        assert guard.force_release(sid, "somebody's") is False
    assert guard.destroy_all("ann", keep=sid) == 0
    assert guard.destroy_all("ann") == 1
    assert guard.destroy(sid) is False


def test_transactions(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    """The change runs here, not in the loop's thread, and again on the state that won."""
    other.create({"n": 1}, sid="s")
    ran: list[int] = []

    def change(session: blocking.Session) -> int:
        ran.append(threading.get_ident())
        session["n"] += 1
        if len(ran) == 1:
            other.transaction("s", lambda theirs: theirs.update(n=10))
        return int(session["n"])

    assert guard.transaction("s", change) == 11
    assert ran == [threading.get_ident()] * 2
    assert guard.read("s")["n"] == 11


def test_a_transaction_gives_up(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    other.create({"n": 1}, sid="s")
    tries = 0
    with pytest.raises(SessionConflict):
        for attempt in guard.attempts("s", retry=Retrying(stop=stop_after_attempt(3), wait=wait_fixed(0))):
            with attempt as session:
                session["n"] += 1
                tries += 1
                other.incr("s", "n")
    assert tries == 3
    for attempt in guard.attempts("s"):
        with attempt:
            break


# --- one loop for all threads


def test_sixteen_threads_lose_nothing(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    wait = WaitPolicy.seconds(PATIENCE)

    def work(mine: blocking.SessionGuard) -> None:
        for _ in range(50):
            with mine.session_lock("s", wait=wait) as session:
                session["n"] = session.get("n", 0) + 1

    before = threading.active_count()
    in_threads(*[lambda mine=mine: work(mine) for mine in (guard, other) * 8])
    assert guard.read("s")["n"] == 800
    assert free(guard, "s")
    assert threading.active_count() == before
    assert [thread.name for thread in threading.enumerate()].count("sessionlock") == 1


def test_refused_in_an_event_loop(guard: blocking.SessionGuard) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="async with"), guard.session_lock("s"):
            pass
        with pytest.raises(ConfigurationError, match="async face"):
            guard.read("s")
        async with sessionlock.SessionGuard(guard.inner._client) as its_own, its_own.session_lock("s") as session:
            session["a"] = 1
            assert (await asyncio.to_thread(guard.inspect, "s")).holder is not None

    asyncio.run(main())
    assert guard.read("s")["a"] == 1


def test_a_policy_cannot_call_it_from_the_loop(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    """What tenacity calls back runs in the loop's thread, with the waiting thread's context."""
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    whose.set("mine")
    seen: list[Any] = []

    def before_sleep(state: object) -> None:
        seen.append(whose.get())
        with pytest.raises(ConfigurationError):
            guard.read("s")

    wait = WaitPolicy(stop=sessionlock.WaitPolicy.seconds(0.1).stop, before_sleep=before_sleep)

    def waits() -> None:
        whose.set("the thread's")
        with pytest.raises(WaitTimedOut), guard.session_lock("s", wait=wait):
            pass

    with other.session_lock("s"):
        in_threads(waits)
    assert set(seen) == {"the thread's"}


# --- who holds already


def test_a_thread_that_asks_again_is_told(guard: blocking.SessionGuard) -> None:
    with guard.session_lock("s"):
        with pytest.raises(ReentrantLock, match="this thread"), guard.session_lock("s"):
            pass
        with pytest.raises(ReentrantLock), guard.lock("s"):
            pass
        with guard.session_lock("another's"):
            pass

        def waits() -> None:
            with pytest.raises(WaitTimedOut), guard.session_lock("s", wait=0.05):
                pass

        in_threads(waits)
    with guard.session_lock("s"):
        pass


# --- losing it


def take_away(node: blocking.SessionGuard, sid: str) -> None:
    holder = node.inspect(sid).holder
    assert holder is not None
    assert node.force_release(sid, holder.token)


def test_the_next_use_of_a_lost_session_raises(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    with pytest.raises(LeaseLost, match="nothing is saved"):
        with guard.session_lock("s", lease=LeasePolicy(ttl=0.3)) as session:
            session["a"] = 1
            take_away(other, "s")
            assert session.lease is not None
            until(lambda: session.lease.is_lost)  # type: ignore[union-attr]
            with pytest.raises(LeaseLost):
                session["a"]
            with pytest.raises(LeaseLost):
                session["b"] = 1
            with pytest.raises(LeaseLost):
                session.save()
    with other.session_lock("s") as session:
        assert not session


def test_the_end_of_a_lost_block_raises(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    """Also where the loss was not heard of, and with both fences when somebody else was granted."""
    with pytest.raises(StaleFencingToken) as caught, guard.session_lock("s") as session:
        session["a"] = 1
        take_away(other, "s")
        with other.session_lock("s"):
            pass
    assert session.lease is not None
    assert caught.value.ours == session.lease.fencing_token < caught.value.current
    with pytest.raises(KeyError) as mine, guard.session_lock("s"):
        take_away(other, "s")
        raise KeyError("mine")
    assert mine.type is KeyError


def test_a_lease_that_is_not_renewed_ends_on_time(guard: blocking.SessionGuard) -> None:
    with pytest.raises(LeaseLost):
        with guard.session_lock("s", lease=LeasePolicy(ttl=0.1, renew=False)) as session:
            session["a"] = 1
            until(lambda: session.lease.remaining() == 0)  # type: ignore[union-attr]
            session["a"] = 2


def test_one_that_is_only_told(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    lost = LeasePolicy(ttl=0.3, on_lost="flag")
    with pytest.raises(LeaseLost), guard.session_lock("s", lease=lost) as session:
        take_away(other, "s")
        assert session.lease is not None
        until(lambda: session.lease.is_lost)  # type: ignore[union-attr]
        assert session.lease.lost.is_set()
        session["a"] = 1  # goes on if it likes; nothing of it is saved
    with pytest.raises(LeaseLost), guard.lock("l", lease=LeasePolicy(ttl=0.3)) as lease:
        take_away(other, "l")
        until(lambda: lease.is_lost)


# --- being interrupted


def test_an_exception_out_of_a_signal_handler(guard: blocking.SessionGuard, other: blocking.SessionGuard) -> None:
    """Whatever a handler raises ends the waiting; neither a lock nor a place in the queue is left."""

    class Enough(BaseException):
        pass

    def enough(*_: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, enough)
    try:
        with other.session_lock("s"):

            def alarm() -> None:
                until(lambda: other.inspect("s").waiters)
                os.kill(os.getpid(), signal.SIGALRM)

            alarming = threading.Thread(target=alarm)
            alarming.start()
            with pytest.raises(Enough), guard.session_lock("s", wait=PATIENCE):
                pass
            alarming.join(PATIENCE)
            assert other.inspect("s").waiters == ()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert free(guard, "s")


RANDOM_INTERRUPTIONS = """
import random, signal, sys, time
from sessionlock import LeasePolicy, blocking

guard = blocking.SessionGuard.from_url(sys.argv[1], lease=LeasePolicy(ttl=60), wait=60)
watch = blocking.SessionGuard.from_url(sys.argv[1])
sys.unraisablehook = lambda _: None  # a Ctrl-C in some weak reference's callback is Python's to swallow

def interrupt(*_):
    raise KeyboardInterrupt

def count():
    with guard.session_lock("s") as session:
        session["n"] = session.get("n", 0) + 1

def by_hand():
    lock = guard.lock("s")
    lock.acquire()
    try:
        lock.extend()
    finally:
        lock.release()

cycle = {"count": count, "by_hand": by_hand}[sys.argv[2]]
signal.signal(signal.SIGALRM, interrupt)
cycle()
began = time.monotonic()
cycle()
longest = 4 * (time.monotonic() - began)
done = 1 + 1
interrupted = 0
for _ in range(300):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
            cycle()
            done += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    ends = time.monotonic() + 5
    while (seen := watch.inspect("s")).holder or seen.waiters:
        assert time.monotonic() < ends, seen
if cycle is count:
    n = watch.read("s")["n"]
    assert done <= n <= done + interrupted, (done, n, interrupted)
print("interrupted" if interrupted else "never interrupted")
"""

HOLDS_AND_WAITS = """
import sys, time
from sessionlock import blocking

guard = blocking.SessionGuard.from_url(sys.argv[1])
with guard.session_lock("s", wait=60) as session:
    session["by"] = "an interrupted one"
    time.sleep(60)
"""

FORKS = """
import os, sys, threading
from sessionlock import LeaseLost, blocking

guard = blocking.SessionGuard.from_url(sys.argv[1])

def cycles(sid, count):
    for _ in range(count):
        with guard.session_lock(sid, wait=20) as session:
            session["n"] = session.get("n", 0) + 1

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid

cycles("s", 5)                                     # the parent's loop runs
busy = threading.Thread(target=cycles, args=("s", 100))
busy.start()
children = [child(lambda: cycles("s", 50)) for _ in range(3)]   # and is in the middle of something
with guard.session_lock("held") as session:
    session["by"] = "the parent"

    def in_a_parents_block():
        for use in (session.save, session.release):
            try:
                use()
            except LeaseLost:
                continue
            raise AssertionError
        cycles("s", 1)

    children.append(child(in_a_parents_block))
    ended = [os.waitpid(pid, 0)[1] for pid in children]
busy.join()
cycles("s", 5)
assert ended == [0] * 4, ended
assert guard.read("s")["n"] == 5 + 100 + 3 * 50 + 1 + 5, dict(guard.read("s"))
assert guard.read("held")["by"] == "the parent"
print("fine")
"""

ENDS_WITH_A_HOLDER = """
import sys, threading
from sessionlock import LeasePolicy, blocking

guard = blocking.SessionGuard.from_url(sys.argv[1], lease=LeasePolicy(ttl=60), wait=60)
granted = threading.Event()

def holds():
    with guard.session_lock("s") as session:
        session["by"] = "a thread that was never finished"
        granted.set()
        threading.Event().wait()

threading.Thread(target=holds, daemon=True).start()
assert granted.wait(10)
print("fine")
"""


def script(text: str, url: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, url, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sessionlock.__file__).parent.parent)},
    )


def finished(process: subprocess.Popen[str]) -> str:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert err == ""
    return out.strip()


@pytest.mark.parametrize("cycle", ["count", "by_hand"])
def test_interrupted_at_any_moment(redis_url: str, cycle: str) -> None:
    assert finished(script(RANDOM_INTERRUPTIONS, redis_url, cycle)) == "interrupted"


def test_ctrl_c_in_the_queue(guard: blocking.SessionGuard, redis_url: str) -> None:
    with guard.session_lock("s"):
        process = script(HOLDS_AND_WAITS, redis_url)
        until(lambda: guard.inspect("s").waiters)
        interrupt(process)
        assert guard.inspect("s").waiters == ()
    assert free(guard, "s")


def test_ctrl_c_in_the_body(guard: blocking.SessionGuard, redis_url: str) -> None:
    process = script(HOLDS_AND_WAITS, redis_url)
    until(lambda: guard.inspect("s").holder)
    interrupt(process)
    assert free(guard, "s")
    with guard.session_lock("s") as session:
        assert "by" not in session


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, and its end."""
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_forks(redis_url: str) -> None:
    """While the loop runs and holds, as with gunicorn's preload_app; inside a block the lock stays the parent's."""
    assert finished(script(FORKS, redis_url)) == "fine"


def test_a_forked_body_that_fails(guard: blocking.SessionGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child the block's end is refused, but not over the body's own exception."""
    block = guard.session_lock("s")
    with block:
        with monkeypatch.context() as forked:
            forked.setattr(portal(), "pid", -1)
            assert block.__exit__(KeyError, KeyError("mine"), None) is None
            with pytest.raises(LeaseLost, match="forked"):
                block.__exit__(None, None, None)
        assert guard.inspect("s").holder is not None


def test_the_end_of_the_process(guard: blocking.SessionGuard, redis_url: str) -> None:
    """Quiet, quick, and what a daemon thread held is given up, not saved."""
    assert finished(script(ENDS_WITH_A_HOLDER, redis_url)) == "fine"
    assert free(guard, "s")
    with guard.session_lock("s") as session:
        assert not session


def test_a_block_that_cannot_be_left_any_more(guard: blocking.SessionGuard) -> None:
    """Ctrl-C between ``with`` and the block's own code: its end is never called. Garbage gives its lock up."""
    session: blocking.Session | None = guard.session_lock("s").__enter__()
    assert guard.inspect("s").holder is not None
    assert session is not None
    session["a"] = 1
    del session
    until(lambda: free(guard, "s"))


def test_a_stopped_loop_says_so() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def nothing() -> None:
        pass

    stopped = Portal()
    heard: list[str] = []

    def waits() -> None:
        with pytest.raises(SessionLockError, match="being closed") as caught:
            stopped.call(forever)
        heard.append(str(caught.value))

    thread = threading.Thread(target=waits)
    thread.start()
    until(lambda: stopped._tasks)
    stopped.stop()
    thread.join(PATIENCE)
    assert len(heard) == 1
    assert not stopped.alive
    with pytest.raises(SessionLockError, match="ending"):
        stopped.call(nothing)
    stopped.stop()
    assert portal().alive


# --- guards


def test_one_default_for_both_faces(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionlock.default._default", None)
    with pytest.raises(ConfigurationError, match="no default guard"):
        blocking.default_guard()
    made = blocking.configure(redis_url, prefix="both")
    assert blocking.default_guard() is made
    assert sessionlock.default_guard().prefix == "both"
    with blocking.session_lock("s") as session:
        session["a"] = 1
    with blocking.session_lock("s", "t") as (first, second):
        assert first["a"] == 1
        assert second.new

    async def its_own_loop() -> Any:
        async with sessionlock.session_lock("s") as session:
            found = session["a"]
        await sessionlock.default_guard().aclose()
        return found

    assert asyncio.run(its_own_loop()) == 1
    assert made.read("s")["a"] == 1  # the other face's end was not this one's
    made.close()
    assert made.read("s")["a"] == 1
    again = blocking.SessionGuard.from_url(redis_url, prefix="again")
    assert blocking.configure(again) is again
    assert blocking.default_guard() is again
    assert sessionlock.default_guard().prefix == "again"
    again.close()
    made.close()


def test_what_a_guard_is_made_of(redis_url: str, guard: blocking.SessionGuard) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        blocking.SessionGuard(redis.Redis.from_url(redis_url))
    with pytest.raises(ConfigurationError, match="options"):
        blocking.SessionGuard(sessionlock.SessionGuard.from_url(redis_url), prefix="x")
    with blocking.SessionGuard(AsyncRedis.from_url(redis_url), prefix="x") as of_a_client:
        with of_a_client.session_lock("s") as session:
            session["a"] = 1
        assert of_a_client.read("s")["a"] == 1


def test_close_leaves_no_connection(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as look:
        for _ in range(3):
            with blocking.SessionGuard.from_url(server.url) as guard, guard.session_lock("s"):
                pass
        until(lambda: len(look.client_list()) == 1)
