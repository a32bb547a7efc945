"""The session is at one store, its lock at a majority of independent masters: which call goes where."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..clock import monotonic
from ..errors import QuorumNotReached, RedisUnavailable
from ..observe import Observer, OutageAbandoned, OutageBegan, OutageEnded
from ..policies import Replication
from ..protocol.calls import Abandon, Call, Release, Renew
from ..protocol.inspected import Inspected
from ..protocol.keys import SessionKeys, keys_for, new_sid
from ..protocol.numbers import Numbers
from ..protocol.quorum_calls import Dismiss
from ..protocol.record_calls import Destroy, ForceRelease, Inspect
from ..protocol.replies import Abandoned, Committed, Conflict, Destroyed, Holder, Refused, Saved
from ..transport.breaker import Breaker
from ..transport.calling import Executor
from ..transport.tasks import fetch_error, within
from .master import NoVote
from .masters import Masters

log: logging.Logger = logging.getLogger("sessionlock")

__all__ = ["CallRouter", "ElectionResult", "lock_keys"]

T = TypeVar("T")
ALONE = "locks alone"
MAJORITY = "a majority of masters"


@dataclass(frozen=True, slots=True)
class ElectionResult:
    """What is to be known of a holder until its end.

    ``once``: the token was in one call to each master. ``without_store``: the store knows nothing of it. ``spoiled``:
    masters whose lock may be taken back at any time.
    """

    once: bool = False
    without_store: bool = False
    spoiled: frozenset[str] = frozenset()


UNKNOWN = ElectionResult()


class CallRouter:
    """Runs calls where they belong: what is about the session at its store, what is about the lock also at the masters.

    ``store``: whose route, and so what is known of the server, is this one's. ``background``: runs what nobody waits
    for. ``retry_for``: seconds for which a majority that does not answer is tried again. ``observer``: is told of
    outages of the masters.
    """

    def __init__(
        self,
        store: Executor,
        masters: Masters,
        background: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        *,
        retry_for: float,
        observer: Observer | None = None,
    ) -> None:
        self.store = store
        self._observer = observer
        self.masters = masters
        self.retry_for = retry_for
        self._background = background
        self._breaker = Breaker()
        self._elected: dict[str, ElectionResult] = {}  # of those that hold a lock, by token
        self._at_masters_too: dict[type[Call[Any]], Callable[[Any], Awaitable[Any]]] = {
            Release: self._release,
            Renew: self._renew,
            Destroy: self._destroy,
            Inspect: self._inspect,
            ForceRelease: self._force_release,
        }

    async def run(self, call: Call[T], limit: float = math.inf) -> T:
        """What the script answered. Raises as :meth:`Executor.run` does. Masters have limits of their own."""
        special = self._at_masters_too.get(type(call))
        return await self.store.run(call, limit) if special is None else await special(call)

    async def save(self, call: Call[T]) -> tuple[T, Replication | None]:
        """As :meth:`Executor.save`."""
        saving = self.store.save(call)
        if isinstance(call, Release):
            return await self._saved_and_released(call, saving)
        outcome, safety = await saving
        if isinstance(call, Destroy):
            self.masters.settle(Dismiss(call.keys))
        return outcome, safety

    # --- of the store only

    async def elsewise(self, key: bytes, do: Callable[[], Awaitable[T]], tried_for: SessionKeys | None = None) -> T:
        """As :meth:`Executor.elsewise`."""
        return await self.store.elsewise(key, do, tried_for)

    @property
    def numbers(self) -> Numbers:
        return self.store.numbers

    @property
    def deaf(self) -> bool:
        return self.store.deaf

    @property
    def waits(self) -> bool:
        return True

    def batch_calls(self, wanted: bool) -> None:
        self.store.batch_calls(wanted)

    # --- outages of the masters; those of the store are its own executor's

    def unreached(self, since: float, error: QuorumNotReached) -> bool:
        """A majority has had no say since then. Whether that is an outage, in which nobody waits for it to end."""
        if monotonic() - since >= self.retry_for and self._breaker.gave_up(since):
            log.error(
                "no session can be locked: %s. Every lock fails at once until they are back; this is told once", error
            )
            if self._observer is not None:
                self._observer(OutageBegan("", "", MAJORITY, str(error)))
        return self._breaker.refuses()

    def reached(self) -> None:
        """A majority has granted a lock."""
        if self._breaker.state == "open":
            down = self._breaker.answered(monotonic())
            log.error(
                "a majority of masters is back after %.1f s; meanwhile %d locks failed", down, self._breaker.refused
            )
            if self._observer is not None:
                self._observer(OutageEnded("", "", MAJORITY, down or 0.0, self._breaker.refused))

    async def ready(self, timeout: float) -> None:
        """As :meth:`Executor.ready`; and a majority of masters must answer.

        Raises:
            QuorumNotReached: too few of them do.
        """
        answers, _ = await asyncio.gather(self._asked_masters(timeout), self.store.ready(timeout))
        if not self._a_majority(answers):
            told = {master.label: str(answers.get(master.name, "no answer")) for master in self.masters.all}
            silent = "; ".join(f"{label}: {said}" for label, said in told.items())
            error = QuorumNotReached(f"no majority of the masters is ready: {silent}", answers=told)
            if not any(master.reached for master in self.masters.all):
                self.unreached(monotonic() - self.retry_for, error)
            raise error

    async def _asked_masters(self, timeout: float) -> dict[str, Any]:
        nobody = keys_for(self.masters.prefix, new_sid())
        try:
            return await within(self.masters.ask(Inspect(lock_keys(nobody)), self._a_majority), timeout)
        except asyncio.TimeoutError:
            return {}

    async def _release(self, call: Release) -> Saved:
        if call.session is None:
            return await self._unlock(call)
        outcome, _ = await self._saved_and_released(call, self._unwaited(call))
        return outcome

    async def _unwaited(self, call: Release) -> tuple[Saved, None]:
        return await self.store.run(call), None

    async def _saved_and_released(
        self, call: Release, saving: Coroutine[Any, Any, tuple[T, Replication | None]]
    ) -> tuple[T, Replication | None]:
        """The store saves and unlocks; then, without being waited for, the masters hand the lock on."""
        try:
            outcome, safety = await saving
        except RedisUnavailable:
            self.give_up(call)  # saved or not, this body is over
            raise
        if not isinstance(outcome, Conflict):
            self.give_up(call)
        return outcome, safety

    async def _unlock(self, call: Release) -> Saved:
        """A lock alone: whether it was held to the end is for a majority of masters to say."""
        majority, others = self.masters.majority, len(self.masters.all) - self.masters.majority

        def sure(answers: list[Any]) -> bool:
            gone = len(_gone(answers))
            return len(answers) - gone >= majority or gone > others

        answers = await self.give_up(call, sure)
        gone = _gone(answers)
        if len(gone) > others:
            # A single master's highest counter may be that of a vote for this very holder which did not count.
            known = sorted(gone, reverse=True)[majority - 1] if len(gone) >= majority else 0
            return Refused("lost", known)
        if len(answers) < majority:
            raise QuorumNotReached(
                f"only {len(answers)} of {len(self.masters.all)} masters answered when the lock was given up: it is not"
                " known whether it was held to the end. Where it was not given up it runs out"
            )
        return Committed(None, changed=False)

    def group(self, keys: SessionKeys, token: str) -> object:
        """Locks alone are renewed by themselves: they must not wait for the store, nor end with it."""
        return ALONE if self._result(token).without_store else self.store.group(keys, token)

    def give_up(self, call: Release, enough: Callable[[list[Any]], bool] | None = None) -> asyncio.Future[list[Any]]:
        """As :meth:`Masters.settle`, for the token of a ``release``."""
        once = self._elected.pop(call.token, UNKNOWN).once
        return self.masters.settle(Abandon(call.keys, call.token, call.low, once=once), enough)

    def elected(self, token: str, result: ElectionResult) -> None:
        """``token`` holds the lock from now on."""
        self._elected[token] = result

    def _result(self, token: str) -> ElectionResult:
        return self._elected.get(token, UNKNOWN)

    async def _renew(self, call: Renew) -> list[int | None]:
        """Extended, where a majority of masters and the store say so; None while that is not known."""
        if any(self._result(token).without_store for token in call.tokens):
            return await self._renew_at_masters(call)
        at_store = self._background(self.store.run(call))
        at_store.add_done_callback(fetch_error)
        by_masters = await self._renew_at_masters(call)
        by_store = await at_store
        return [
            0 if 0 in (master, store) else store if master else None
            for master, store in zip(by_masters, by_store, strict=True)
        ]

    async def _renew_at_masters(self, call: Renew) -> list[int | None]:
        def sure(answers: dict[str, Any]) -> bool:
            return None not in self._renewed(call, answers, len(self.masters.all) - len(answers))

        return self._renewed(call, await self.masters.ask(call, sure), 0)

    def _renewed(self, call: Renew, answers: Mapping[str, Any], out: int) -> list[int | None]:
        """For each lease 1: held by a majority, 0: by none for sure, None: it depends on who has not answered."""
        told = {name: answer for name, answer in answers.items() if not isinstance(answer, NoVote)}
        result: list[int | None] = []
        for number, token in enumerate(call.tokens):
            spoiled = self._result(token).spoiled
            yes = sum(held[number] != 0 and name not in spoiled for name, held in told.items())
            lost = len(told) - yes > len(self.masters.all) - self.masters.majority
            result.append(1 if yes >= self.masters.majority else 0 if lost else None)
        return result

    async def _destroy(self, call: Destroy) -> Destroyed:
        destroyed = await self.store.run(call)
        self.masters.settle(Dismiss(call.keys))
        return destroyed

    async def _inspect(self, call: Inspect) -> Inspected:
        """The store's view; holder and waiters as a majority of masters has them where the store does not know."""
        seen = await self.store.run(call)
        views = _views(await self.masters.ask(call, self._one_holds))
        if seen.token is None:
            seen = _with_holder(seen, views, self.masters.majority)
        return _with_waiters(seen, views)

    def _a_majority(self, answers: dict[str, Any]) -> bool:
        return sum(not isinstance(answer, NoVote) for answer in answers.values()) >= self.masters.majority

    def _one_holds(self, answers: dict[str, Any]) -> bool:
        """Whether these views tell who holds a majority, or that nobody does: the others must not be waited for."""
        holders = Counter(view.token for view in _views(answers))
        most = max(holders.values(), default=0)
        return most >= self.masters.majority or most + len(self.masters.all) - len(answers) < self.masters.majority

    async def _force_release(self, call: ForceRelease) -> str:
        """The store decides where it knows the holder. What is a lock alone is known to the masters only."""
        at_store = await self.store.run(call)
        at_masters = ForceRelease(call.keys, call.token)
        if at_store == "released":
            await self.masters.ask(at_masters, self._a_majority)
            return at_store
        if at_store == "over":
            return "not-holder"  # somebody else did, and the masters may not have heard of it yet
        views = _views(await self.masters.ask(Inspect(call.keys), self._one_holds))
        if sum(view.token == call.token for view in views) < self.masters.majority:
            return at_store
        answers = await self.masters.ask(at_masters)
        released = sum(answer == "released" for answer in answers.values())
        return "released" if released >= self.masters.majority else at_store

    def look_no_more(self) -> None:
        """As :meth:`Executor.look_no_more`."""
        breaker, self._breaker = self._breaker, Breaker()
        if breaker.state == "open" and self._observer is not None:
            self._observer(OutageAbandoned("", "", MAJORITY, monotonic() - breaker.since))
        self.store.look_no_more()

    async def aclose(self) -> None:
        await self.masters.aclose()
        await self.store.aclose()


