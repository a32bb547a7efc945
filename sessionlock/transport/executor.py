"""Runs the scripts: again after a lost connection or "not now", over whatever route leads to their server.

Every script may be repeated, because its token tells what was done already; so a lost reply is never a lost answer.
When repeating has failed for long enough, an outage begins and calls fail at once (:mod:`.outages`). Redis' errors
become :mod:`sessionlock.errors` here and nowhere else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import hiredis
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import stop_after_delay

from ..clock import monotonic
from ..errors import OutcomeUnknown, RedisUnavailable, ScriptsForbidden
from ..observe import CallRepeated, Observer
from ..policies import Replicated, Replication
from ..protocol.calls import Abandon, Call
from ..protocol.keys import SessionKeys
from ..protocol.numbers import Numbers
from ..protocol.replies import Committed, Conflict, Refused, Snapshot
from .advice import FULL, NO_SCRIPTS, with_advice
from .clients import server_name
from .cluster import ClusterRoute
from .one_server import ServerRoute
from .outages import Circuit, CutOff, Trouble, is_outage, while_lost, worth_repeating
from .repetition import FAILURES, Repetition
from .route import NotNow, Route, meant
from .tasks import fetch_error, within
from .wire import was_unsent

__all__ = ["RedisExecutor"]

T = TypeVar("T")
CUTS_BY_A_LIMIT = 3  # connections in a row that are closed over one call, before that is taken for the call's doing
BACK = "try again when Redis is back"
LOOK_WITHIN = 1.0  # seconds for which a call waits for the first look at its server; it goes on beside it then
MOST_PARKED = 2000  # calls that give something up and wait for the end of an outage to do so


class RedisExecutor:
    """Runs :class:`~sessionlock.protocol.Call` objects over one client, for one event loop.

    ``client``: a ``redis.asyncio`` client. ``reply_within``: seconds to wait for one reply. ``retry_for``: seconds
    within which a call is done, its repetitions after a lost connection or "not now" included (one repetition is always
    allowed). ``durability``: what saves wait for. ``on_break``: called when a connection was lost: what else is
    connected to that server should not be trusted either. ``observer``: is told of repetitions and outages.

    Raises (from :meth:`run`):
        RedisUnavailable: no answer in that time, or a refusal such as NOPERM; or at once, in an outage.
    """

    def __init__(
        self,
        client: Any,
        *,
        reply_within: float,
        retry_for: float,
        durability: Replicated | None = None,
        on_break: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
    ) -> None:
        if durability is not None:
            reply_within += durability.within
        numbers = Numbers()
        self.numbers: Numbers = numbers

        def lost() -> None:
            numbers.rename()
            on_break()

        self.route: Route = _route(client, reply_within, lost)
        self.circuit: Circuit = Circuit(server_name(client), self._knock, observer)
        self._observer = observer
        self._durability = durability
        self._at_once_within = 2 * reply_within  # a connection breaks before, where calls stay unanswered
        self._retry_for = retry_for
        self._cuts = retry_for > reply_within  # else one more try gets its time
        self._longest: float = retry_for if self._cuts else 4 * reply_within  # two tries, and connecting for each
        self._vet: Callable[[], bool | asyncio.Task[bool]] | None = None
        self._closed = False
        self._retrying = while_lost(retry_for)

    async def run(self, call: Call[T], limit: float = math.inf) -> T:
        """What the script answered. ``limit``: seconds after which it is given up.

        Raises:
            asyncio.TimeoutError: the limit was reached. Otherwise as the class says.
        """
        if self._vet is not None:
            limit -= await self._vetted(call, limit)
        if limit < self._at_once_within or call.numbered or self.circuit.troubles or self._closed:
            return await self._slowly(call, limit)
        began_at = monotonic()
        sent = self.route.begin(call)
        if sent is None:
            return await self._slowly(call, limit)
        try:
            reply = await sent
            if reply.__class__ is hiredis.ReplyError:
                reply = await self.route.otherwise(call, reply)
        except FAILURES as error:
            repeating = self._carefully(error, began_at, call, self._send, call)
            reply, doubtful = await self._limited(repeating, limit - (monotonic() - began_at))
            return _settled(call, reply, doubtful)
        return _settled(call, reply, False)

    async def _slowly(self, call: Call[T], limit: float) -> T:
        work = self._numbered(call, None) if call.numbered else self._unnumbered(call)
        return (await self._limited(work, limit))[0]

    async def _unnumbered(self, call: Call[T]) -> tuple[T, None]:
        reply, doubtful, _ = await self._sent(call, None)
        return _settled(call, reply, doubtful), None

    def _limited(self, work: Coroutine[Any, Any, T], limit: float) -> Awaitable[T]:
        return work if limit >= self._longest else within(work, limit)

    def vet_by(self, vet: Callable[[], bool | asyncio.Task[bool]]) -> None:
        """Ask ``vet`` before each call until it says that the server is fit. It raises when the server is unfit; a look
        that is under way is waited for.
        """
        self._vet = vet

    async def _vetted(self, call: Call[Any], limit: float) -> float:
        """Returns the seconds that it took. Else what the first requests of a process work out is lost at a server that
        takes no saves, or worse, is acknowledged by one that will forget it.
        """
        vet = self._vet
        if vet is None or call.ends or self.circuit.troubles:  # nobody to look at in an outage
            return 0.0
        began_at, fit = monotonic(), vet()
        if isinstance(fit, asyncio.Task):
            await asyncio.wait([fit], timeout=min(limit, LOOK_WITHIN))
            fit = vet() if fit.done() and not fit.cancelled() and fit.result() else False
        self._vet = None if fit is True else vet
        return monotonic() - began_at

    async def ask(self, *words: Any) -> Any:
        """The reply to one plain command, of one server; once. For looking at what the server is.

        Raises:
            redis.exceptions.RedisError, hiredis.ReplyError, OSError: as it came.
        """
        return await self.route.ask(*words)

    async def save(self, call: Call[T]) -> tuple[T, Replication | None]:
        """As :meth:`run`; and how far the save came, when that is waited for."""
        durability = self._durability
        if durability is None:
            return await self.run(call), None
        if self._vet is not None:
            await self._vetted(call, math.inf)
        if call.numbered:
            return await self._numbered(call, durability)
        reply, doubtful, reached = await self._sent(call, durability)
        return _told(_settled(call, reply, doubtful), durability.judge(reached))

    async def _numbered(self, call: Call[T], durability: Replicated | None) -> tuple[T, Replication | None]:
        """A call that has a number of its own, until it is answered; with another where the store has forgotten it."""
        lane, digest = self.numbers.operations, call.keys.digest
        while True:
            if call.begins:
                lane.exceed(self.numbers.clock.hint(monotonic()))
            op = lane.begin(digest)
            call.carry(op, lane.low(digest, op))
            try:
                reply, doubtful, reached = await self._sent(call, durability)
                if reply[0] != b"forgotten":
                    outcome = _settled(call, reply, doubtful)
                    if doubtful and isinstance(outcome, (Refused, Conflict)) and await self._was_done(call, op):
                        reply, _, reached = await self._sent(call, durability)
                        if reply[0] == b"forgotten":
                            raise _unknown(call)
                        outcome = _settled(call, reply, doubtful)
                    if call.begins:
                        self._has_begun(outcome)
                    return _told(outcome, None if durability is None else durability.judge(reached))
            finally:
                lane.end(digest, op)
            if doubtful:
                raise _unknown(call)
            lane.exceed(int(reply[1]))

    def _has_begun(self, outcome: Any) -> None:
        """What began a session just now tells the server's clock."""
        if isinstance(outcome, (Committed, Snapshot)) and outcome.version == 1 and outcome.created:
            self.numbers.clock.saw(int(outcome.created), monotonic())

    async def _was_done(self, call: Call[Any], op: str) -> bool:
        """A call was refused, and an earlier try of it may still be under way: it must do nothing when it comes.
        Whether it came meanwhile and was carried out: then to ask once more tells what it came to.

        Raises OutcomeUnknown: that is not known.
        """
        never = Abandon(call.keys, op, self.numbers.operations.low(call.keys.digest, op), deaf=True)
        giving_up = asyncio.ensure_future(self.run(never))  # in an outage it goes on, for longer than the caller waits
        giving_up.add_done_callback(fetch_error)
        await asyncio.wait([giving_up], timeout=self._longest)
        if not giving_up.done() or giving_up.exception() is not None:
            raise _unknown(call, "it was refused, and its first try, to which no reply came, may still be carried out")
        if giving_up.result().known == "forgotten":
            raise _unknown(call)
        return giving_up.result().known == "done"

    async def _sent(self, call: Call[Any], durability: Replicated | None) -> tuple[Any, bool, Any]:
        """The reply; whether an earlier try may have been done; and how far the save came, if that is waited for."""
        began_at, first, doubtful = monotonic(), None, False
        send, args = (self._send, (call,)) if durability is None else (self._send_and_wait, (call, durability.command))
        if not self.circuit.troubles:
            try:
                answer = await send(*args)
            except FAILURES as error:
                first = error
        if self.circuit.troubles or first is not None:
            answer, doubtful = await self._carefully(first, began_at, call, send, *args)
        if durability is None:
            return answer, doubtful, None
        reply, reached = answer
        if doubtful:
            reached = await self._wait_behind(call, durability.command)
        return reply, doubtful, self.circuit.unless_refused(reached)

    async def _wait_behind(self, call: Call[Any], wait: tuple[Any, ...]) -> Any:
        """The reply to ``wait`` behind all that an earlier try of ``call`` wrote, on a connection that is gone. None:
        not known.

        From Redis 7.2 on WAIT looks at the writes of its own connection only, and repeating what is done writes
        nothing. Giving up what nobody asked for changes nothing either, but it is a write behind that one.
        """
        nobody = self._for_nothing(call.keys)
        try:
            (_, reached), _ = await self._carefully(None, monotonic(), nobody, self._send_and_wait, nobody, wait)
        except RedisUnavailable:
            return None  # it was saved, and how far that came is not known
        return reached

    async def _carefully(
        self, first: Exception | None, began_at: float, call: Call[Any], send: Callable[..., Awaitable[T]], *args: Any
    ) -> tuple[T, bool]:
        """A call whose ``first`` try, which has none of this overhead, failed; or any call while something is in
        trouble. The second result: whether an earlier try may have been carried out.
        """
        where = self.route.where(call.keys.lock)
        trouble = self.circuit.troubles.get(where)
        if first is None and trouble is None:
            try:
                return await send(*args), False  # the trouble is elsewhere
            except FAILURES as error:
                first = error
        if trouble is not None and trouble.is_open:
            await self._wait_for_end(trouble, call, first)
            if first is None:
                began_at = monotonic()  # nothing was sent before
        if first is not None and not worth_repeating(first):
            raise self._given_up(where, first, began_at, call)
        trouble = self.circuit.doubt(where, began_at)
        repetition = Repetition(send, args, first, self._tell_repeated(call))
        left = max(0.0, began_at + self._retry_for - monotonic())
        retrying = self._retrying.copy(stop=stop_after_delay(left))
        ended = await repetition.run(retrying, trouble.opened, left if self._cuts else None)
        met = repetition.last if ended is None else ended.exception()
        if ended is not None and not isinstance(met, FAILURES):
            answer: T = ended.result()
            self.circuit.answered(where)
            return answer, repetition.sent
        if not isinstance(met, FAILURES):
            met = RedisTimeoutError(f"no answer within {self._retry_for:g} s")
        if repetition.cuts >= CUTS_BY_A_LIMIT and await self.circuit.is_there(call.keys):
            met = CutOff(f"{met}, each time that this was sent")
        raise self._given_up(where, met, began_at, call, sent=repetition.sent, lost=repetition.lost)

    def _tell_repeated(self, call: Call[Any]) -> Callable[[int], object]:
        observer = self._observer
        if observer is None:
            return lambda tries: None
        return lambda tries: observer(CallRepeated(call.keys.digest, "", call.script, tries))

    async def _wait_for_end(self, trouble: Trouble, call: Call[Any], first: Exception | None) -> None:
        """In an outage. Giving up a lock or a place takes nobody's time. It must be done however late: a server that
        hung goes on where it was, grants what is in its sockets, and others would wait for the end of those leases.
        """
        if isinstance(call, Abandon) and trouble.parked < MOST_PARKED:
            trouble.park(1)
            await asyncio.wait([trouble.over])
            trouble.park(-1)
        else:
            await trouble.first_look()
        if trouble.is_open:
            raise trouble.refusal() if first is None else _mapped(first, call, sent=not was_unsent(first))

    def _given_up(
        self,
        where: str | None,
        error: Exception,
        began_at: float,
        call: Call[Any],
        *,
        sent: bool = True,
        lost: bool = False,
    ) -> RedisUnavailable:
        if is_outage(error) or isinstance(error, NotNow):
            self.circuit.gave_up(where, error, began_at, call.keys)
        else:
            self.circuit.answered(where)
            if not (NO_SCRIPTS.match(str(error)) and call.needs_no_script):
                self.circuit.complain(error)
        mapped = _mapped(error, call, sent=sent, lost=lost)
        mapped.__cause__ = error
        return mapped

    def _send(self, call: Call[Any]) -> Awaitable[Any]:
        sending = self.route.send(call)
        return sending if not self._closed else self._send_late(sending)

    def _send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> Awaitable[tuple[Any, Any]]:
        sending = self.route.send_and_wait(call, wait)
        return sending if not self._closed else self._send_late(sending)

    async def _send_late(self, sending: Awaitable[T]) -> T:
        """The guard was closed while a request was inside a block: its end opens a connection once more."""
        try:
            return await sending
        finally:
            if self.route.idle:
                self.route.close()

    # --- outages

    async def elsewise(self, key: bytes, do: Callable[[], Awaitable[T]], tried_for: SessionKeys | None = None) -> T:
        """Something about ``key`` that goes to the same server by another way: refused in an outage. Its failure begins
        one where it was tried for long enough, for the session ``tried_for``.

        Raises what ``do`` raises. RedisUnavailable: there is an outage.
        """
        began_at = monotonic()
        where = self.route.where(key)
        trouble = self.circuit.troubles.get(where)
        if trouble is not None and trouble.is_open:
            await trouble.first_look()
            if trouble.is_open:
                raise trouble.refusal()
        try:
            answer = await do()
        except (*FAILURES, asyncio.TimeoutError) as error:
            if tried_for is not None and is_outage(error):
                self.circuit.gave_up(where, error, began_at, tried_for)
            raise
        if self.circuit.troubles:
            self.circuit.answered(where)
        return answer

    async def ready(self, timeout: float) -> None:
        """Ask whether calls can be served now, for so many seconds. In an outage it is known already.

        Where the server was never reached in this process, a failure begins an outage: there is nothing yet that might
        have been interrupted for a moment only.

        Raises:
            RedisUnavailable: they cannot, and why.
        """
        trouble = self.circuit.troubles.get(None)
        if trouble is not None and trouble.is_open:
            await trouble.first_look()
            if trouble.is_open:
                raise trouble.refusal()
        began_at = monotonic()
        try:
            await within(self.route.ask("PING"), timeout)
        except (*FAILURES, asyncio.TimeoutError) as error:
            meaning = meant(error)
            if isinstance(error, (hiredis.ReplyError, ResponseError)) and not is_outage(meaning):
                return  # no permission to ask this: an answer all the same
            if isinstance(error, asyncio.TimeoutError):
                meaning = RedisTimeoutError(f"no answer within {timeout:g} s")
            if not self.route.reached or not worth_repeating(meaning):
                self.circuit.gave_up(None, meaning, began_at, None)
            said = f"Redis at {self.circuit.server} is not ready: {meaning}"
            raise RedisUnavailable(with_advice(said, meaning, connecting=was_unsent(meaning))) from error

    async def _knock(self, keys: SessionKeys | None) -> None:
        """The question is the harmless end of something that never was: whoever can do that can do the rest."""
        await self.route.knock(None if keys is None else self._for_nothing(keys))

    def _for_nothing(self, keys: SessionKeys) -> Abandon:
        return Abandon(keys, *self.numbers.nobody(keys.digest), deaf=True)

    @property
    def waits(self) -> bool:
        return self._durability is not None

    def batch_calls(self, wanted: bool) -> None:
        self.route.batch_calls(wanted)

    @property
    def deaf(self) -> bool:
        """Whether nothing follows from the number of receivers of a push: in a Cluster one node's only are counted."""
        return isinstance(self.route, ClusterRoute)

    def group(self, keys: SessionKeys, token: str) -> object:
        """Leases of one group may be renewed in one call."""
        return self.route.group(keys)

    def look_no_more(self) -> None:
        self.circuit.look_no_more()

    async def aclose(self) -> None:
        self._closed = True
        await self.circuit.aclose()
        await self.route.aclose()


