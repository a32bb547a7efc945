"""Model 2: the handoff. The lock goes from a releaser to a live waiter, and nobody starts who is not the holder.

The Redis side follows ``_queue.lua``, ``acquire.lua``, ``release.lua`` and ``abandon.lua``, the client side
``lock/acquire.py`` and ``lock/waiting.py``. Processes may die or lose their subscription, or have it at a replica;
the master may fail over to a replica that lacks its last writes; pushes and replies are late or lost; whoever waits may
leave at any point; a lease may end as soon as its holder has ceased to trust it.

Completion records are taken for sound here (that is model 1): a node knows the acquisitions that finished at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explore import Broken, Step

__all__ = ["Handoff", "Rules", "Scenario"]


@dataclass(frozen=True)
class Rules:
    """The protections. Each one that is taken out must be found."""

    asks_who_listens: bool = True  # before anything is sent; else what PUBLISH counts is believed afterwards
    late_push_refused: bool = True  # a grant whose lease may have ended starts nobody
    trust_within_lease: bool = True  # nobody trusts a lease for longer than Redis keeps it
    no_trust_in_release: bool = True
    token_compared: bool = True  # a release compares the lock with its token
    fence_by_clock: bool = True  # a fence is higher than those that a lost state had given
    fence_renewed: bool = True  # who holds the lock of a record that vanished gets a new fence
    fence_compared: bool = True  # a lock that an own late look took anew does not save for its first grant
    finished_takes_nothing: bool = True
    abandon_hands_on: bool = True
    waiters_look: bool = True  # a waiter asks by itself, too, not only when it is told
    look_rejoins: bool = True  # who was dropped is given its place back when it asks
    look_marks_queue: bool = True  # also when its place is still there
    newcomer_queues: bool = True  # the lock may be free while somebody waits for it
    release_hands_on: bool = True
    rider_compares: bool = True  # who was named with a release is behind a lower ticket in the queue
    rider_joins: bool = True  # it is in the queue when another process has got the lock
    rider_finished: bool = True  # who has finished is not granted what it was named for
    rider_abandons: bool = True  # who was named may have been granted: it does not leave without a word
    rider_looks: bool = True  # the next rider asks when the one of its process leaves that was in the queue


@dataclass(frozen=True)
class Scenario:
    """``processes``: of each acquisition, in the order of their tickets. The numbers say how often a fault may come."""

    processes: tuple[int, ...]
    leaves: tuple[int, ...] = ()  # acquisitions that may give up while they wait
    at_replica: bool = False  # subscriptions may be made at a replica
    deaf: bool = False  # it cannot be asked who listens: all are presumed to
    failovers: int = 0
    deaths: int = 0
    breaks: int = 0  # of subscriptions
    evictions: int = 0  # of the session's record
    dropped_at_once: int = 1  # waiters that one script may find gone
    lapses: bool = True  # a lease may end that nobody trusts any more, or of which its holder has not heard
    rides: bool = False  # who is not the first of its process to wait may do so without being in the queue


class Node(NamedTuple):
    """What a Redis server holds."""

    lock: int = -1
    claim: bool = False  # handed over, and not confirmed
    fence: int = 0
    queue: tuple[tuple[int, bool], ...] = ()  # by ticket; False: the mark that there is a queue was lost since it asked
    marked: bool = False  # the session's record says that there may be a queue
    finished: frozenset[int] = frozenset()
    hung: int = -1  # the process whose claim lapsed
    saved: int = 0  # the highest fence whose save was accepted


class Acquisition(NamedTuple):
    phase: str = "idle"  # asking | riding | waiting | body | releasing | released | leaving | over | dead
    fence: int = 0
    trusted: bool = False
    asked: bool = False  # an acquire call is on its way
    known: bool = False  # Redis has heard of it, or may have
    rider: int = -1  # who is named with its release


class Push(NamedTuple):
    token: int
    fence: int
    late: bool = False


class State(NamedTuple):
    node: Node
    replica: Node | None  # what it had when it fell behind
    acquisitions: tuple[Acquisition, ...]
    listens: tuple[str, ...]  # here | replica | nowhere, for each process
    dead: frozenset[int]
    pushes: frozenset[Push]
    top: int  # the highest fence that any server ever gave
    forked: bool  # a failover has lost writes
    left: tuple[int, int, int, int]  # failovers, deaths, breaks, evictions that may still come


class Handoff:
    """A scenario under rules."""

    def __init__(self, scenario: Scenario, rules: Rules | None = None) -> None:
        self.scenario = scenario
        self.rules = rules or Rules()

    # --- the model

    def begin(self) -> State:
        scenario = self.scenario
        left = (scenario.failovers, scenario.deaths, scenario.breaks, scenario.evictions)
        return State(
            Node(),
            None,
            tuple(Acquisition() for _ in scenario.processes),
            ("nowhere",) * (max(scenario.processes) + 1),
            frozenset(),
            frozenset(),
            0,
            False,
            left,
        )

    def settled(self, state: State) -> bool:
        return all(its.phase in ("over", "dead") for its in state.acquisitions)

    def check(self, state: State) -> None:
        trusted = [its for its in state.acquisitions if self._trusts(its)]
        if len(trusted) > 1 and not state.forked:
            raise Broken("two trust their leases at once")
        if any(its.phase == "body" and not its.fence for its in state.acquisitions):
            raise Broken("a body runs with fence 0")

    def _trusts(self, its: Acquisition) -> bool:
        return its.trusted and its.phase in ("body", "releasing", "released")

    def steps(self, state: State) -> Iterator[Step[State]]:
        for label, after, fault in self._all(state):
            yield Step(label, _compact(after), fault)

    def _all(self, state: State) -> Iterator[tuple[str, State, bool]]:
        for token, its in enumerate(state.acquisitions):
            if its.asked:
                yield from self._ask_arrives(state, token, its)
            if self.scenario.processes[token] not in state.dead:
                for label, after, fault in self._client(state, token, its):
                    yield f"{label} ({token})", after, fault
        for push in state.pushes:
            gone = state._replace(pushes=state.pushes - {push})
            yield f"the push to {push.token} arrives", self._push_arrives(gone, push), False
            yield f"the push to {push.token} is lost", gone, True
        for process, where in enumerate(state.listens):
            yield from self._subscription(state, process, where)
        yield from self._server(state)

    # --- the client

    def _with(self, state: State, token: int, its: Acquisition) -> State:
        all_of_them = state.acquisitions
        return state._replace(acquisitions=(*all_of_them[:token], its, *all_of_them[token + 1 :]))

    def _client(self, state: State, token: int, its: Acquisition) -> Iterator[tuple[str, State, bool]]:
        phase = its.phase
        if phase == "idle" and self.scenario.rides and state.listens[self.scenario.processes[token]] != "here":
            return  # who asks for a place in the queue has subscribed before
        if phase == "idle":
            yield "asks", self._with(state, token, its._replace(phase="asking", asked=True, known=True)), False
            if self.scenario.rides and self._may_ride(state, token):
                yield "rides", self._with(state, token, its._replace(phase="riding")), False
        elif phase == "riding":
            if not its.asked and token == min(self._room(state, token)):
                yield "looks", self._with(state, token, its._replace(asked=True, known=True)), False
            if token in self.scenario.leaves:
                yield "leaves", self._leaves_room(state, token, its), True
        elif phase in ("asking", "waiting"):
            if not its.asked and (phase == "asking" or self.rules.waiters_look):
                yield "looks", self._with(state, token, its._replace(asked=True)), False
            if token in self.scenario.leaves:
                yield "leaves", self._leaves_room(state, token, its), True
        elif phase == "body":
            trusted = its.trusted and not self.rules.no_trust_in_release
            rider = min(self._room(state, token, "riding"), default=-1)
            if rider >= 0:
                state = self._with(state, rider, state.acquisitions[rider]._replace(known=True))
            yield (
                "releases",
                self._with(state, token, its._replace(phase="releasing", trusted=trusted, rider=rider)),
                False,
            )
        elif phase == "releasing":
            yield "its release arrives", self._release(state, token, its), False
            if its.rider >= 0:
                yield "its release arrives, unheard", self._release(state, token, its, heard=False), True
        elif phase == "leaving":
            yield "its abandon arrives", self._abandon(state, token, its), False
        elif phase == "released":
            yield "hears of its release", self._over(state, token), False
        if its.trusted and phase in ("body", "releasing", "released"):
            yield "trusts no more", self._with(state, token, its._replace(trusted=False)), False

    def _room(self, state: State, token: int, *phases: str) -> list[int]:
        """Those of its process that wait."""
        process = self.scenario.processes[token]
        return [
            other
            for other, its in enumerate(state.acquisitions)
            if self.scenario.processes[other] == process and its.phase in (phases or ("riding", "waiting", "asking"))
        ]

    def _holds_here(self, state: State, token: int) -> bool:
        return bool(self._room(state, token, "body", "releasing"))

    def _may_ride(self, state: State, token: int) -> bool:
        """Those of its process who wait came before it, and one of them is in the queue, or one has the lock. If
        its release is under way, that named somebody, where not all were in the queue.
        """
        waits = self._room(state, token)
        if self._room(state, token, "body") or (waits and self._holds_here(state, token)):
            return max(waits, default=-1) < token
        return bool(self._room(state, token, "waiting")) and max(waits) < token

    def _leaves_room(self, state: State, token: int, its: Acquisition) -> State:
        if its.phase == "riding" and not (its.known and self.rules.rider_abandons):
            return self._over(state, token)
        state = self._with(state, token, its._replace(phase="leaving"))
        riders = self._room(state, token, "riding")
        if riders and not self._holds_here(state, token) and self.rules.rider_looks:
            first = state.acquisitions[min(riders)]
            state = self._with(state, min(riders), first._replace(asked=True, known=True))
        return state

    def _over(self, state: State, token: int) -> State:
        asked = state.acquisitions[token].asked
        return self._with(state, token, Acquisition(phase="over", asked=asked))

    def _push_arrives(self, state: State, push: Push) -> State:
        its = state.acquisitions[push.token]
        if its.phase not in ("asking", "riding", "waiting") or (push.late and self.rules.late_push_refused):
            return state
        if state.node.lock != push.token and not state.forked:
            raise Broken(f"{push.token} starts by a push, and is not the holder")
        return self._starts(state, push.token, push.fence)

    def _starts(self, state: State, token: int, fence: int) -> State:
        its = state.acquisitions[token]
        return self._with(state, token, its._replace(phase="body", fence=fence, trusted=True))

    def _subscription(self, state: State, process: int, where: str) -> Iterator[tuple[str, State, bool]]:
        def at(place: str) -> State:
            return state._replace(listens=(*state.listens[:process], place, *state.listens[process + 1 :]))

        if process in state.dead:
            if where != "nowhere":
                yield f"the server sees that process {process} is gone", at("nowhere"), False
        elif where == "nowhere":
            yield f"process {process} subscribes", at("here"), False
            if self.scenario.at_replica:
                yield f"process {process} subscribes at a replica", at("replica"), True
        elif state.left[2]:
            after = at("nowhere")
            yield f"process {process} is cut off", after._replace(left=_less(state.left, 2)), True

    # --- Redis

    def _server(self, state: State) -> Iterator[tuple[str, State, bool]]:
        node, left = state.node, state.left
        if node.lock >= 0 and self.scenario.lapses:
            holder = state.acquisitions[node.lock]
            trusted = self._trusts(holder) and self.rules.trust_within_lease
            if not trusted or self.scenario.processes[node.lock] in state.dead:
                yield "the lease ends", self._lapse(state), False
        if state.replica is not None:
            yield "failover", self._failover(state, state.replica), True
        elif left[0]:
            yield "the replica gets no more writes", state._replace(replica=node, left=_less(left, 0)), True
        for process in range(len(state.listens)) if left[1] else ():
            if process not in state.dead:
                yield f"process {process} dies", self._dies(state, process), True
        if left[3]:
            queue = tuple((token, False) for token, _ in node.queue)
            bare = Node(lock=node.lock, queue=queue, saved=node.saved)
            yield "the record is evicted", state._replace(node=bare, left=_less(left, 3)), True

    def _lapse(self, state: State) -> State:
        node = state.node
        # Of late pushes to one waiter a single one is kept: they are alike, and the states stay finite.
        others = frozenset(push for push in state.pushes if push.token != node.lock)
        newest = [push for push in state.pushes if push.token == node.lock and push.fence == node.fence]
        older = [push for push in state.pushes if push.token == node.lock and push.late]
        late = others | frozenset(push._replace(late=True) for push in (newest or older)[:1])
        hung = self.scenario.processes[node.lock] if node.claim and node.lock not in node.finished else -1
        return state._replace(node=node._replace(lock=-1, claim=False, hung=hung), pushes=late)

    def _failover(self, state: State, replica: Node) -> State:
        """Those who listened at the replica do so at the new master; the others have lost their connection."""
        moved = {"here": "nowhere", "replica": "here", "nowhere": "nowhere"}
        return state._replace(
            node=replica,
            replica=None,
            listens=tuple(moved[where] for where in state.listens),
            forked=state.forked or replica != state.node,
        )

    def _dies(self, state: State, process: int) -> State:
        for token, its in enumerate(state.acquisitions):
            if self.scenario.processes[token] == process and its.phase != "over":
                state = self._with(state, token, Acquisition(phase="dead", asked=its.asked))
        return state._replace(dead=state.dead | {process}, left=_less(state.left, 1))

    def _grant(self, state: State, token: int, *, claim: bool) -> State:
        fence = (state.top if self.rules.fence_by_clock else state.node.fence) + 1
        if fence <= state.top:
            raise Broken(f"{token} gets a fence that is not higher than all before")
        if token in state.node.finished:
            raise Broken(f"{token} has finished, and gets the lock")
        self._no_rider_overtaken(state, token)
        node = state.node._replace(lock=token, claim=claim, fence=fence, hung=-1)
        return state._replace(node=node, top=max(state.top, fence))

    def _no_rider_overtaken(self, state: State, token: int) -> None:
        """Where no lease ended by itself: of each process who waits longest is in the queue, or the process holds."""
        if self.scenario.lapses:
            return
        for other, its in enumerate(state.acquisitions[:token]):
            if its.phase == "riding" and not its.asked and not self._holds_here(state, other):
                raise Broken(f"{token} overtakes {other}, who rides")

    def _ask_arrives(self, state: State, token: int, its: Acquisition) -> Iterator[tuple[str, State, bool]]:
        state = self._with(state, token, its._replace(asked=False))
        after, granted = self._acquire(state, token)
        listening = its.phase in ("asking", "riding", "waiting")
        yield (
            f"the ask of {token} arrives, unheard" if listening else f"a late ask of {token} arrives",
            after,
            listening,
        )
        if not listening:
            return
        if granted:
            yield f"the ask of {token} is granted", self._starts(after, token, after.node.fence), False
        else:
            its = after.acquisitions[token]
            yield f"the ask of {token} is queued", self._with(after, token, its._replace(phase="waiting")), False

    def _acquire(self, state: State, token: int) -> tuple[State, bool]:
        node, rules = state.node, self.rules
        if node.lock == token:
            if not node.fence and rules.fence_renewed:
                return self._grant(state, token, claim=False), True
            return state._replace(node=node._replace(claim=False)), True
        if token in node.finished and rules.finished_takes_nothing:
            return state, False
        if node.lock < 0 and not (node.marked and rules.newcomer_queues):
            self._none_overtaken(node, token)
            return self._grant(self._leaves_queue(state, token), token, claim=False), True
        if node.lock < 0 and node.hung >= 0:
            # That process hangs: its other waiters would each cost one more claim. Those who live come back.
            queue = tuple(it for it in node.queue if self.scenario.processes[it[0]] != node.hung)
            state = state._replace(node=node._replace(queue=queue, hung=-1))
        state = self._joins_queue(state, token)
        if node.lock < 0:
            state = self._hand_over(state, asking=token, own=-1)
        if state.node.lock != token and token not in dict(state.node.queue):
            raise Broken(f"{token} was told to wait, and has no place")
        return state, state.node.lock == token

    def _none_overtaken(self, node: Node, token: int) -> None:
        if any(known and waits != token for waits, known in node.queue):
            raise Broken(f"{token} overtakes those who wait")

    def _joins_queue(self, state: State, token: int) -> State:
        node, rules = state.node, self.rules
        places = dict(node.queue)
        again = state.acquisitions[token].phase == "waiting"
        if token not in places and again and not rules.look_rejoins:
            return state
        marked = node.marked or token not in places or rules.look_marks_queue
        places[token] = True
        return state._replace(node=node._replace(queue=tuple(sorted(places.items())), marked=marked))

    def _leaves_queue(self, state: State, token: int) -> State:
        node = state.node
        return state._replace(node=node._replace(queue=tuple(it for it in node.queue if it[0] != token)))

    def _hand_over(self, state: State, *, asking: int, own: int) -> State:
        """The lock is free: the next one that may be alive gets it. ``own``: the process that hears this reply."""
        state = state._replace(node=state.node._replace(lock=-1, claim=False))
        dropped = 0
        while state.node.queue and dropped < self.scenario.dropped_at_once:
            token = state.node.queue[0][0]
            state = self._leaves_queue(state, token)
            process = self.scenario.processes[token]
            where = state.listens[process]
            if token == asking:
                return self._grant(state, token, claim=False)
            counted = where == "here" or process == own or self.scenario.deaf
            if not counted and self.rules.asks_who_listens:
                dropped += 1
                continue
            state = self._grant(state, token, claim=True)
            if where != "nowhere" or process == own:  # what is published at a master is heard at its replicas, too
                state = state._replace(pushes=state.pushes | {Push(token, state.node.fence)})
            if counted:
                return state
            state = state._replace(node=state.node._replace(lock=-1, claim=False))
            dropped += 1
        return state._replace(node=state.node._replace(marked=bool(state.node.queue)))

    def _ends(self, state: State, token: int) -> State:
        """The acquisition finishes at this node, and the lock goes on if it has it."""
        finished = state.node.finished | {token}
        return self._leaves_queue(state._replace(node=state.node._replace(finished=finished)), token)

    def _gives_up_lock(self, state: State, token: int) -> State:
        if state.node.marked and self.rules.release_hands_on:
            return self._hand_over(state, asking=-1, own=self.scenario.processes[token])
        if any(known for _, known in state.node.queue):
            raise Broken(f"{token} leaves the lock free, and passes over those who wait")
        return state._replace(node=state.node._replace(lock=-1, claim=False))

    def _release(self, state: State, token: int, its: Acquisition, *, heard: bool = True) -> State:
        """``heard``: its reply comes, as far as it concerns a rider."""
        node, rules = state.node, self.rules
        holds = node.lock == token or not rules.token_compared
        state = self._ends(state, token)
        named = False
        if holds:
            if node.fence == its.fence or (not rules.fence_compared and node.fence > its.fence):
                if its.fence <= node.saved or node.fence != its.fence:
                    raise Broken(f"{token} saves behind a later grant")
                state = state._replace(node=state.node._replace(saved=its.fence))
            rider = its.rider if its.rider not in node.finished or not rules.rider_finished else -1
            named = rider >= 0
            state = self._hands_on_to(state, token, rider) if named else self._gives_up_lock(state, token)
            if named and state.node.lock == rider and state.acquisitions[rider].phase == "over":
                raise Broken(f"{rider} has left, and keeps the lock")
        if its.rider >= 0:
            state = self._rode(state, its.rider, heard=heard and named)
        if not its.trusted:
            return self._over(state, token)
        return self._with(state, token, state.acquisitions[token]._replace(phase="released"))

    def _hands_on_to(self, state: State, token: int, rider: int) -> State:
        """To the rider, unless somebody in the queue has a lower ticket; then that one, and the rider queues."""
        first = state.node.queue[0][0] if state.node.marked and state.node.queue else -1
        if 0 <= first < rider and self.rules.rider_compares:
            state = self._hand_over(state, asking=-1, own=self.scenario.processes[token])
            if state.node.lock >= 0 and self.scenario.processes[state.node.lock] == self.scenario.processes[token]:
                return state
            if state.node.lock >= 0 or state.node.queue:
                return self._joins_queue(state, rider) if self.rules.rider_joins else state
        if any(known and waits < rider for waits, known in state.node.queue):
            raise Broken(f"{rider} overtakes those who wait")
        state = state._replace(node=state.node._replace(lock=-1, claim=False))
        state = self._grant(self._leaves_queue(state, rider), rider, claim=False)
        return state._replace(pushes=state.pushes | {Push(rider, state.node.fence)})

    def _rode(self, state: State, rider: int, *, heard: bool) -> State:
        """What its process makes of the reply."""
        its = state.acquisitions[rider]
        if its.phase != "riding":
            return state
        if not heard:
            pushes = frozenset(push for push in state.pushes if push.token != rider)
            return self._with(state._replace(pushes=pushes), rider, its._replace(asked=True))
        queued = rider in dict(state.node.queue)
        return self._with(state, rider, its._replace(phase="waiting")) if queued else state

    def _abandon(self, state: State, token: int, its: Acquisition) -> State:
        holds = state.node.lock == token
        state = self._ends(state, token)
        if holds and self.rules.abandon_hands_on:
            state = self._gives_up_lock(state, token)
        if state.node.lock == token:
            raise Broken(f"{token} has left, and keeps the lock")
        return self._over(state, token)


def _less(left: tuple[int, int, int, int], which: int) -> tuple[int, int, int, int]:
    failovers, deaths, breaks, evictions = (count - (place == which) for place, count in enumerate(left))
    return failovers, deaths, breaks, evictions


def _compact(state: State) -> State:
    """The same state in its simplest form: what can change nothing any more is left out, and of fences only the order
    is kept. So the states are finite."""
    nodes = [state.node, *((state.replica,) if state.replica is not None else ())]
    pushes = [push for push in state.pushes if state.acquisitions[push.token].phase in ("asking", "riding", "waiting")]
    seen = {0, state.top}
    for node in nodes:
        seen |= {node.fence, node.saved}
    seen.update(its.fence for its in state.acquisitions)
    seen.update(push.fence for push in pushes)
    rank = {fence: place for place, fence in enumerate(sorted(seen))}
    small = [node._replace(fence=rank[node.fence], saved=rank[node.saved]) for node in nodes]
    return state._replace(
        node=small[0],
        replica=small[1] if len(small) > 1 else None,
        acquisitions=tuple(its._replace(fence=rank[its.fence]) for its in state.acquisitions),
        pushes=frozenset(push._replace(fence=rank[push.fence]) for push in pushes),
        top=rank[state.top],
    )