def _gone(answers: list[Abandoned]) -> list[int]:
    """The highest counters of the masters that had no lock to give up."""
    return [answer.fence for answer in answers if not answer.held]


def _views(answers: Mapping[str, Any]) -> list[Inspected]:
    return [answer for answer in answers.values() if isinstance(answer, Inspected)]


def _with_holder(seen: Inspected, views: Sequence[Inspected], majority: int) -> Inspected:
    """Granted by the masters and not known at the store: just now, or to another client."""
    for view in views:
        if view.token is not None and sum(other.token == view.token for other in views) >= majority:
            return replace(
                seen,
                token=view.token,
                left=view.left,
                server_us=view.server_us,
                holder=view.holder,
                fence=seen.fence or view.fence,
            )
    return seen


def _with_waiters(seen: Inspected, views: Sequence[Inspected]) -> Inspected:
    """In the order of their mean place in the queues."""
    places: dict[str, list[int]] = {}
    waiters: dict[str, Holder | None] = {}
    for view in views:
        for place, (token, waiter) in enumerate(view.queue.items()):
            places.setdefault(token, []).append(place)
            waiters[token] = waiter or waiters.get(token)
    order = sorted((token for token in places if token != seen.token), key=lambda t: sum(places[t]) / len(places[t]))
    return replace(seen, queue={token: waiters[token] for token in order})


def lock_keys(keys: SessionKeys) -> SessionKeys:
    """As the masters see a session: they hold no record, and so no ids that it was given later."""
    return replace(keys, proof=f"p:{keys.digest}")