def _told(outcome: T, safety: Replication | None) -> tuple[T, Replication | None]:
    """What was committed also tells by itself how far it came."""
    if isinstance(outcome, Committed):
        outcome.came_so_far(safety)
    return outcome, safety


def _settled(call: Call[T], reply: Any, doubtful: bool) -> T:
    """Raises :class:`OutcomeUnknown`: it was sent before, and the store cannot tell any more whether that was done."""
    outcome: Any = call.outcome(reply)
    if doubtful:
        call.may_come_late()
    if type(outcome) is Refused and outcome.kind == "untold":
        if doubtful:
            raise _unknown(call)
        outcome = Refused("lost")  # this try did nothing, and there was no other
    settled: T = outcome
    return settled


def _unknown(
    call: Call[Any], why: str = "it was sent, no reply came, and Redis has lost what would tell"
) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"whether the {call.script} call took effect is not known: {why}. It is not done again; load the session to see"
    ).about(call.keys.digest)


def _route(client: Any, reply_within: float, on_break: Callable[[], None]) -> Route:
    if isinstance(client, RedisCluster):
        return ClusterRoute(client, reply_within=reply_within, on_break=on_break)
    return ServerRoute(client, reply_within=reply_within, on_break=on_break)


def _mapped(error: Exception, call: Call[Any], *, sent: bool = True, lost: bool = False) -> RedisUnavailable:
    """``sent``: whether any of the tries had a connection. ``lost``: whether one may have been carried out."""
    what = f"the {call.script} call"
    if isinstance(error, NotNow):
        known = not lost and str(error).startswith(FULL)  # then the lock can be given up at once
        doubt = "; whether it took effect is unknown, nothing is saved twice" if lost else ""
        return RedisUnavailable(with_advice(f"Redis cannot serve {what} now: {error}{doubt}", error), refused=known)
    if worth_repeating(error) and not sent:
        said = f"there was no connection to Redis for {what} ({error}); nothing was sent"
        return RedisUnavailable(with_advice(said, error, connecting=True, otherwise=BACK), unsent=True)
    if worth_repeating(error):
        said = (
            f"Redis did not answer {what} ({error}); whether it took effect is unknown."
            " Leases end by themselves, nothing is saved twice"
        )
        return RedisUnavailable(with_advice(said, error if isinstance(error, CutOff) else "", otherwise=BACK))
    kind = ScriptsForbidden if NO_SCRIPTS.match(str(error)) else RedisUnavailable
    return kind(with_advice(f"Redis refused {what}: {error}", error), refused=True)
