"""Random requests, interleaved, against a plain dict: what the store holds is always what the rules say.

Up to three requests of one session are open at once, in any mode and by either engine, and change keys of every
strategy. The model is a dict, and for each open request what it loaded and what it made of that. It has its own, slow
and obvious, reading of the rules: which changes conflict, how they merge, who is refused.

``HYPOTHESIS_PROFILE=nightly`` runs 10,000 examples.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tenacity import AsyncRetrying, stop_after_attempt

from sessionlock import (
    MISSING,
    SessionConflict,
    SessionDestroyed,
    SessionGuard,
    SessionLockError,
    SessionNotFound,
    SessionPolicy,
    WaitTimedOut,
)
from sessionlock.protocol.keys import keys_for

pytestmark = pytest.mark.slow

T = TypeVar("T")
Data = dict[str, Any]
Op = tuple[Any, ...]
STEPS = 12


def most(base: Any, ours: Any, theirs: Any) -> Any:
    """A strategy of the application's own: the value that sorts last; deletes lose."""
    return max((value for value in (ours, theirs) if value is not MISSING), key=dumps, default=MISSING)


MERGE: dict[str, Any] = {
    "n": "counter",
    "m": "counter",
    "cart": "append",
    "tags": "union",
    "items": "by_id",
    "token": "set_once",
    "theme": "last_write_wins",
    "best": most,
}
KEYS = (*MERGE, "user", "profile")  # the last two are critical, being undeclared
FLASHES = "_flashes"


def dumps(value: Any) -> str:
    return "MISSING" if value is MISSING else json.dumps(value)


# --- the rules, once more and simpler


class Conflict(Exception):
    """These do not merge."""


def less(items: list[Any], taken: Counter[str]) -> list[Any]:
    """``items`` without the first occurrences of ``taken``."""
    rest, left = taken.copy(), []
    for item in items:
        if rest[dumps(item)] > 0:
            rest[dumps(item)] -= 1
        else:
            left.append(item)
    return left


def count(items: list[Any]) -> Counter[str]:
    return Counter(map(dumps, items))


def merged_list(base: Any, ours: Any, theirs: Any, *, unique: bool = False, once: bool = False) -> Any:
    old, mine, current = ([] if value is MISSING else value for value in (base, ours, theirs))
    if not all(isinstance(value, list) for value in (old, mine, current)):
        raise Conflict
    removed = count(old) - count(mine)
    if once and removed - count(current):
        raise Conflict
    result = less(current, removed)
    result += [item for item in less(mine, count(old)) if not unique or dumps(item) not in count(result)]
    return MISSING if ours is MISSING and not result else result


def merged_items(base: Any, ours: Any, theirs: Any) -> Any:
    sides: list[dict[Any, Any]] = []
    for value in (base, ours, theirs):
        items = [] if value is MISSING else value
        if not isinstance(items, list) or not all(isinstance(item, dict) and "id" in item for item in items):
            raise Conflict
        sides.append({item["id"]: item for item in items})
        if len(sides[-1]) < len(items):
            raise Conflict
    old, mine, current = sides
    result = []
    for name in [*current, *(name for name in mine if name not in current)]:
        was, here, there = old.get(name), mine.get(name), current.get(name)
        if here != was and there != was and not (here is None and there is None):
            raise Conflict
        value = there if here == was else here
        if value is not None:
            result.append(value)
    return MISSING if ours is MISSING and not result else result


def merged(key: str, base: Any, ours: Any, theirs: Any) -> Any:
    rule = MERGE.get(key, "critical")
    if key == FLASHES:
        return merged_list(base, ours, theirs, once=True)
    if rule in ("append", "union"):
        return merged_list(base, ours, theirs, unique=rule == "union")
    if rule == "by_id":
        return merged_items(base, ours, theirs)
    if rule == "counter":
        if ours is MISSING and theirs is MISSING:
            return MISSING
        numbers = [0 if value is MISSING else value for value in (base, ours, theirs)]
        if ours is MISSING or not all(type(number) is int for number in numbers):
            raise Conflict
        return numbers[2] + numbers[1] - numbers[0]
    if rule == "set_once":
        return ours if theirs is MISSING else theirs
    if rule == "critical":
        raise Conflict
    return rule(base, ours, theirs)


# --- what requests do, to a session and to the model's dict alike


