"""The outages of a store, for one event loop: found out, told in the log, looked after until they are over.

There is one :class:`Trouble` for each server that fails (of a Cluster: each master), and none while all is well: then a
call costs one comparison more. What is decided when is the business of :class:`~sessionlock.transport.breaker.Breaker`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ..clock import monotonic
from ..errors import RedisUnavailable
from ..observe import Observer, OutageAbandoned, OutageBegan, OutageEnded
from ..protocol.keys import SessionKeys
from .advice import NO_RESP3, NOT_LET_IN, NOTHING_NOW, passes, with_advice
from .breaker import Breaker
from .route import LOST, NotNow, meant
from .tasks import within
from .wire import was_unsent

__all__ = ["Circuit", "CutOff", "Trouble", "is_outage", "was_cut", "while_lost", "worth_repeating"]

log: logging.Logger = logging.getLogger("sessionlock")

KNOCK_WITHIN = 1.0  # seconds for one look: a packet may be lost, and the next look sends a new one
JUST_OPENED = 0.02  # seconds for which a call waits for the very first look: perhaps it was one connection only
TOLD_AGAIN_AFTER = 60.0
MOST_COMPLAINTS = 100


class CutOff(RedisConnectionError):
    """The server closes the connection over this call, and answers others: that is no outage."""


def worth_repeating(error: BaseException) -> bool:
    """Whether what failed may succeed a moment later."""
    if isinstance(error, ResponseError):  # while connecting, in redis-py's words
        return passes(f"ERR {error}")
    # redis-py takes a wrong password for a lost connection.
    hopeless = isinstance(error, AuthenticationError) or NO_RESP3.search(str(error))
    return isinstance(error, (*LOST, NotNow)) and not hopeless


def while_lost(seconds: float) -> AsyncRetrying:
    """Tries again for so long what is worth repeating, at random times so that those who failed together do not return
    together.
    """
    return AsyncRetrying(
        retry=retry_if_exception(worth_repeating),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    )


def was_cut(error: Exception | None) -> bool:
    """Its connection was open, and was closed before the reply."""
    return isinstance(error, LOST) and not isinstance(error, RedisTimeoutError) and not was_unsent(error)


def is_outage(error: BaseException) -> bool:
    """Whether it is about the server as a whole, so that other calls would meet it, too."""
    if isinstance(error, NotNow):
        return NOTHING_NOW.match(str(error)) is not None
    if isinstance(error, CutOff):
        return False
    return isinstance(error, LOST) or was_unsent(error) or NOT_LET_IN.search(str(error)) is not None


class Trouble:
    """What is known of a server that fails. ``opened`` is done when calls begin to be refused, ``over`` at the end."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.breaker: Breaker = Breaker()
        self.reason = ""
        self.parked: int = 0  # calls that wait for the end
        self.told_at: float = 0.0  # monotonic: when the log had a line about it
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.knocking: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self.breaker.state == "open"

    async def first_look(self) -> None:
        """Before a call is refused: the look that follows the first failure at once may find all well."""
        if self.is_open and not self.breaker.looks:
            await asyncio.wait([self.over], timeout=JUST_OPENED)

    def refusal(self) -> RedisUnavailable:
        """For a call that is not even tried."""
        self.breaker.refused_one()
        down = monotonic() - self.breaker.since
        return RedisUnavailable(
            f"Redis at {self.server} has not been usable for {down:.0f} s ({self.reason}); nothing was sent. It is"
            " looked for in the background; try again in a moment",
            unsent=True,
        )

    def park(self, calls: int) -> None:
        """So many calls more wait for the end."""
        self.parked += calls

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.knocking is not None:
            self.knocking.cancel()
        if not self.over.done():
            self.over.set_result(None)


