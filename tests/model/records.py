"""Model 1: completion records. What is asked for again, however late, changes nothing.

The Redis side follows ``_done.lua`` and the scripts that use it step by step, the client side the executor and the
numbers. Each sending of a call arrives at any later time, or never; a call is sent again while its reply is late; a
caller gives up; a lease ends at any time; what was put away, or the whole record, is lost at any time, where the
scenario says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explore import Broken, Step

__all__ = ["Asked", "Rules", "Scenario", "Task", "Traffic"]


@dataclass(frozen=True)
class Rules:
    """The protections. Each one that is taken out must be found."""

    records: bool = True  # what has finished is remembered at all
    low: bool = True  # numbers below low have finished
    low_covers_open: bool = True  # low is the smallest number that is outstanding, not the call's own
    by_count: int = 0  # keep only so many finished numbers of a client, whatever is outstanding
    prunes: bool = True  # what was answered leaves the list
    drops: bool = True  # there are no more records than promised
    keep_others: bool = True  # another client's record is put away, not overwritten
    floor: bool = True  # dropping records raises the floor
    born: bool = True  # a record that is made anew remembers the floor
    away: bool = True  # records put away that are gone count as dropped
    floor_before_lost: bool = True  # what may have been here is never answered `lost`
    conflict_finishes: bool = True  # a refused call is never carried out later
    refusal_raises: bool = True  # a refused release is not carried out when its successor is on the way
    lost_finishes: bool = True  # a release answered `lost` ends its acquisition
    abandon_finishes: bool = True
    fence_equal: bool = True  # a lower fence than the holder's refuses it, too: the record was lost
    token_compared: bool = True  # release and save compare the lock with the token
    told_apart: bool = True  # what was sent once is known not to have been carried out when it is refused by the floor
    young: bool = True  # where nothing is known, an old number is refused


class Asked(NamedTuple):
    """One call of a program. ``base`` and ``value``: what it expects to find, and what it writes."""

    kind: str  # acquire | save | end | commit | incr
    base: int = 0
    value: int = 0


Task = tuple[Asked, ...]


@dataclass(frozen=True)
class Scenario:
    """Which calls are made. A task makes its calls one after the other; tasks of one client share its numbers."""

    clients: tuple[tuple[Task, ...], ...]
    begins: tuple[int, ...] = (0, 0)  # each client's first number, less one
    most_sendings: int = 2
    most_away: int = 1  # records put away before the lower half is dropped
    lapses: bool = False  # leases may end
    loses_away: bool = False  # the records that were put away may be gone, alone
    loses_all: bool = False  # the session's record and all that is known may be gone


class Reply(NamedTuple):
    word: str
    value: int = 0
    fence: int = 0


class Record(NamedTuple):
    issuer: int
    low: int
    listed: tuple[tuple[int, str], ...]  # finished from low on, and what it came to
    born: int


class Server(NamedTuple):
    lock: int = -1  # the number of the acquire call that holds it
    fence: int = 0
    value: int = 0
    refused: tuple[int, int] = (-1, 0)  # the holder whose release was refused, and the fence that it was given then
    done: Record | None = None
    away: tuple[Record, ...] = ()
    floor: int = 0
    most_away: int = 0  # the highest number that was ever put away
    clock: int = 0  # follows the true time; numbers and fences are no smaller than it
    applied: tuple[tuple[int, int], ...] = ()  # (call, attempt) that took effect, in order: a ghost


class Call(NamedTuple):
    number: int = 0
    low: int = 0
    sent: int = 0
    attempt: int = 0
    base: int = 0
    fence: int = 0  # of an acquire: what was granted
    renumbered: bool = False
    reply: Reply | None = None
    outcome: str = ""


class Sending(NamedTuple):
    call: int
    number: int
    low: int
    attempt: int
    base: int
    fence: int
    nth: int


class State(NamedTuple):
    server: Server
    calls: tuple[Call, ...]
    last: tuple[int, ...]  # per issuer: the highest number it used
    flying: frozenset[Sending]
    ever: frozenset[tuple[int, int]]  # what took effect, also where the server has lost it since


LATER = 100  # a time after all numbers of the beginning
LEAVES = 2  # the attempt of an `end` that only gives the lock up
APPLIED = ("done",)
NOT_APPLIED = ("lost", "conflict", "busy", "finished", "left")


class Traffic:
    """A scenario under rules."""

    def __init__(self, scenario: Scenario, rules: Rules | None = None) -> None:
        self.scenario = scenario
        self.rules = rules or Rules()
        self.asked: list[Asked] = []
        self.owner: list[int] = []  # client of each call
        self.before: list[int] = []  # the call of the same task before it, or -1
        self.under: list[int] = []  # the acquire call under whose lock it is made, or -1
        for client, tasks in enumerate(scenario.clients):
            for task in tasks:
                self._add_task(client, task)
        self.end_of = {self.under[call]: call for call, asked in enumerate(self.asked) if asked.kind == "end"}

    def _add_task(self, client: int, task: Task) -> None:
        before = acquire = -1
        for asked in task:
            call = len(self.asked)
            self.asked.append(asked)
            self.owner.append(client)
            self.before.append(before)
            self.under.append(acquire)
            acquire = call if asked.kind == "acquire" else -1 if asked.kind == "end" else acquire
            before = call

    # --- the model

    def begin(self) -> State:
        calls = tuple(Call(base=asked.base) for asked in self.asked)
        last = tuple(begin for begin in self.scenario.begins for _ in range(2))
        return State(Server(), calls, last, frozenset(), frozenset())

    def settled(self, state: State) -> bool:
        return all(call.outcome for call in state.calls)

    def check(self, state: State) -> None:
        server = state.server
        if len(set(server.applied)) < len(server.applied):
            raise Broken("a call took effect twice")
        for number, call in enumerate(state.calls):
            if call.outcome in APPLIED and (number, call.attempt) not in state.ever:
                raise Broken(f"call {number} was told `{call.outcome}`, and did not take effect")
            if call.outcome in NOT_APPLIED and any(it[0] == number for it in server.applied):
                raise Broken(f"call {number} was told `{call.outcome}`, and took effect")
        if len(server.away) > self.scenario.most_away:
            raise Broken("more records are kept than promised")
        for record in (*server.away, *((server.done,) if server.done else ())):
            if any(number < record.low for number, _ in record.listed):
                raise Broken("an answered call is kept")

    def steps(self, state: State) -> Iterator[Step[State]]:
        for number, call in enumerate(state.calls):
            yield from self._client(state, number, call)
        for sending in state.flying:
            yield Step(f"arrives: {self._name(sending.call)} #{sending.nth}", self._arrives(state, sending))
        server = state.server
        if self.scenario.lapses and server.lock >= 0:
            yield Step("the lease ends", state._replace(server=server._replace(lock=-1)), fault=True)
        if self.scenario.loses_away and server.away:
            yield Step("what was put away is evicted", state._replace(server=server._replace(away=())), fault=True)
        if self.scenario.loses_all and not server.clock:
            empty = Server(lock=server.lock, clock=LATER, floor=LATER if self.rules.young else 0)
            yield Step("the record is lost", state._replace(server=empty), fault=True)

    def _name(self, call: int) -> str:
        return f"{'AB'[self.owner[call]]}.{self.asked[call].kind}({call})"

    # --- the client

    def _issuer(self, call: int) -> int:
        """Acquisitions, and what ends them, are numbered apart from operations."""
        return 2 * self.owner[call] + (self.asked[call].kind not in ("acquire", "end"))

    def _outstanding(self, state: State, issuer: int) -> list[int]:
        """The numbers of this issuer that have not been answered."""
        open_numbers = []
        for number, call in enumerate(state.calls):
            if self._issuer(number) == issuer and call.number and self.asked[number].kind != "end":
                last = state.calls[self.end_of[number]] if self.asked[number].kind == "acquire" else call
                if not last.outcome:
                    open_numbers.append(call.number)
        return open_numbers

    def _client(self, state: State, number: int, call: Call) -> Iterator[Step[State]]:
        name = self._name(number)
        if call.outcome or (self.before[number] >= 0 and not state.calls[self.before[number]].outcome):
            return
        if not call.number:
            if self.asked[number].kind == "save" and state.calls[self.under[number]].outcome != "granted":
                yield Step(f"{name} is not made", self._with(state, number, call._replace(outcome="not made")))
            else:
                yield Step(f"{name} is sent", self._numbered(state, number, call))
            return
        if call.reply is not None:
            yield Step(f"{name} hears {call.reply[0]}", self._hears(state, number, call))
        if call.sent < self.scenario.most_sendings:
            yield Step(f"{name} is sent again", self._sent(state, number, call._replace(reply=None)))
        else:
            given_up = call._replace(outcome="unknown", reply=None)
            yield Step(f"{name} gives up", self._with(state, number, given_up))

    def _with(self, state: State, number: int, call: Call) -> State:
        return state._replace(calls=(*state.calls[:number], call, *state.calls[number + 1 :]))

    def _numbered(self, state: State, number: int, call: Call) -> State:
        """A new number for the call, and its first sending."""
        issuer = self._issuer(number)
        if self.asked[number].kind == "end":
            its = state.calls[self.under[number]].number
        else:
            its = max(state.last[issuer], state.server.clock) + 1
            state = state._replace(last=(*state.last[:issuer], its, *state.last[issuer + 1 :]))
        state = self._with(state, number, call._replace(number=its, sent=0, reply=None))
        low = min(self._outstanding(state, issuer), default=its) if self.rules.low_covers_open else its
        return self._sent(state, number, state.calls[number]._replace(low=low))

    def _sent(self, state: State, number: int, call: Call) -> State:
        call = call._replace(sent=call.sent + 1)
        under = self.under[number]
        fence = state.calls[under].fence if under >= 0 and call.attempt < LEAVES else 0
        sending = Sending(number, call.number, call.low, call.attempt, call.base, fence, call.sent)
        return self._with(state._replace(flying=state.flying | {sending}), number, call)

    def _hears(self, state: State, number: int, call: Call) -> State:
        assert call.reply is not None
        word, value, fence = call.reply
        call = call._replace(reply=None)
        kind = self.asked[number].kind
        if word == "stale":
            issuer = self._issuer(number)
            if self.rules.told_apart and (call.sent > 1 or kind == "end"):
                return self._with(state, number, call._replace(outcome="unknown"))
            last = max(state.last[issuer], value)
            state = state._replace(last=(*state.last[:issuer], last, *state.last[issuer + 1 :]))
            if call.renumbered:  # once is enough
                return self._with(state, number, call._replace(outcome="unknown"))
            return self._numbered(state, number, call._replace(renumbered=True, number=0))
        if word == "conflict" and kind == "end":
            # What changed is merged, once; refused again, the caller is told, and the lock is given up.
            under = self.under[number]
            state = self._with(state, under, state.calls[under]._replace(fence=fence))
            return self._sent(state, number, call._replace(attempt=call.attempt + 1, base=value, sent=0))
        return self._with(state, number, call._replace(outcome=word, fence=fence))

    # --- Redis

    def _arrives(self, state: State, sending: Sending) -> State:
        """A script runs; its reply waits for the client, if that still listens for it."""
        number, call = sending.call, state.calls[sending.call]
        before = state.server
        server, reply = self._run(before, sending)
        self._changes_nothing_late(state, sending, server)
        effects = frozenset(server.applied) | state.ever
        state = state._replace(server=server, flying=state.flying - {sending}, ever=effects)
        if call.outcome or (sending.nth, sending.attempt, sending.number) != (call.sent, call.attempt, call.number):
            return state
        return self._with(state, number, call._replace(reply=reply))

    def _changes_nothing_late(self, state: State, sending: Sending, after: Server) -> None:
        """What was answered changes nothing any more; nor does an acquire whose acquisition has come to its end."""
        number = self.end_of[sending.call] if self.asked[sending.call].kind == "acquire" else sending.call
        call, before = state.calls[number], state.server
        answered = call.outcome not in ("", "unknown", "not made")
        kept = (before.lock, before.fence, before.value) == (after.lock, after.fence, after.value)
        if answered and not kept:
            raise Broken(f"late: {self._name(sending.call)} #{sending.nth} changes something after its answer")

    def _known(self, server: Server, issuer: int) -> Record | None:
        if server.done and server.done.issuer == issuer:
            return server.done
        return next((record for record in server.away if record.issuer == issuer), None)

    def _floor(self, server: Server) -> int:
        forgotten = server.most_away if self.rules.away and not server.away else 0
        return max(server.floor, forgotten)

    def _repeated(self, server: Server, issuer: int, sending: Sending) -> Reply | None:
        """Why a call must not be carried out: it has finished (what it came to), or it may have."""
        rules, number = self.rules, sending.number
        record = self._known(server, issuer)
        if not rules.records:
            return None
        if record is None:
            floor = self._floor(server)
            return Reply("stale", floor) if number <= floor else None
        if rules.low and number < record.low:
            return Reply("done")  # whoever asked does not listen any more
        for listed, came_to in record.listed:
            if listed == number:
                return Reply(came_to)
        return Reply("stale", record.born) if number <= record.born else None

    def _finish(self, server: Server, issuer: int, sending: Sending, came_to: str) -> Server:
        rules = self.rules
        record = self._known(server, issuer)
        if server.done and server.done.issuer != issuer and rules.keep_others:
            server = self._put_away(server, server.done)
            record = self._known(server, issuer)
        if record is None:
            record = Record(issuer, 0, (), self._floor(server) if rules.born else 0)
        low = max(record.low, min(sending.low, sending.number))
        listed = dict(record.listed) | {sending.number: came_to}
        kept = tuple(sorted(it for it in listed.items() if it[0] >= low or not rules.prunes))
        if rules.by_count:
            kept = kept[-rules.by_count :]
        away = tuple(it for it in server.away if it.issuer != issuer)
        return server._replace(done=Record(issuer, low, kept, record.born), away=away)

    def _put_away(self, server: Server, record: Record) -> Server:
        def highest(record: Record) -> int:
            return max((number for number, _ in record.listed), default=record.low)

        away = [*(it for it in server.away if it.issuer != record.issuer), record]
        floor = server.floor
        if len(away) > self.scenario.most_away and self.rules.drops:
            away.sort(key=highest)
            kept = (self.scenario.most_away + 1) // 2
            dropped = len(away) - kept
            if self.rules.floor:
                floor = max(floor, *(highest(it) for it in away[:dropped]))
            away = away[dropped:]
        most = max(server.most_away, highest(record))
        return server._replace(away=tuple(sorted(away)), floor=floor, most_away=most)

    def _run(self, server: Server, sending: Sending) -> tuple[Server, Reply]:
        asked, issuer = self.asked[sending.call], self._issuer(sending.call)
        run = {"acquire": self._acquire, "end": self._end, "save": self._save}.get(asked.kind, self._change)
        return run(server, sending, issuer)

    def _took_effect(self, server: Server, sending: Sending, value: int) -> Server:
        return server._replace(value=value, applied=(*server.applied, (sending.call, sending.attempt)))

    def _acquire(self, server: Server, sending: Sending, issuer: int) -> tuple[Server, Reply]:
        if server.lock == sending.call:
            return server, Reply("granted", fence=server.fence)
        repeated = self._repeated(server, issuer, sending)
        if repeated is not None:
            return server, repeated if repeated.word == "stale" else Reply("finished")
        if server.lock >= 0:
            return server, Reply("busy")
        fence = self._next_fence(server)
        return server._replace(lock=sending.call, fence=fence), Reply("granted", fence=fence)

    def _not_holder(self, server: Server, sending: Sending, issuer: int) -> Reply:
        repeated = self._repeated(server, issuer, sending)
        if repeated is not None and repeated.word != "stale":
            return repeated
        untold = repeated is not None or server.fence < sending.fence
        return Reply("unknown" if untold and self.rules.floor_before_lost else "lost")

    def _end(self, server: Server, sending: Sending, issuer: int) -> tuple[Server, Reply]:
        """A release that changes a value; or, of what was never granted, an abandon."""
        rules, acquire = self.rules, self.under[sending.call]
        holds = server.lock == acquire or not rules.token_compared
        if not sending.fence:
            if rules.abandon_finishes:
                server = self._finish(server, issuer, sending, "left")
            return (server._replace(lock=-1) if holds else server), Reply("left")
        if not holds:
            reply = self._not_holder(server, sending, issuer)
            if reply.word == "lost" and rules.lost_finishes:
                server = self._finish(server, issuer, sending, "lost")
            return server, reply
        if server.fence > sending.fence:
            if server.refused == (acquire, server.fence):
                return server, Reply("conflict", server.value, server.fence)
            # An acquire of this very token came late and took the lock anew: it is nobody's.
            return self._finish(server, issuer, sending, "lost")._replace(lock=-1), Reply("lost")
        if server.fence < sending.fence and rules.fence_equal:
            return self._finish(server, issuer, sending, "unknown")._replace(lock=-1), Reply("unknown")
        if server.value != sending.base:
            if rules.refusal_raises:
                fence = self._next_fence(server)
                server = server._replace(fence=fence, refused=(acquire, fence))
            return server, Reply("conflict", server.value, server.fence)
        server = self._finish(server, issuer, sending, "done")
        return self._took_effect(server, sending, self.asked[sending.call].value)._replace(lock=-1), Reply("done")

    def _save(self, server: Server, sending: Sending, issuer: int) -> tuple[Server, Reply]:
        holds = server.lock == self.under[sending.call] or not self.rules.token_compared
        lower = server.fence < sending.fence and self.rules.fence_equal
        if not holds or lower or server.fence > sending.fence:
            return server, self._not_holder(server, sending, issuer)
        return self._change(server, sending, issuer)

    def _change(self, server: Server, sending: Sending, issuer: int) -> tuple[Server, Reply]:
        """A save, a commit or an increment."""
        repeated = self._repeated(server, issuer, sending)
        if repeated is not None:
            return server, repeated
        asked = self.asked[sending.call]
        if asked.kind != "incr" and server.value != sending.base:
            if self.rules.conflict_finishes:
                server = self._finish(server, issuer, sending, "conflict")
            return server, Reply("conflict", server.value)
        server = self._finish(server, issuer, sending, "done")
        value = server.value + 1 if asked.kind == "incr" else asked.value
        return self._took_effect(server, sending, value), Reply("done")

    def _next_fence(self, server: Server) -> int:
        return max(server.fence, server.clock) + 1