def apply(op: Op, data: Any) -> None:
    name, key, value = op
    current = data.get(key, MISSING)
    if name == "set":
        data[key] = copy.deepcopy(value)
    elif name == "delete":
        data.pop(key, None)
    elif name == "plus":
        data[key] = (current if type(current) is int else 0) + 1
    elif name == "push":  # deep, where there is a list
        if isinstance(current, list):
            current.append(value)
        else:
            data[key] = [value]
    elif name == "take":
        if isinstance(current, list) and current:
            current.pop(0)
    elif name == "put":  # deep, where there is a dict
        if isinstance(current, dict):
            current.setdefault("in", {})["side"] = value
        else:
            data[key] = {"in": {}}
    elif name == "item":
        if isinstance(current, list) and all(isinstance(item, dict) for item in current):
            found = [item for item in current if item.get("id") == value[0]]
            if found:
                found[0]["n"] = value[1]
            else:
                current.append({"id": value[0], "n": value[1]})
        else:
            data[key] = [{"id": value[0], "n": value[1]}]
    else:
        assert name == "clear"
        data.clear()


SCALARS = st.sampled_from([None, 0, 1, 7, "", "a", "b"])
# Names of what fits a key's kind come first, and twice: the others meet the refusals.
OPS: st.SearchStrategy[Op] = st.tuples(
    st.sampled_from(["fit", "fit", "fit", "fit", "fit", "set", "delete", "plus", "push", "put", "item", "clear"]),
    st.integers(0, 1),
    SCALARS,
)
FITTING = {
    "n": ("plus",),
    "m": ("plus",),
    "cart": ("push", "take"),
    "tags": ("push", "take"),
    "items": ("item", "item", "take"),
    "profile": ("put", "set"),
}
BEGINNING: Data = {
    "n": 5,
    "m": 0,
    "cart": ["a", "b", "a"],
    "tags": ["a", 1],
    "items": [{"id": 1, "n": 0}, {"id": 2, "n": 0}],
    "theme": "dark",
    "best": "b",
    "user": 1,
    "profile": {"in": {"side": 0}},
}


ALL_MODES = ("lock", "optimistic", "last_write_wins")
MODES = st.sampled_from(ALL_MODES)
RARELY = st.sampled_from([False] * 7 + [True])
HOT = st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True)


def drawn(dice: random.Random) -> Op:
    """An operation that mostly fits its key."""
    odd = ["set", "delete", "plus", "push", "put", "item", "clear"]
    name = "fit" if dice.random() < 0.85 else dice.choice(odd)
    return name, dice.randint(0, 1), dice.choice([None, 0, 1, 7, "", "a", "b"])


def concrete(op: Op, keys: list[str]) -> Op:
    """The operation with the key it means, in a form that fits that key."""
    name, number, value = op
    key = keys[number % len(keys)]
    if name == "fit":
        names = FITTING.get(key, ("set",))
        name = names[len(dumps(value)) % len(names)]
    if name == "item":
        value = (1 + len(dumps(value)) % 3, value)
    return name, key, value


class Aborted(Exception):
    """The request fails for a reason of its own."""


