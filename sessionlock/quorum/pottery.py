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
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from ..errors import ConfigurationError
from ..lock.patience import Patience
from ..lock.self_call import SelfCallCheck
from ..protocol.calls import Abandon
from ..protocol.quorum_calls import Adopt
from ..protocol.record_calls import Inspect
from ..protocol.replies import Busy, Granted, Voted
from .ballot import Ballot, Won
from .election import QuorumAcquisition
from .master import Master, NoVote

__all__ = ["PotteryAcquisition"]

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


class PotteryAcquisition(QuorumAcquisition):
    """One try after the other, each under a token that pottery draws."""

    _trying: asyncio.Task[bool] | None = None
    _lock: Any = None
    _tried: Sequence[Master] = ()

    async def _elect(self, patience: Patience) -> Won:
        with self._self_call() as self_call:
            while True:
                won = await self._try()
                if won is not None:
                    return won
                if not self._wanted.wait.queues:
                    raise await self._refusal()
                if not self._has_a_majority():
                    await self._ask_who_holds()  # for the error to tell
                self._check_reached()
                if self_call.untold:
                    await self._ask_who_holds()
                self._hear(self_call)
                pause = await patience.next_pause()
                if pause is None:
                    raise await self._refusal(patience.elapsed())
                won = await self._try_until(time.monotonic() + min(pause, patience.left()), self_call)
                if won is not None:
                    return won

    async def _try_until(self, until: float, self_call: SelfCallCheck) -> Won | None:
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, random.uniform(0, LONGEST_PAUSE)))
            if time.monotonic() < until:
                won = await self._try()
                if won is not None:
                    return won
            self_call.check()
        return None

    async def _try(self) -> Won | None:
        keys, ttl = self._keys, self._wanted.lease.ttl_ms / 1000
        masters = [master for master in self._masters.all if master.available]
        self._tried = masters if len(masters) >= self._masters.majority else self._masters.all
        self._lock = _redlock(keys.prefix)(
            key=keys.lock.decode().removeprefix(f"{keys.prefix}:"),
            masters=[master.plain() for master in self._tried],
            auto_release_time=ttl,
            num_extensions=0,  # renewing is the watchdog's
        )
        self._once = False
        self._trying = self._runtime.background(self._lock.acquire(blocking=False))
        taken = await asyncio.shield(self._trying)
        self._trying = None
        if taken:
            self._take_over()
            return await self._numbered()
        if not all(master.available for master in self._tried):
            self._take_over()  # where pottery's own release did not arrive
            self._settle()
        return None

    def _take_over(self) -> None:
        """From here on it is ours to give up."""
        self.token = self._lock._uuid
        for master in self._tried:
            master.noted(self.token)

    async def _numbered(self) -> Won | None:
        """Each master's counter for the lock that pottery took there. What follows is as if it had granted it."""
        self._ballot = Ballot([master.name for master in self._masters.all], claim=self._wanted.lease.claim_ms / 1000)
        call = Adopt(self._keys, self.token, label=self._wanted.label, asked_at=time.monotonic())
        self._ask_all(call, self._adopted)
        await self._until_decided()
        won = self._ballot.won(time.monotonic())
        if won is None:
            self._settle()
        return won

    def _settle(self) -> None:
        self._masters.settle(Abandon(self._wanted.keys, self.token, push_limit=0))

    def _adopted(self, master: Master, outcome: Voted | NoVote) -> None:
        if isinstance(outcome, Granted):
            self._ballot.granted(master.name, outcome)
        elif isinstance(outcome, NoVote):
            self._ballot.silent(master.name, str(outcome))
        else:
            self._ballot.silent(master.name, "did not give its lock to this one")
        self._changed()

    async def _abandon_all(self, call: Abandon) -> None:
        if self._trying is not None:
            # Cut off, it would leave locks behind that arrive at their masters after everything else.
            await asyncio.wait([self._trying])
            self._take_over()
            call = replace(call, token=self.token)
        await super()._abandon_all(call)

    def _has_a_majority(self) -> bool:
        return sum(master.available for master in self._masters.all) >= self._masters.majority

    async def _refusal(self, waited: float | None = None) -> Exception:
        await self._ask_who_holds()
        return self._not_now(waited)

    async def _ask_who_holds(self) -> None:
        """A try by pottery does not tell."""
        self._ballot = Ballot([master.name for master in self._masters.all], claim=self._wanted.lease.claim_ms / 1000)
        views = await self._masters.ask(Inspect(self._keys))
        for name, view in views.items():
            if isinstance(view, NoVote):
                self._ballot.silent(name, str(view))
            elif view.holder is not None:
                self._ballot.busy(name, Busy(view.holder, 0, False))
