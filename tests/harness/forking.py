"""A program that uses a guard, forks, and uses the guard in both processes. Prints what became of it, in JSON.

``python forking.py SCENARIO URL [watch] [users] [quorum=URL,URL,URL]``. In all scenarios parent and child each
add to ``n`` of the same session, ``ROUNDS`` times and at the same time; what each of them read must be what it was to
read.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from sessionlock import LeasePolicy, Quorum, SessionGuard, WaitPolicy

ROUNDS = 30
PATIENCE = 10.0
Answer = dict[str, Any]


async def warm_up(guard: SessionGuard) -> None:
    """Open what a guard opens: the connection for calls, and the one for pushes."""

    async def add() -> None:
        async with guard.session_lock("warm") as session:
            session["n"] = session.get("n", 0) + 1

    await asyncio.gather(*(add() for _ in range(5)))
    await guard.transaction("warm", lambda session: session.update(n=0))
    if USERS:
        await guard.bind("warm", "user")


async def add_rounds(guard: SessionGuard, mine: str) -> Answer:
    """Both add to ``n``, each to a key of its own, too; a stolen reply would show another value there."""
    for number in range(ROUNDS):
        async with guard.session_lock("shared") as session:
            assert session.get(mine, 0) == number, dict(session)
            session[mine] = number + 1
            session["n"] = session.get("n", 0) + 1
        async with guard.session_lock(f"only {mine}") as session:
            assert session.get("n", 0) == number, dict(session)
            session["n"] = number + 1
        await guard.transaction(f"unlocked {mine}", lambda session: session.update(n=session.get("n", 0) + 1))
        if USERS:
            await guard.bind(f"unlocked {mine}", f"user {mine}")
            assert len(await guard.sessions_of(f"user {mine}")) == 1
    stored = await guard.read(f"unlocked {mine}")
    return {"rounds": ROUNDS, "unlocked": stored["n"]}


def run(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except BaseException:
        return {"error": traceback.format_exc()}


def in_child(write_to: int, work: Callable[[], Answer], *, tidy: bool) -> NoReturn:
    """Do ``work`` and end; ``tidy``: by the interpreter's end with all its finalizers, else at once."""
    answer = run(work)
    gc.collect()
    with os.fdopen(write_to, "w") as pipe:
        pipe.write(json.dumps(answer))
    if tidy:
        sys.exit(0)
    os._exit(0)


def fork(work: Callable[[], Answer], *, tidy: bool) -> tuple[int, int]:
    """Process id and the pipe from which the child's answer is read."""
    read_from, write_to = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_from)
        in_child(write_to, work, tidy=tidy)
    os.close(write_to)
    return pid, read_from


def collect(pid: int, read_from: int) -> Answer:
    with os.fdopen(read_from) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    answer: Answer = json.loads(text) if text else {"error": "the child said nothing"}
    return {**answer, "status": status}


def child_work(guard: SessionGuard) -> Answer:
    """In two event loops, one after the other, as a worker that is set up first and serves then."""
    asyncio.run(warm_up(guard))
    gc.collect()
    return asyncio.run(add_rounds(guard, "child"))


def between_turns(guard: SessionGuard, *, tidy: bool = False) -> dict[str, Answer]:
    """The loop of the parent stands still while it forks, and goes on afterwards."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(warm_up(guard))
    child = fork(lambda: child_work(guard), tidy=tidy)
    answer = run(lambda: loop.run_until_complete(add_rounds(guard, "parent")))
    answers = {"child": collect(*child), "parent": answer}
    loop.run_until_complete(guard.aclose())
    loop.close()
    return answers


async def while_it_runs(guard: SessionGuard) -> dict[str, Answer]:
    """A task forks; the parent holds a lease that is renewed, and has a request in the queue."""
    await warm_up(guard)
    queued = None
    async with guard.session_lock("held", lease=LeasePolicy(ttl=0.3)) as held:
        queued = asyncio.ensure_future(wait_for_turn(guard))
        while not (await guard.inspect("held")).waiters:
            await asyncio.sleep(0.003)
        child = fork(lambda: child_work(guard), tidy=False)
        answer = await add_rounds(guard, "parent")
        answers = {"child": await asyncio.to_thread(collect, *child), "parent": answer}
        held["parent"] = True
    answers["queued"] = {"read": await queued}
    await guard.aclose()
    return answers


async def inside_a_block(guard: SessionGuard, child_raises: type[BaseException] | None, kind: str) -> dict[str, Answer]:
    """Child and parent leave the block that the parent entered."""
    answer: Answer = {}
    pid, pipe = 0, os.pipe()
    try:
        held: Any
        async with guard.session_lock("held") if kind == "session" else guard.lock("held") as held:
            if kind == "session":
                held["parent"], held = True, held.lease
            pid = os.fork()
            if pid == 0:
                if child_raises is not None:
                    raise child_raises
            else:
                os.close(pipe[1])
                answer = await asyncio.to_thread(collect, pid, pipe[0])
                held.check()
    except BaseException as error:
        if pid == 0:
            os.write(pipe[1], json.dumps({"raised": f"{type(error).__name__}: {error}"}).encode())
            os._exit(0)
        raise
    await guard.aclose()
    return {"parent": {}, "child": answer}


async def wait_for_turn(guard: SessionGuard) -> dict[str, Any]:
    async with guard.session_lock("held") as session:
        return dict(session)


def dies_before_its_child(guard: SessionGuard) -> dict[str, Answer]:
    """The parent ends, as if it were killed, while its child, which has no use for the guard, lives on until told."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(warm_up(guard))
    pid = os.fork()
    if pid == 0:
        sys.stdin.read()
        os._exit(0)
    print(json.dumps({"child": pid}), flush=True)
    os._exit(0)


SCENARIOS: dict[str, Callable[[SessionGuard], dict[str, Answer]]] = {
    "between turns": between_turns,
    "between turns, the child ends with all finalizers": partial(between_turns, tidy=True),
    **{
        f"inside a block of a {kind}, the child {name}": partial(
            lambda guard, raises, kind: asyncio.run(inside_a_block(guard, raises, kind)), raises=raises, kind=kind
        )
        for kind in ("session", "lock")
        for name, raises in (("exits", SystemExit), ("fails", ValueError), ("leaves it", None))
    },
    "the parent dies first": dies_before_its_child,
    "while the loop runs": lambda guard: asyncio.run(while_it_runs(guard)),
}


def main(scenario: str, url: str, *options: str) -> None:
    masters = [option.removeprefix("quorum=") for option in options if option.startswith("quorum=")]
    guard = SessionGuard.from_url(
        url,
        wait=WaitPolicy.seconds(PATIENCE),
        commit_by="watch" if "watch" in options else "auto",
        quorum=Quorum(masters[0].split(","), rejoin_after=0) if masters else None,
    )
    print(json.dumps(SCENARIOS[scenario](guard)))


USERS = "users" in sys.argv[3:]
"""Whether the index of users' sessions, which lies outside of the scripts, is used, too."""

if __name__ == "__main__":
    main(*sys.argv[1:])
