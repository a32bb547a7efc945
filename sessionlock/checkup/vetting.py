"""Looks at a server once, beside the first call, and refuses calls to one that is unfit."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis.exceptions import RedisError

from ..errors import RedisUnavailable, ScriptsForbidden
from ..transport.advice import with_advice
from ..transport.route import LOST, NotNow
from ..transport.tasks import detached, within
from .capabilities import Checkup
from .findings import Capabilities

__all__ = ["Vetting"]

CLOSED_WITHIN = 2.0  # seconds for a look that is cancelled


class Vetting:
    """The use of a :class:`Checkup` in one event loop."""

    def __init__(self, checkup: Checkup) -> None:
        self.checkup = checkup
        self._looking: asyncio.Task[bool] | None = None
        self._is_fit = False

    def vet(self) -> bool | asyncio.Task[bool]:
        """Before a call. True: the server is known to be fit, so that nobody need ask again. A task: the look that is
        under way here. False: it does not show soon.

        Raises:
            SessionLockError: the server is known to be unfit.
        """
        found = self.checkup.known()
        if found is None:
            self.look_soon()
            looking = self._looking
            return False if looking is None or looking.done() else looking
        refusal = found.refusal()
        if refusal is not None:
            raise refusal
        return True

    def look_soon(self) -> None:
        """Unless this process knows the server, or is looking: beside the calls, and without the context of the caller,
        for the look may outlive that request.
        """
        if self.checkup.begin():
            self._looking = detached(self._look())

    async def _look(self) -> bool:
        """Whether there was an answer."""
        with suppress(RedisError, NotNow, *LOST):  # none now; the next call tries again
            await self.checkup.run()
            return True
        return False

    async def fit(self, timeout: float) -> None:
        """As :meth:`vet`, and waits for a look, for so many seconds: who asks this has no request yet that a look might
        delay. A server that runs no scripts is fit for an application that takes no lock. Once it was fit, nothing is
        asked again.

        Raises:
            SessionLockError: the server is known to be unfit.
        """
        if self._is_fit:
            return
        found = self.checkup.known()
        if found is None:
            try:
                found = await within(self.checkup.run(), timeout)
            except (asyncio.TimeoutError, TimeoutError, RedisError, NotNow, *LOST):
                return  # it answered a moment ago; what it is will be seen beside the calls
        refusal = found.refusal()
        if refusal is not None and not isinstance(refusal, ScriptsForbidden):
            raise refusal
        self._is_fit = True

    async def look(self) -> Capabilities:
        """Ask the server now.

        Raises:
            RedisUnavailable: it did not answer.
        """
        try:
            return await self.checkup.run()
        except (RedisError, NotNow, *LOST) as error:
            raise RedisUnavailable(with_advice(f"Redis did not tell what it is: {error}", error)) from error

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking], timeout=CLOSED_WITHIN)