class Request:
    """One request: a task that holds the session, told from outside what to do; and the model of it."""

    def __init__(self, guard: SessionGuard, sid: str, mode: Any, policy: SessionPolicy) -> None:
        self.sid = sid
        self.locked = mode == "lock"
        self.immediate = policy.save == "immediate" and self.locked
        self.generation: int | None = None
        self.unfenced = False
        self.base: Data = {}
        self.local: Data = {}
        self.read: set[str] = set()
        self.read_all = False
        self._todo: asyncio.Queue[tuple[Callable[[Any], Awaitable[Any]] | None, asyncio.Future[Any]]] = asyncio.Queue()
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(guard, mode, policy))

    async def _run(self, guard: SessionGuard, mode: Any, policy: SessionPolicy) -> None:
        try:
            async with guard.session_lock(self.sid, mode=mode, session=policy, wait=0) as session:
                self._entered.set_result(None)
                while True:
                    do, done = await self._todo.get()
                    if do is None:
                        break
                    try:
                        done.set_result(await do(session))
                    except Aborted:
                        done.set_result(None)
                        raise
                    except SessionLockError as error:
                        done.set_exception(error)
        except SessionLockError as error:
            if self._entered.done():
                raise
            self._entered.set_exception(error)

    async def entered(self) -> None:
        await self._entered

    async def do(self, what: Callable[[Any], Awaitable[T]]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._todo.put_nowait((what, done))
        either: list[asyncio.Future[Any]] = [done, self._task]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return done.result()

    async def end(self) -> None:
        self._todo.put_nowait((None, asyncio.get_running_loop().create_future()))
        await self._task

    async def abort(self) -> None:
        async def fail(session: Any) -> None:
            raise Aborted

        await self.do(fail)
        await asyncio.wait([self._task])
        assert isinstance(self._task.exception(), Aborted), self._task.exception()

    # what the model knows

    def agrees(self, key: str, ours: Any, theirs: Any) -> bool:
        """Equal by assigning without having read, not by coincidence."""
        return key not in self.read and not self.read_all and dumps(ours) == dumps(theirs)

    def changed(self) -> list[str]:
        keys = dict.fromkeys([*self.base, *self.local])
        return [k for k in keys if dumps(self.local.get(k, MISSING)) != dumps(self.base.get(k, MISSING))]


class Sessions(RuleBasedStateMachine):
    loop: asyncio.AbstractEventLoop
    guards: list[SessionGuard]

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Request] = []
        self.messages = 0
        self.hot: list[str] = []
        self.new_session()

    def new_session(self) -> None:
        self.sid = secrets.token_urlsafe(8)
        self.dead: list[str] = []
        self.keys = keys_for("sl", self.sid)
        self.data: Data | None = None  # None: there is no record
        self.destroyed = False
        self.generation = 0
        self.version = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 10))

    def commit(self, request: Request) -> type[SessionLockError] | None:
        """What saving this request does to the model; or why it is refused."""
        changes = request.changed()
        if self.destroyed and (changes or request.locked):
            return SessionDestroyed
        if not changes:
            return None
        if not request.locked and request.sid in self.dead:
            return SessionNotFound
        if request.generation is not None and (self.data is None or request.generation != self.generation):
            return SessionNotFound
        if request.unfenced:
            return SessionNotFound
        store = {} if self.data is None else self.data
        conflicts = [
            key
            for key in changes
            if MERGE.get(key) != "last_write_wins"
            and dumps(store.get(key, MISSING)) != dumps(request.base.get(key, MISSING))
        ]
        try:
            results = {}
            for key in conflicts:
                ours, theirs = request.local.get(key, MISSING), copy.deepcopy(store.get(key, MISSING))
                if request.agrees(key, ours, theirs):
                    results[key] = ours
                else:
                    results[key] = merged(key, request.base.get(key, MISSING), ours, theirs)
        except Conflict:
            return SessionConflict
        request.read.update(key for key in conflicts if not request.agrees(key, results[key], store.get(key, MISSING)))
        for key, value in results.items():
            put(request.base, key, store.get(key, MISSING))
            put(request.local, key, value)
        changes = request.changed()
        if changes:
            if self.data is None:
                self.data, self.version = {}, 0
                self.generation += 1
            request.generation = self.generation
            self.version += 1
            for key in changes:
                put(self.data, key, request.local.get(key, MISSING))
                put(request.base, key, request.local.get(key, MISSING))
        return None

    def chosen(self, number: int) -> Request:
        return self.open[number % len(self.open)]

    def holder(self) -> Request | None:
        return next((request for request in self.open if request.locked), None)

    def expect(self, error: type[SessionLockError] | None, work: Coroutine[Any, Any, Any]) -> bool:
        """Run it; it must fail in this way, or not at all. Returns whether it succeeded."""
        if error is None:
            self.run(work)
            return True
        with pytest.raises(error) as caught:
            self.run(work)
        assert type(caught.value) is error, caught.value
        return False

    # --- rules

    @initialize(keys=HOT, existing=st.booleans())
    def begun(self, keys: list[str], existing: bool) -> None:
        """One or two keys are enough for requests to clash in."""
        self.hot = keys
        if existing:
            self.data = copy.deepcopy(BEGINNING)
            self.generation = self.version = 1
            self.run(self.guards[0].create(self.data, sid=self.sid))

    @precondition(lambda self: self.destroyed and not self.open)
    @rule(keys=HOT, existing=st.booleans())
    def begun_anew(self, keys: list[str], existing: bool) -> None:
        self.looked_at()
        self.new_session()
        self.begun(keys, existing)

    @precondition(lambda self: len(self.open) < 2 and not self.destroyed)
    @rule(chance=st.integers(0, 2**24))
    def overlapped(self, chance: int) -> None:
        """A few times two requests, loaded before either saves. Here variety counts more than a small example."""
        dice = random.Random(chance)
        already = len(self.open)
        for _ in range(dice.randint(1, 3)):
            for _ in range(2):
                self.opened(dice.choice(ALL_MODES), dice.randint(0, 1), False, False, False)
            for number in range(already, len(self.open)):
                self.changed(number, [drawn(dice) for _ in range(dice.randint(1, 3))])
            if len(self.open) > already and dice.random() < 0.3:
                self.saved(len(self.open) - 1)
            while len(self.open) > already:
                self.ended(dice.randrange(already, len(self.open)))

    @precondition(lambda self: len(self.open) < 3)
    @rule(
        mode=MODES,
        engine=st.integers(0, 1),
        immediate=st.booleans(),
        peek=st.booleans(),
        dead=st.booleans(),
    )
    def opened(self, mode: Any, engine: int, immediate: bool, peek: bool, dead: bool) -> None:
        policy = SessionPolicy(merge=MERGE, save="immediate" if immediate else "end_of_request")
        sid = self.dead[-1] if dead and self.dead and self.data is not None else self.sid
        request = self.run(self.made(self.guards[engine], sid, mode, policy))
        if self.destroyed:
            self.expect(SessionDestroyed, request.entered())
        elif sid != self.sid:
            self.expect(SessionNotFound, request.entered())
        elif mode == "lock" and self.holder() is not None:
            self.expect(WaitTimedOut, request.entered())
        else:
            self.run(request.entered())
            self.open.append(request)
            if self.data is not None:
                request.generation = self.generation
                request.base, request.local = copy.deepcopy(self.data), copy.deepcopy(self.data)
            request.read_all = peek
            if peek:
                assert self.run(request.do(self.contents)) == request.local

    async def made(self, *arguments: Any) -> Request:
        return Request(*arguments)

    async def contents(self, session: Any) -> Data:
        return dict(session)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2), ops=st.lists(OPS, min_size=1, max_size=4))
    def changed(self, number: int, ops: list[Op]) -> None:
        request = self.chosen(number)
        ops = [concrete(op, self.hot) for op in ops]

        async def change(session: Any) -> None:
            for op in ops:
                apply(op, session)

        self.run(request.do(change))
        for op in ops:
            apply(op, request.local)
            request.read.add(op[1])  # every one of them looks before it leaps
        if request.immediate:
            self.saved(number)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2))
    def flashed(self, number: int) -> None:
        request = self.chosen(number)
        self.messages += 1

        async def flash(session: Any) -> Any:
            if not isinstance(session.get(FLASHES, []), list):
                return None
            session.flash("info", self.messages)
            return session[FLASHES][-1]

        message = self.run(request.do(flash))
        request.local[FLASHES] = [*request.local.get(FLASHES, []), message]
        if request.immediate:
            self.saved(number)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2))
    def popped(self, number: int) -> None:
        request = self.chosen(number)

        async def pop(session: Any) -> Any:
            return session.pop_flashes()

        expected = [(category, text) for _, category, text in request.local.get(FLASHES, [])]
        assert self.run(request.do(pop)) == expected
        if FLASHES in request.local:
            request.local[FLASHES] = []
        if request.immediate:
            self.saved(number)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2))
    def saved(self, number: int) -> None:
        """In the middle of the request; when that fails the request fails."""
        request = self.chosen(number)

        async def save(session: Any) -> None:
            await session.save()

        error = self.commit(request) if request.changed() else None
        if not self.expect(error, request.do(save)):
            self.open.remove(request)
            self.run(request.abort())
        else:
            assert self.run(request.do(self.contents)) == request.local

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2))
    def ended(self, number: int) -> None:
        request = self.chosen(number)
        self.open.remove(request)
        self.expect(self.commit(request), request.end())

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2))
    def failed(self, number: int) -> None:
        request = self.chosen(number)
        self.open.remove(request)
        self.run(request.abort())

    @precondition(lambda self: self.data is not None)
    @rule(key=st.sampled_from(["n", "m", "user"]), by=st.integers(-3, 3))
    def incremented(self, key: str, by: int) -> None:
        """Without any request."""
        assert self.data is not None
        work = self.guards[0].incr(self.sid, key, by)
        if type(self.data.get(key, 0)) is not int:
            self.expect(SessionConflict, work)
            return
        self.data[key] = self.data.get(key, 0) + by
        self.version += 1
        assert self.run(work) == self.data[key]

    @precondition(lambda self: any(r.generation is not None for r in self.open) and not self.destroyed)
    @rule(number=st.integers(0, 2), key=st.sampled_from(["n", "m"]), by=st.integers(-3, 3))
    def incremented_inside(self, number: int, key: str, by: int) -> None:
        request = [request for request in self.open if request.generation is not None][0 if number % 2 else -1]
        if key in request.changed():
            return

        async def incr(session: Any) -> Any:
            return await session.incr(key, by)

        gone = self.data is None or request.generation != self.generation
        if gone or (request.sid in self.dead and not request.locked):
            self.expect(SessionNotFound, request.do(incr))
            return
        assert self.data is not None
        if type(self.data.get(key, 0)) is not int:
            self.expect(SessionConflict, request.do(incr))
            return
        self.data[key] = request.base[key] = request.local[key] = self.data.get(key, 0) + by
        self.version += 1
        assert self.run(request.do(incr)) == self.data[key]

    @rule(clashes=st.integers(0, 3), engine=st.integers(0, 1))
    def transacted(self, clashes: int, engine: int) -> None:
        """A transaction that meets others' commits and runs again on their state."""
        if self.destroyed:
            self.expect(SessionDestroyed, self.guards[engine].transaction(self.sid, lambda session: None))
            return
        tries = 0

        async def change(session: Any) -> None:
            nonlocal tries
            tries += 1
            if tries <= clashes:
                await self.guards[0].transaction(self.sid, lambda other: apply(("push", "user", tries), other))
            apply(("push", "user", "t"), session)

        at_once = AsyncRetrying(stop=stop_after_attempt(10))
        self.run(self.guards[engine].transaction(self.sid, change, retry=at_once))
        assert tries == clashes + 1
        if self.data is None:
            self.data, self.version = {}, 0
            self.generation += 1
        for value in [*range(1, clashes + 1), "t"]:
            apply(("push", "user", value), self.data)
            self.version += 1

    @precondition(lambda self: self.data is not None and not self.destroyed)
    @rule(by_holder=st.booleans())
    def regenerated(self, by_holder: bool) -> None:
        """The old id is dead at once."""
        holder = self.holder()
        if not by_holder or holder is None:
            new = self.run(self.guards[0].regenerate(self.sid, grace=0))
        else:

            async def regenerate(session: Any) -> str:
                new: str = await session.regenerate(grace=0)
                return new

            if holder.sid in self.dead:
                self.expect(SessionNotFound, holder.do(regenerate))
                return
            new = holder.sid = self.run(holder.do(regenerate))
        self.dead.append(self.sid)
        self.sid = new

    @precondition(lambda self: self.data is not None)
    @rule(rarely=RARELY)
    def logged_out(self, rarely: bool) -> None:
        if rarely:
            assert self.run(self.guards[0].destroy(self.sid))
            self.data, self.destroyed = None, True

    @precondition(lambda self: self.data is not None and not self.dead)
    @rule(rarely=RARELY)
    def expired(self, rarely: bool) -> None:
        """The record is gone, as if its time had come."""
        if rarely:
            self.run(self.guards[0]._client.delete(self.keys.session))
            self.data = None
            for request in self.open:
                request.unfenced = request.locked  # what it held the lock by is gone, too

    @rule()
    def looked_at(self) -> None:
        work = self.guards[1].read(self.sid)
        if self.data is None:
            self.expect(SessionDestroyed if self.destroyed else SessionNotFound, work)
            return
        seen = self.run(work)
        assert dict(seen) == self.data
        assert seen.version == self.version

    def teardown(self) -> None:
        while self.open:
            self.ended(0)
        self.looked_at()
        info = self.run(self.guards[0].inspect(self.sid))
        assert info.holder is None
        assert info.waiters == ()


def put(data: Data, key: str, value: Any) -> None:
    if value is MISSING:
        data.pop(key, None)
    else:
        data[key] = copy.deepcopy(value)


def test_random_requests(redis_url: str) -> None:
    loop = asyncio.new_event_loop()

    async def make() -> list[SessionGuard]:
        return [SessionGuard.from_url(redis_url, commit_by=by) for by in ("script", "watch")]

    async def close() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}  # what a failed example left behind
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for guard in Sessions.guards:
            await guard.aclose()

    Sessions.loop = loop
    Sessions.guards = loop.run_until_complete(make())
    try:
        run_state_machine_as_test(Sessions, settings=settings(stateful_step_count=STEPS))
    finally:
        loop.run_until_complete(close())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