class Circuit:
    """``server``: for people. ``knock``: asks that server, once, for nothing; raises unless it answers. It gets the
    keys of the call that failed (None: none in particular). ``observer``: is told of begin and end.
    """

    def __init__(
        self,
        server: str,
        knock: Callable[[SessionKeys | None], Awaitable[object]],
        observer: Observer | None = None,
    ) -> None:
        self.server = server
        self._observer = observer
        self.troubles: dict[str | None, Trouble] = {}
        self._knock = knock
        self._complaints: dict[str, float] = {}
        self._closed = False
        self._abandoned: list[Trouble] = []  # whose looks are to be ended

    def doubt(self, where: str | None, began_at: float) -> Trouble:
        """A call that began then is going to be repeated."""
        trouble = self.troubles.get(where)
        if trouble is None:
            name = self.server if where is None else f"cluster master {where}"
            trouble = self.troubles[where] = Trouble(name)
        trouble.breaker.failed(began_at)
        return trouble

    def gave_up(self, where: str | None, error: BaseException, began_at: float, keys: SessionKeys | None) -> None:
        """A call was repeated in vain, or is hopeless."""
        if not is_outage(error):
            self.complain(error)
            return
        trouble = self.doubt(where, began_at)
        if not trouble.breaker.gave_up(began_at):
            return
        said = (str(error) or type(error).__name__).rstrip(".?")
        trouble.reason = with_advice(said, error, connecting=was_unsent(error))
        log.error(
            "Redis at %s cannot be used: %s. Every use of a session fails at once until it is back",
            trouble.server,
            trouble.reason,
            extra={"server": trouble.server, "reason": trouble.reason},
        )
        trouble.told_at = monotonic()
        if self._observer is not None and not self._closed:
            self._observer(OutageBegan("", "", trouble.server, trouble.reason))
        trouble.opened.set_result(None)
        if not self._closed:
            self._look(where, trouble, keys)

    def answered(self, where: str | None) -> None:
        """The server answered, whatever it said."""
        trouble = self.troubles.pop(where, None)
        if trouble is None:
            return
        down = trouble.breaker.answered(monotonic())
        if down is not None:
            log.error(
                "Redis at %s is back after %.1f s; meanwhile %d calls were refused at once",
                trouble.server,
                down,
                trouble.breaker.refused,
                extra={"server": trouble.server, "seconds": down, "refused": trouble.breaker.refused},
            )
            if self._observer is not None:
                self._observer(OutageEnded("", "", trouble.server, down, trouble.breaker.refused))
        trouble.stop()

    def complain(self, error: BaseException) -> None:
        """Tell of a refusal which other calls need not meet (out of memory, no permission), once a minute for each."""
        kind, now = str(error).split(" ", 1)[0], monotonic()
        if now - self._complaints.get(kind, -TOLD_AGAIN_AFTER) < TOLD_AGAIN_AFTER:
            return
        if len(self._complaints) >= MOST_COMPLAINTS:
            self._complaints.clear()
        self._complaints[kind] = now
        log.error(
            "Redis at %s refuses: %s. Further refusals of this kind are not told for a minute",
            self.server,
            with_advice(str(error), error),
        )

    def unless_refused(self, reached: Any) -> Any:
        """How far a save came, as WAIT or WAITAOF answered. None: the server refuses to tell, which is told in the log;
        the save itself is done.
        """
        if not isinstance(reached, hiredis.ReplyError):
            return reached
        self.complain(reached)
        return None

    async def is_there(self, keys: SessionKeys) -> bool:
        """Whether the server answers somebody else than the call about ``keys`` that was lost again and again."""
        try:
            await within(self._knock(keys), KNOCK_WITHIN)
        except Exception:
            return False
        return True

    def any_open(self) -> Trouble | None:
        return next((trouble for trouble in self.troubles.values() if trouble.is_open), None)

    def _look(self, where: str | None, trouble: Trouble, keys: SessionKeys | None) -> None:
        trouble.timer = None
        trouble.knocking = asyncio.get_running_loop().create_task(self._knocked(where, trouble, keys))

    async def _knocked(self, where: str | None, trouble: Trouble, keys: SessionKeys | None) -> None:
        try:
            await within(self._knock(keys), KNOCK_WITHIN)
        except (hiredis.ReplyError, ResponseError, NotNow) as error:
            down = is_outage(meant(error))  # no permission to ask this, a read-only replica: answers all the same
        except Exception:
            down = True
        else:
            down = False
        if self.troubles.get(where) is not trouble:
            return
        trouble.knocking = None
        if down:
            self._remind(trouble)
            loop = asyncio.get_running_loop()
            trouble.timer = loop.call_later(trouble.breaker.silent(), self._look, where, trouble, keys)
        else:
            self.answered(where)

    def _remind(self, trouble: Trouble) -> None:
        """A long outage is in the last page of the log, too."""
        now = monotonic()
        if now - trouble.told_at >= TOLD_AGAIN_AFTER:
            trouble.told_at = now
            lasted, refused = now - trouble.breaker.since, trouble.breaker.refused
            log.error(
                "Redis at %s cannot be used, for %.0f s now: %s. So far %d calls were refused at once",
                trouble.server,
                lasted,
                trouble.reason,
                refused,
                extra={"server": trouble.server, "reason": trouble.reason, "seconds": lasted, "refused": refused},
            )

    def look_no_more(self) -> None:
        """For servers that are down: who counts them counts them no longer."""
        self._closed = True
        troubles = list(self.troubles.values())
        self.troubles.clear()
        for trouble in troubles:
            if trouble.is_open and self._observer is not None:
                self._observer(OutageAbandoned("", "", trouble.server, monotonic() - trouble.breaker.since))
        self._abandoned += troubles

    async def aclose(self) -> None:
        self.look_no_more()
        troubles, self._abandoned = self._abandoned, []
        for trouble in troubles:
            trouble.stop()
        looks = [trouble.knocking for trouble in troubles if trouble.knocking is not None]
        if looks:
            await asyncio.wait(looks)
