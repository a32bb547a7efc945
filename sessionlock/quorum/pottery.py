"""The other engine of a quorum: pottery's ``AIORedlock`` takes the locks; fence, session, renewal and release are ours.

It uses the plain lock key of the native engine, so both, and everybody else's ``SET NX PX`` on that key, exclude each
other. What differs: no queue. Waiters try again after a random pause, so there is no order among them, and a try costs
two parallel round trips (pottery's, and one in which each master numbers its grant) before the store is asked.

How its traps are avoided: it is imported when it is first needed, and the ``json.dumps`` that it replaces for the whole
process is put back; each try has an object of its own, since acquiring a held one loses its token. It waits for all
masters, and would open connections for each try; so its commands go over the connection that this process has to each
master anyway, where they end soon and are not repeated, and masters that do not answer are left out. Its own reckoning
of validity is not relied upon. A try is never cut off half-way, and what it took is given up by token.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from ..clock import monotonic
from ..errors import ConfigurationError
from ..lock.patience import Patience
from ..lock.self_call import SelfCallCheck
from ..protocol.calls import Abandon
from ..protocol.quorum_calls import Adopt
from ..protocol.record_calls import Inspect
from ..protocol.replies import Busy, Granted, Voted
from .ballot import Won
from .master import Master, NoVote
from .poll import Contest, Poll, Reach

__all__ = ["PotteryElection"]

LONGEST_PAUSE = 0.2  # seconds between two tries, at random up to this


@cache
def _redlock(prefix: str) -> Any:
    """pottery's class, for keys that begin with ``prefix``."""
    dumps = json.dumps
    try:
        from pottery import AIORedlock
    except ImportError:
        raise ConfigurationError('Quorum(engine="pottery") needs pottery: pip install "sessionlock[pottery]"') from None
    finally:
        json.dumps = dumps
    return type("SessionRedlock", (AIORedlock,), {"__slots__": (), "_KEY_PREFIX": prefix})


class _PlainClient(Redis):
    """redis-py's commands over the connection that this process has to a master anyway: one answer or none, soon."""

    def __init__(self, master: Master, renamed: Callable[[Any], Any]) -> None:
        super().__init__(connection_pool=master.client.connection_pool)
        self._master = master
        self._renamed = renamed

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The bare reply: what becomes of it in redis-py is not needed."""
        try:
            # "SCRIPT LOAD" is two words.
            reply = await self._master.command(*str(args[0]).split(), *map(self._renamed, args[1:]))
        except NoVote as why:
            raise RedisConnectionError(str(why)) from None
        if isinstance(reply, hiredis.ReplyError):
            raise NoScriptError(str(reply)) if str(reply).startswith("NOSCRIPT") else ResponseError(str(reply))
        return reply


class _Try:
    """One object of pottery's, which serves once. The value that it draws for its lock is sent as a token of ours."""

    def __init__(self, contest: Contest) -> None:
        self._token = contest.begin_token()
        keys, everyone = contest.keys, contest.masters
        available = [master for master in everyone.all if master.available]
        self._masters: Sequence[Master] = available if len(available) >= everyone.majority else everyone.all
        self._lock = _redlock(keys.prefix)(
            key=keys.lock.decode().removeprefix(f"{keys.prefix}:"),
            masters=[_PlainClient(master, self._ours) for master in self._masters],
            auto_release_time=contest.request.lease.ttl_ms / 1000,
            num_extensions=0,  # renewing is the watchdog's
        )
        self.task: asyncio.Task[bool] = contest.runtime.background(self._lock.acquire(blocking=False))

    @property
    def all_are_available(self) -> bool:
        return all(master.available for master in self._masters)

    def take_over(self) -> str:
        """Its token, which from here on is ours to give up."""
        for master in self._masters:
            master.noted(self._token)
        return self._token

    def _ours(self, word: Any) -> Any:
        return self._token if word and word == self._lock._uuid else word


class PotteryElection:
    """One try after the other, each under a token that pottery draws. See :class:`.poll.Election`."""

    once = False  # pottery asks, and then each master numbers its grant

    def __init__(self, contest: Contest) -> None:
        self.token: str = contest.begin_token()
        self.poll: Poll = contest.poll()
        self._contest = contest
        self._reach = Reach(contest.router, contest.request)
        self._trying: _Try | None = None

    async def elect(self, patience: Patience) -> Won:
        with self._contest.self_call(lambda: None) as self_call:
            while True:
                won = await self._try()
                if won is not None:
                    return won
                if not self._contest.request.wait.queues:
                    raise await self._refusal()
                if self_call.untold or not self._has_a_majority():
                    await self._ask_who_holds()  # for the error, or the objection, to tell
                self._reach.check(self.poll, has_majority=self._has_a_majority())
                self.poll.hear(self_call)
                pause = await patience.next_pause()
                if pause is None:
                    raise await self._refusal(patience.elapsed())
                won = await self._try_until(monotonic() + min(pause, patience.left()), self_call)
                if won is not None:
                    return won

    async def end(self) -> None:
        """Cut off, a try would leave locks behind that arrive at their masters after everything else."""
        if self._trying is not None:
            await asyncio.wait([self._trying.task])
            self.token = self._trying.take_over()

    def leave(self) -> None:
        self.poll.close()

    async def _try_until(self, until: float, self_call: SelfCallCheck) -> Won | None:
        while (left := until - monotonic()) > 0:
            await asyncio.sleep(min(left, random.uniform(0, LONGEST_PAUSE)))
            if monotonic() < until:
                won = await self._try()
                if won is not None:
                    return won
            self_call.check()
        return None

    async def _try(self) -> Won | None:
        trying = self._trying = _Try(self._contest)
        taken = await asyncio.shield(trying.task)
        self._trying = None
        if taken:
            self.token = trying.take_over()
            return await self._numbered()
        if not trying.all_are_available:
            self.token = trying.take_over()  # where pottery's own release did not arrive
            self._settle()
        return None

    async def _numbered(self) -> Won | None:
        """Each master's counter for the lock that pottery took there. What follows is as if it had granted it."""
        self.poll = self._contest.poll()
        call = Adopt(self._contest.keys, self.token, label=self._contest.request.label, asked_at=monotonic())
        self.poll.ask_all(call, partial(self._adopted, self.poll))
        await self.poll.until_decided()
        won = self.poll.won()
        if won is None:
            self._settle()
        return won

    def _settle(self) -> None:
        self._contest.masters.settle(Abandon(self._contest.request.keys, self.token, self._contest.low(self.token)))

    def _adopted(self, poll: Poll, master: Master, outcome: Voted | NoVote) -> None:
        if isinstance(outcome, Granted):
            poll.ballot.granted(master.name, outcome)
        elif isinstance(outcome, NoVote):
            poll.ballot.silent(master.name, str(outcome))
        else:
            poll.ballot.silent(master.name, "did not give its lock to this one")
        poll.changed()

    def _has_a_majority(self) -> bool:
        masters = self._contest.masters
        return sum(master.available for master in masters.all) >= masters.majority

    async def _refusal(self, waited: float | None = None) -> Exception:
        await self._ask_who_holds()
        return self.poll.not_now(self._contest.request, waited)

    async def _ask_who_holds(self) -> None:
        """A try by pottery does not tell."""
        self.poll = self._contest.poll()
        for name, view in (await self._contest.masters.ask(Inspect(self._contest.keys))).items():
            if isinstance(view, NoVote):
                self.poll.ballot.silent(name, str(view))
            elif view.holder is not None:
                self.poll.ballot.busy(name, Busy(view.holder, 0, False))
