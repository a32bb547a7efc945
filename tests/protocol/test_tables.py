"""Every race of the protocol as a row of a table: raw script calls, in order, and what each must answer.

A row's step is "who verb options" and what it answers, in words. A capital letter is an acquisition of a process that
listens to pushes, a small one of a process that is dead; ``#1`` is the first fencing token that the row sees, ``#2``
the next higher one that it sees and so on. ``holds A`` and ``queue A B`` say what Redis has after the step before.
``G A #2 +`` in ``pushes`` is a grant with the session in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis import Redis
from tenacity import (
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
)

from sessionlock import CodecError, LeasePolicy, SessionPolicy
from sessionlock.policies import seconds_until_stop
from sessionlock.protocol import replies as protocol
from sessionlock.protocol.calls import Abandon, Acquire, Call, Release, Renew, rider
from sessionlock.protocol.changes import Change, fingerprint
from sessionlock.protocol.inspected import inspected
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.record_calls import Commit, Create, Destroy, ForceRelease, Increment, Inspect, Load, Save
from sessionlock.protocol.replies import Handover, Snapshot
from tests.harness import stable_name
from tests.harness.commands import (
    connect,
    fence_of,
    low_of,
    numbered,
    op_of,
    outcome_of,
    run,
    set_fence,
    token_of,
    who_is,
)

KEYS = keys_for("sl", "s")
SESSION = SessionPolicy(idle=3600, absolute=7200)
LEASE = LeasePolicy(ttl=30, claim=3)

Row = list[tuple[str, str]]

TABLE: dict[str, Row] = {
    # --- one acquisition and its repetitions (replies that were lost)
    "acquire, again": [("A acquire", "granted #1"), ("A acquire", "granted #1"), ("holds", "A")],
    "acquire, again while queued": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("queue", "B C"),
    ],
    "release, again": [
        ("A acquire", "granted #1"),
        ("A release n=1", "saved 1"),
        ("A release n=1", "already 1"),
        ("data", "n=1"),
        ("holds", "nobody"),
    ],
    "release without changes, again": [
        ("A acquire", "granted #1"),
        ("A release", "clean"),
        ("A release", "already 0"),
        ("B acquire", "granted #2"),
        ("A release", "already 0"),
        ("holds", "B"),
    ],
    "save, again": [
        ("A acquire", "granted #1"),
        ("A save n=1 op=1", "saved 1"),
        ("A save n=1 op=1", "already 1"),
        ("A save n=2 op=2", "saved 2"),
        ("A release", "clean"),
        ("data", "n=2"),
    ],
    "renew, again": [("A acquire", "granted #1"), ("A renew", "1"), ("A renew", "1"), ("holds", "A")],
    "abandon, again": [
        ("A acquire", "granted #1"),
        ("A abandon", "handed-on"),
        ("A abandon", "left"),
        ("A acquire", "already"),
        ("holds", "nobody"),
    ],
    "a late acquire of what was released": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("B release n=2", "saved 2"),
        ("B acquire", "already"),
        ("holds", "nobody"),
    ],
    "create, again": [
        ("A create n=1", "saved 1 n=1"),
        ("A create n=1", "saved 1 n=1"),
        ("B create n=2", "exists"),
        ("data", "n=1"),
    ],
    "commit, again": [
        ("A create n=1", "saved 1 n=1"),
        ("B load", "found n=1"),
        ("B commit n=2", "saved 2"),
        ("B commit n=2", "already 2"),
        ("data", "n=2"),
    ],
    "incr, again": [
        ("A create n=1", "saved 1 n=1"),
        ("B incr n=5", "saved 2 is 6"),
        ("B incr n=5", "already 2 is 6"),
        ("data", "n=6"),
    ],
    "destroy, again": [
        ("A create n=1", "saved 1 n=1"),
        ("destroy", "destroyed"),
        ("destroy", "destroyed"),
        ("A load", "destroyed"),
    ],
    "force-release, again": [
        ("A acquire", "granted #1"),
        ("A force", "released"),
        ("A force", "over"),
        ("B acquire", "granted #2"),
        ("A force", "over"),
        ("holds", "B"),
    ],
    # --- calls of an older acquisition that arrive late
    "late release": [
        ("A acquire", "granted #1"),
        ("lapse", "ok"),
        ("B acquire", "granted #2"),
        ("A release n=1", "lost #2"),
        ("data", ""),
        ("holds", "B"),
    ],
    "late release, nobody since": [
        ("A acquire", "granted #1"),
        ("lapse", "ok"),
        ("A release n=1", "lost #1"),
        ("data", ""),
        ("holds", "nobody"),
    ],
    "late save": [
        ("A acquire", "granted #1"),
        ("lapse", "ok"),
        ("B acquire", "granted #2"),
        ("A save n=1", "lost #2"),
        ("B release n=2", "saved 1"),
        ("A save n=1", "lost #2"),
        ("data", "n=2"),
    ],
    "late save of an earlier save": [
        ("A acquire", "granted #1"),
        ("A save n=1 op=1", "saved 1"),
        ("A release n=2", "saved 2"),
        ("A save n=1 op=1", "already 2"),
        ("B acquire", "granted #2"),
        ("A save n=1 op=1", "already 2"),
        ("data", "n=2"),
    ],
    "late renew": [
        ("A acquire", "granted #1"),
        ("lapse", "ok"),
        ("A renew", "0"),
        ("holds", "nobody"),
        ("B acquire", "granted #2"),
        ("A renew", "0"),
        ("holds", "B"),
    ],
    "late acquire after release": [
        ("A acquire", "granted #1"),
        ("A release", "clean"),
        ("A acquire", "already"),
        ("B acquire", "granted #2"),
        ("A acquire", "already"),
        ("B release", "clean"),
        ("C acquire", "granted #3"),
        ("C release", "clean"),
        ("A acquire", "already"),
        ("B acquire", "already"),
        ("holds", "nobody"),
        ("queue", ""),
    ],
    "late acquire after commits and increments": [
        ("A acquire", "granted #1"),
        ("A release n=1", "saved 1"),
        ("B incr n=1", "saved 2 is 2"),
        ("B load", "found n=2"),
        ("C load", "found n=2"),
        ("C commit n=3", "saved 3"),
        ("A acquire", "already"),
        ("A release n=1", "already 3"),
        ("B incr n=1", "already 3 is 2"),
        ("data", "n=3"),
    ],
    "late abandon": [
        ("A acquire", "granted #1"),
        ("A release", "clean"),
        ("B acquire", "granted #2"),
        ("A abandon", "left"),
        ("holds", "B"),
    ],
    "a fence that is too low for its token": [
        ("A acquire", "granted #1"),
        ("fence raised", "ok"),
        ("A release n=1", "lost #2"),
        ("A save n=1", "lost #2"),
        ("A incr n=1", "lost #2"),
        ("data", ""),
    ],
    # --- waiters
    "abandon before the grant": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("B abandon", "left"),
        ("queue", "C"),
        ("B acquire", "already"),
        ("A release", "clean"),
        ("holds", "C"),
    ],
    "abandon after the grant": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("A release", "clean"),
        ("pushes", "G B #2 +"),
        ("B abandon", "handed-on"),
        ("pushes", "G C #3 -"),
        ("holds", "C"),
        ("B release", "already 0"),
        ("B acquire", "already"),
    ],
    "abandon before the acquire arrives": [("A abandon", "left"), ("A acquire", "already"), ("holds", "nobody")],
    "hand over to a live waiter": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("A release n=1", "saved 1"),
        ("pushes", "G B #2 + n=1"),
        ("holds", "B"),
        ("left", "a claim"),
        ("B renew", "1"),
        ("left", "a lease"),
        ("B release n=2", "saved 2"),
        ("holds", "nobody"),
    ],
    "hand over, confirmed by asking": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("A release n=1", "saved 1"),
        ("B acquire", "granted #2"),
        ("left", "a lease"),
        ("queue", ""),
    ],
    "hand over within a process": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("A release n=1 own", "saved 1 and G B #2 + n=1"),
        ("pushes", ""),
        ("holds", "B"),
        ("left", "a claim"),
    ],
    "hand over to dead waiters": [
        ("A acquire", "granted #1"),
        ("b acquire", "queued 0 behind A"),
        ("c acquire", "queued 1 behind A"),
        ("D acquire", "queued 2 behind A"),
        ("A release n=1", "saved 1"),
        ("pushes", "G D #2 + n=1"),
        ("holds", "D"),
        ("queue", ""),
    ],
    "hand over to dead waiters only": [
        ("A acquire", "granted #1"),
        ("b acquire", "queued 0 behind A"),
        ("c acquire", "queued 1 behind A"),
        ("A release n=1", "saved 1"),
        ("holds", "nobody"),
        ("queue", ""),
        ("b acquire ticket", "granted #2"),
    ],
    "hand over where a publish count proves nothing": [
        ("A acquire", "granted #1"),
        ("b acquire", "queued 0 behind A"),
        ("A release deaf", "clean"),
        ("holds", "b"),
    ],
    "hand over to a waiter that was not heard of": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("B silent", "ok"),
        ("A release", "clean"),
        ("pushes", "G C #2 +"),
        ("holds", "C"),
    ],
    "hand over to an empty queue": [("A acquire", "granted #1"), ("A release", "clean"), ("holds", "nobody")],
    "hand over of a large session": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("A release n=1 small", "saved 1"),
        ("pushes", "G B #2 -"),
        ("B acquire", "granted #2"),
    ],
    "a waiter that was passed by gets its place back": [
        ("A acquire", "granted #1"),
        ("b acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("D acquire", "queued 2 behind A"),
        ("A release", "clean"),
        ("holds", "C"),
        ("b acquire ticket", "queued 0 behind C"),
        ("queue", "b D"),
    ],
    "a hung process' waiters leave with it": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("d acquire", "queued 2 behind A"),
        ("A release", "clean"),
        ("holds", "B"),
        ("lapse", "ok"),
        ("e acquire", "granted #2"),
        ("queue", ""),
        ("C acquire ticket", "queued 0 behind e"),
        ("B acquire ticket", "queued 0 behind e"),
        ("queue", "B C"),
    ],
    "a confirmed holder that dies does not take its process' waiters along": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("A release", "clean"),
        ("B renew", "1"),
        ("lapse", "ok"),
        ("D acquire", "queued 0 behind C"),
        ("holds", "C"),
        ("queue", "D"),
    ],
    "who finds the lock free lets the first in": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("lapse", "ok"),
        ("D acquire", "queued 1 behind B"),
        ("pushes", "G B #2 -"),
        ("queue", "C D"),
    ],
    "who finds the lock free and does not wait lets the first in": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("lapse", "ok"),
        ("D acquire wait=0", "busy behind B"),
        ("pushes", "G B #2 -"),
        ("queue", ""),
    ],
    "the first finds the lock free itself": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("lapse", "ok"),
        ("B acquire", "granted #2"),
        ("pushes", ""),
        ("left", "a lease"),
        ("queue", "C"),
    ],
    "a full queue": [
        ("A acquire", "granted #1"),
        ("B acquire most=1", "queued 0 behind A"),
        ("C acquire most=1", "full behind A"),
        ("B acquire most=1", "queued 0 behind A"),
        ("B silent", "ok"),
        ("C acquire most=1", "queued 0 behind A"),
        ("queue", "C"),
    ],
    "busy, and nothing is left behind": [
        ("A acquire", "granted #1"),
        ("B acquire wait=0", "busy behind A"),
        ("queue", ""),
        ("A release", "clean"),
        ("B acquire wait=0", "granted #2"),
    ],
    # --- somebody else's change
    "a conflict keeps the lock": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("foreign write n=2", "ok"),
        ("B release n=3 m=4", "conflict n=2"),
        ("data", "n=2"),
        ("holds", "B"),
        ("B save n=3", "conflict n=2"),
        ("B release n=3 over", "saved 2"),
        ("data", "n=3"),
        ("holds", "nobody"),
    ],
    "a conflict with a deletion": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("foreign delete n", "ok"),
        ("B release n=3", "conflict n=nothing"),
        ("holds", "B"),
    ],
    "a conflict with a new key": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("foreign write m=2", "ok"),
        ("B release m=3", "conflict m=2"),
        ("B release n=3", "saved 2"),
        ("data", "m=2 n=3"),
    ],
    "a commit meets a holder's save": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("C load", "found n=1"),
        ("B release n=2", "saved 2"),
        ("C commit n=3", "conflict n=2"),
        ("data", "n=2"),
    ],
    "a holder's save meets a commit": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("C load", "found n=1"),
        ("C commit n=3", "saved 2"),
        ("B release n=2", "conflict n=3"),
        ("holds", "B"),
        ("data", "n=3"),
    ],
    "an increment of what is no integer": [
        ("A create n=x", "saved 1 n=x"),
        ("A incr n=1", "conflict n=x"),
        ("data", "n=x"),
    ],
    # --- the record goes
    "the record is gone": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("evicted", "ok"),
        ("B save m=2", "gone"),
        ("holds", "B"),
        ("B release m=2", "gone"),
        ("B release m=2", "lost #1"),
        ("holds", "nobody"),
        ("data", ""),
    ],
    "the record is gone and came again": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("C load", "found n=1"),
        ("evicted", "ok"),
        ("D create n=5", "saved 1 n=5"),
        ("B release m=2", "gone"),
        ("B release m=2", "lost 0"),
        ("C commit m=2", "gone"),
        ("data", "n=5"),
    ],
    "the record is gone and nothing was changed": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("evicted", "ok"),
        ("B release", "clean"),
        ("A load", "missing"),
    ],
    "all is gone": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("flush", "ok"),
        ("B renew", "0"),
        ("B release n=2", "untold"),
        ("C acquire", "granted #2"),
        ("data", ""),
    ],
    "missing": [("A load", "missing"), ("A acquire existing", "missing"), ("A incr n=1", "missing"), ("data", "")],
    # --- destroyed
    "destroyed under the lock": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("C acquire", "queued 0 behind B"),
        ("d acquire", "queued 1 behind B"),
        ("destroy", "destroyed"),
        ("pushes", "D C"),
        ("queue", ""),
        ("holds", "B"),
        ("B renew", "-1"),
        ("B save n=2", "destroyed"),
        ("B incr n=1", "destroyed"),
        ("B release n=2", "destroyed"),
        ("B release n=2", "destroyed"),
        ("holds", "nobody"),
        ("C acquire", "destroyed"),
        ("A create n=1", "exists"),
        ("data", ""),
    ],
    "destroyed before anything was stored": [
        ("B acquire", "granted #1"),
        ("destroy", "missing"),
        ("B release n=2", "destroyed"),
        ("A load", "destroyed"),
        ("data", ""),
    ],
    "destroyed after the lease was lost": [
        ("A create n=1", "saved 1 n=1"),
        ("B acquire", "granted #1"),
        ("lapse", "ok"),
        ("destroy", "destroyed"),
        ("B release n=2", "destroyed"),
        ("data", ""),
    ],
    "a commit after destroying": [
        ("A create n=1", "saved 1 n=1"),
        ("B load", "found n=1"),
        ("destroy", "destroyed"),
        ("B commit n=2", "destroyed"),
        ("B incr n=2", "destroyed"),
        ("data", ""),
    ],
    # --- create
    "create never overwrites": [
        ("A create n=1", "saved 1 n=1"),
        ("B create m=2", "exists"),
        ("B acquire", "granted #1"),
        ("C create m=2", "exists"),
        ("data", "n=1"),
    ],
    "create while a holder works on a new session": [
        ("A acquire", "granted #1"),
        ("B create n=1", "saved 1 n=1"),
        ("A release n=2", "conflict n=1"),
        ("A release m=2", "saved 2"),
        ("data", "m=2 n=1"),
    ],
    # --- riders: waiters of the releaser's process that are not in the queue
    "a rider, when nobody else waits": [
        ("A acquire", "granted #1"),
        ("A release n=1 rider=B", "saved 1 and G B #2 -"),
        ("holds", "B"),
        ("left", "a lease"),
        ("queue", ""),
        ("inspect", "B holds and 3 ride, fence #2, version 1"),
        ("B release rider=C", "clean"),
        ("holds", "C"),
        ("pushes", ""),
    ],
    "a rider that was here first": [
        ("A acquire", "granted #1"),
        ("C acquire", "queued 0 behind A"),
        ("A release n=1 own rider=B:1", "saved 1 and G B #2 + n=1"),
        ("holds", "B"),
        ("left", "a lease"),
        ("queue", "C"),
        ("B release n=2", "saved 2"),
        ("pushes", "G C #3 + n=2"),
    ],
    "a rider that came later": [
        ("A acquire", "granted #1"),
        ("C acquire", "queued 0 behind A"),
        ("A release n=1 rider=B", "saved 1"),
        ("holds", "C"),
        ("pushes", "G C #2 + n=1"),
        ("queue", "B"),
        ("C release n=2", "saved 2"),
        ("pushes", "G B #3 + n=2"),
        ("left", "a claim"),
        ("queue", ""),
    ],
    "a rider, and the clock was set back since the others came": [
        ("A acquire", "granted #1"),
        ("C acquire", "queued 0 behind A"),
        ("C ahead", "ok"),
        ("D acquire", "queued 1 behind A"),
        ("A release n=1 rider=B:1", "saved 1"),
        ("pushes", "G C #2 + n=1"),
        ("queue", "D B"),
    ],
    "a rider behind a waiter of its own process": [
        ("A acquire", "granted #1"),
        ("C acquire", "queued 0 behind A"),
        ("A release n=1 own rider=B", "saved 1 and G C #2 + n=1"),
        ("holds", "C"),
        ("queue", ""),
    ],
    "a rider that has asked for a place meanwhile": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("C acquire", "queued 1 behind A"),
        ("A release n=1 own rider=B:1", "saved 1 and G B #2 + n=1"),
        ("queue", "C"),
        ("B release n=2", "saved 2"),
        ("holds", "C"),
    ],
    "a rider behind dead waiters": [
        ("A acquire", "granted #1"),
        ("c acquire", "queued 0 behind A"),
        ("d acquire", "queued 1 behind A"),
        ("A release n=1 rider=B", "saved 1 and G B #2 -"),
        ("holds", "B"),
        ("queue", ""),
    ],
    "the release that names a rider comes again": [
        ("A acquire", "granted #1"),
        ("A release n=1 rider=B", "saved 1 and G B #2 -"),
        ("A release n=1 rider=B", "already 1"),
        ("holds", "B"),
        ("B acquire", "granted #2"),
        ("B release n=2", "saved 2"),
    ],
    "the rider was over before the release came": [
        ("A acquire", "granted #1"),
        ("B abandon", "left"),
        ("A release n=1 rider=B", "saved 1"),
        ("holds", "nobody"),
    ],
    "the rider was over, and others wait": [
        ("A acquire", "granted #1"),
        ("B abandon", "left"),
        ("C acquire", "queued 0 behind A"),
        ("A release n=1 rider=B:1", "saved 1"),
        ("holds", "C"),
        ("queue", ""),
    ],
    "a rider and a save that is refused": [
        ("A acquire", "granted #1"),
        ("foreign write n=5", "ok"),
        ("A release n=1 rider=B", "conflict n=5"),
        ("holds", "A"),
        ("A release rider=B", "clean"),
        ("holds", "B"),
    ],
    "a rider, and the session was destroyed": [
        ("A acquire", "granted #1"),
        ("A save n=1", "saved 1"),
        ("destroy", "destroyed"),
        ("A release m=1 rider=B", "destroyed"),
        ("holds", "nobody"),
    ],
    "a rider, and the lease was lost": [
        ("A acquire", "granted #1"),
        ("lapse", "ok"),
        ("A release n=1 rider=B", "lost #1"),
        ("holds", "nobody"),
    ],
    # --- force-release
    "force-release compares the token": [
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("B force", "not-holder"),
        ("A force", "released"),
        ("pushes", "L A, G B #2 -"),
        ("holds", "B"),
        ("A renew", "0"),
        ("A release n=1", "lost #2"),
        ("data", ""),
    ],
    # --- a client of another kind on the same key
    "a Redlock client holds": [
        ("foreign lock", "True"),
        ("A acquire wait=0", "busy behind another client"),
        ("A acquire", "queued 0 behind another client"),
        ("foreign unlock", "ok"),
        ("A acquire", "granted #1"),
        ("foreign lock", "None"),
        ("A release", "clean"),
        ("foreign lock", "True"),
        ("A release n=1", "already 0"),
        ("B force", "not-holder"),
        ("holds", "foreign"),
    ],
    "a Redlock client took over": [
        ("A acquire", "granted #1"),
        ("lapse", "ok"),
        ("foreign lock", "True"),
        ("A renew", "0"),
        ("A save n=1", "lost #1"),
        ("A release n=1", "lost #1"),
        ("A abandon", "left"),
        ("holds", "foreign"),
        ("data", ""),
    ],
    "a Redlock client without an end": [
        ("foreign lock for ever", "True"),
        ("A acquire", "queued 0 behind another client"),
    ],
    # --- looking
    "inspect": [
        ("inspect", "free, fence 0, no record"),
        ("A create n=1", "saved 1 n=1"),
        ("A acquire", "granted #1"),
        ("B acquire", "queued 0 behind A"),
        ("c acquire", "queued 1 behind A"),
        ("inspect", "A holds, fence #1, version 1, waiting: B c"),
        ("A release n=2", "saved 2"),
        ("inspect", "B holds, fence #2, version 2, waiting: c"),
        ("foreign unlock", "ok"),
        ("foreign lock", "True"),
        ("inspect", "another client holds, fence #2, version 2, waiting: c"),
        ("destroy", "destroyed"),
        ("inspect", "another client holds, fence #2, destroyed"),
    ],
    "load": [
        ("A load", "missing"),
        ("A acquire", "granted #1"),
        ("B load", "missing"),
        ("A release n=1", "saved 1"),
        ("B load", "found n=1"),
        ("destroy", "destroyed"),
        ("B load", "destroyed"),
    ],
}


class World:
    """Runs the steps of a row on a real server and tells the answers in words."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pubsub: Any = redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.subscribe("alive")
        assert self._pubsub.get_message(timeout=5) is None  # it is subscribed
        self._fences: list[int] = []
        self._fence_of: dict[str, int] = {}
        self._seen: dict[str, Snapshot] = {}
        self._tickets: dict[str, str] = {}
        self._foreign = "not one of ours"

    def close(self) -> None:
        self._pubsub.close()

    def step(self, what: str) -> str:
        words = what.split()
        if words[0].isalpha() and len(words[0]) == 1:
            who, verb, *options = words
            answer: str = getattr(self, verb)(who, options)
            return answer
        method: Callable[[], str] | None = getattr(self, "_".join(words), None)
        if method is not None:
            return method()
        answer = getattr(self, "_".join(words[:-1]))(words[-1])
        return answer

    def _run(self, call: Call[Any]) -> list[object]:
        reply: list[object] = run(self._redis, call)
        return reply

    # --- words

    def _fence(self, fence: int) -> str:
        if fence == 0:
            return "0"
        if fence not in self._fences:
            assert not self._fences or fence > max(self._fences), "fences only grow"
            self._fences.append(fence)
        return f"#{self._fences.index(fence) + 1}"

    def _changes(self, who: str, options: list[str], kind: str = "s") -> list[Change]:
        loaded = self._seen[who].fields if who in self._seen else {}
        changes = []
        for option in options:
            key, is_change, value = option.partition("=")
            if is_change and key not in ("op", "most", "wait", "rider"):
                field = key.encode()
                base = "*" if "over" in options else fingerprint(loaded.get(field))
                changes.append(Change(kind, field, value.encode(), base))
        return changes

    def _lease_of(self, who: str) -> tuple[str, int, str]:
        created = self._seen[who].created if who in self._seen else ""
        return token_of(who), self._fence_of.get(who, 0), created

    def _told(self, push: Handover | None) -> str:
        if push is None:
            return ""
        who = who_is(push.token)
        if push.kind != "G":
            return f"{push.kind} {who}".strip()
        self._fence_of[who] = push.fence
        carried = "-"
        if push.snapshot is not None:
            self._seen[who] = push.snapshot
            carried = " ".join(["+", *_data(push.snapshot)])
        return f"G {who} {self._fence(push.fence)} {carried}"

    def _committed(self, outcome: object) -> str:
        assert isinstance(outcome, (protocol.Committed, protocol.Conflict, protocol.Refused))
        if isinstance(outcome, protocol.Refused):
            return f"{outcome.kind} {self._fence(outcome.number)}" if outcome.kind == "lost" else outcome.kind
        if isinstance(outcome, protocol.Conflict):
            theirs = (f"{key.decode()}={_text(value)}" for key, value in outcome.theirs.items())
            return " ".join(["conflict", *theirs])
        if not outcome.changed:
            return "clean"
        words = ["already" if outcome.repeated else "saved", str(outcome.version)]
        if outcome.value is not None:
            words += ["is", str(outcome.value)]
        if outcome.handover is not None:
            words += ["and", self._told(outcome.handover)]
        return " ".join(words)

    # --- acquisitions

    def acquire(self, who: str, options: list[str]) -> str:
        chosen = dict(option.partition("=")[::2] for option in options)
        call = Acquire(
            KEYS,
            token_of(who),
            LEASE,
            SESSION,
            channel="alive" if who.isupper() else f"dead {who}".replace(" ", ":"),
            label=f"label of {who}",
            missing="reject" if "existing" in chosen else "create",
            queueing=chosen.get("wait") != "0",
            max_waiters=int(chosen.get("most", 64)),
            ticket=self._tickets[who] if "ticket" in chosen else "0",
        )
        outcome = outcome_of(self._redis, call)
        if isinstance(outcome, protocol.Granted):
            assert outcome.trusted_for == 30
            self._fence_of[who] = outcome.fence
            self._seen[who] = outcome.loaded
            return f"granted {self._fence(outcome.fence)}"
        if isinstance(outcome, protocol.Queued):
            assert self._tickets.setdefault(who, outcome.ticket) == outcome.ticket
            return f"queued {outcome.position} behind {_label(outcome.holder.label)}"
        if isinstance(outcome, protocol.Busy):
            return f"{'full' if outcome.full else 'busy'} behind {_label(outcome.holder.label)}"
        return outcome.kind

    def release(self, who: str, options: list[str]) -> str:
        token, fence, created = self._lease_of(who)
        call = Release(
            KEYS,
            token,
            fence,
            low_of(token),
            created,
            SESSION,
            self._changes(who, options),
            carries="small" not in options,
            deaf="deaf" in options,
            channel="alive" if "own" in options else "-",
            reads="own" in options and "small" not in options,
            rider=next((self._rider(option[6:]) for option in options if option.startswith("rider=")), ""),
        )
        outcome = outcome_of(self._redis, call)
        if isinstance(outcome, protocol.Conflict):
            self._fence_of[who] = outcome.fence
        return self._committed(outcome)

    def _rider(self, option: str) -> str:
        """ "name" or "name:ticket"; without a ticket it is behind all."""
        who, _, ticket = option.partition(":")
        return rider(token_of(who), f"{int(ticket or 1 << 52):016d}", LEASE, "alive", f"label of {who}", 3)

    def save(self, who: str, options: list[str]) -> str:
        token, fence, created = self._lease_of(who)
        number = next((int(option[3:]) for option in options if option.startswith("op=")), 1)
        changes = self._changes(who, options)
        outcome = outcome_of(
            self._redis, numbered(Save(KEYS, token, fence, created, SESSION, changes), op_of(f"saves {who}", number))
        )
        if isinstance(outcome, protocol.Committed) and not outcome.repeated:
            fields = dict(self._seen[who].fields) | {change.field: change.value for change in changes}
            self._seen[who] = Snapshot(fields, outcome.version or 0, outcome.created)
        return self._committed(outcome)

    def renew(self, who: str, options: list[str]) -> str:
        (answer,) = self._run(Renew([(KEYS, token_of(who), LEASE.ttl_ms)]))
        return str(answer)

    def abandon(self, who: str, options: list[str]) -> str:
        return _word(
            self._run(Abandon(KEYS, token_of(who), low_of(token_of(who))))[:1]
        )  # what it tells beside the word is for a quorum

    def force(self, who: str, options: list[str]) -> str:
        return _word(self._run(ForceRelease(KEYS, token_of(who)))[:1])

    # --- without the lock

    def create(self, who: str, options: list[str]) -> str:
        call = numbered(Create(KEYS, SESSION, self._changes(who, options)), op_of(f"creates {who}"))
        outcome = outcome_of(self._redis, call)
        if isinstance(outcome, protocol.Refused):
            return outcome.kind
        return " ".join(["saved", str(outcome.version), *_data(outcome)])

    def load(self, who: str, options: list[str]) -> str:
        outcome = protocol.loaded(self._run(Load(KEYS, SESSION)))
        if isinstance(outcome, protocol.Refused):
            return outcome.kind
        self._seen[who] = outcome
        return " ".join(["found", *_data(outcome)])

    def commit(self, who: str, options: list[str]) -> str:
        created = self._seen[who].created
        call = Commit(KEYS, created, None, SESSION, self._changes(who, options))
        return self._committed(outcome_of(self._redis, numbered(call, op_of(f"commits {who}"))))

    def incr(self, who: str, options: list[str]) -> str:
        lease = (token_of(who), self._fence_of[who]) if who in self._fence_of else None
        (change,) = self._changes(who, options, "i")
        created = self._seen[who].created if lease is not None and who in self._seen else ""
        call = Increment(KEYS, lease, created, SESSION, change)
        return self._committed(outcome_of(self._redis, numbered(call, op_of(f"counts {who}"))))

    def destroy(self) -> str:
        return _word(self._run(numbered(Destroy(KEYS, SESSION), op_of("destroys")))[:1])

    def inspect(self) -> str:
        seen = inspected(self._run(Inspect(KEYS)))
        assert (seen.left is None) == (seen.token is None)
        words = [f"{_label(seen.holder.label)} holds" if seen.holder is not None else "free"]
        if seen.riders:
            words[0] += f" and {seen.riders} ride"
        words.append(f"fence {self._fence(seen.fence)}")
        if seen.destroyed:
            words.append("destroyed")
        else:
            words.append(f"version {seen.version}" if seen.created_us else "no record")
        if seen.waiters:
            words.append("waiting: " + " ".join(_label(waiter.label) for waiter in seen.waiters))
        return ", ".join(words)

    # --- what else happens

    def lapse(self) -> str:
        return self.foreign_unlock()

    def evicted(self) -> str:
        """The record goes, as an eviction or its TTL ends it; lock and queue stay."""
        self._redis.delete(KEYS.session)
        return "ok"

    def flush(self) -> str:
        self._redis.flushall()
        return "ok"

    def fence_raised(self) -> str:
        set_fence(self._redis, KEYS.session, fence_of(self._redis, KEYS.session) + 1)
        return "ok"

    def silent(self, who: str, options: list[str]) -> str:
        """Nothing was heard of this waiter for so long that it is taken for dead."""
        record = self._redis.hget(KEYS.waiters, token_of(who))
        assert isinstance(record, bytes)
        self._redis.hset(KEYS.waiters, token_of(who), re.sub(rb"^\d+", b"1", record))
        return "ok"

    def ahead(self, who: str, options: list[str]) -> str:
        """Its ticket is of the future."""
        self._redis.zadd(KEYS.queue, {token_of(who): 1 << 52})
        return "ok"

    def foreign_lock(self) -> str:
        return str(self._redis.set(KEYS.lock, self._foreign, nx=True, px=30_000))

    def foreign_lock_for_ever(self) -> str:
        return str(self._redis.set(KEYS.lock, self._foreign, nx=True))

    def foreign_unlock(self) -> str:
        assert self._redis.delete(KEYS.lock) == 1
        return "ok"

    def foreign_write(self, change: str) -> str:
        key, _, value = change.partition("=")
        self._redis.hset(KEYS.session, key, value)
        return "ok"

    def foreign_delete(self, key: str) -> str:
        assert self._redis.hdel(KEYS.session, key) == 1
        return "ok"

    # --- what Redis has

    def holds(self) -> str:
        lock = self._redis.get(KEYS.lock)
        assert lock is None or isinstance(lock, bytes)
        if lock is None:
            return "nobody"
        return "foreign" if lock.decode() == self._foreign else who_is(lock.decode())

    def queue(self) -> str:
        tokens: list[bytes] = self._redis.zrange(KEYS.queue, 0, -1)  # type: ignore[assignment]
        assert sorted(tokens) == sorted(self._redis.hkeys(KEYS.waiters)), "the queue and its records agree"
        return " ".join(who_is(token.decode()) for token in tokens)

    def left(self) -> str:
        left = self._redis.pttl(KEYS.lock)
        return "a lease" if 25_000 < left <= 30_000 else "a claim" if 0 < left <= 3_000 else f"{left} ms"

    def data(self) -> str:
        fields: dict[bytes, bytes] = self._redis.hgetall(KEYS.session)  # type: ignore[assignment]
        return " ".join(_data(Snapshot(fields, 0, "")))

    def pushes(self) -> str:
        """Since the last time, in order."""
        heard: list[str] = []
        # What the server published before it answered this PING on the same connection has arrived with it.
        self._pubsub.ping("all")
        while True:
            message = self._pubsub.get_message(timeout=5)
            assert message is not None, "the server did not answer"
            if message["type"] == "pong":
                return ", ".join(heard)
            heard.append(self._told(protocol.pushed(message["data"])))

    def mortal(self) -> bool:
        keys = [key for key in self._redis.scan_iter() if self._redis.pttl(key) == -1]
        return keys in ([], [KEYS.lock]) and (keys == [] or self.holds() == "foreign")


def _word(reply: list[object]) -> str:
    (word,) = reply
    assert isinstance(word, bytes)
    return word.decode()


def _text(value: bytes | None) -> str:
    return "nothing" if value is None else value.decode()


def _label(label: str) -> str:
    return label.removeprefix("label of ")


def _data(snapshot: Snapshot) -> list[str]:
    return sorted(f"{key.decode()}={value.decode()}" for key, value in snapshot.fields.items() if key[:1] != b"#")


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    with connect(redis_url) as redis:
        world = World(redis)
        yield world
        world.close()


@pytest.mark.parametrize("row", TABLE, ids=lambda name: name.replace(" ", "-"))
def test_row(world: World, row: str) -> None:
    """The answers are those of the table, and at its end every key that is ours is mortal."""
    for number, (step, expected) in enumerate(TABLE[row]):
        assert world.step(step) == expected, f"step {number}: {step}"
    assert world.mortal()


# --- parsers, without a server


def a_push(fields: dict[bytes, bytes]) -> bytes:
    flat = [part for pair in fields.items() for part in pair]
    sizes = ",".join(str(len(part)) for part in flat).encode()
    return b"G token 1234 1700000000000000 2000 +\n" + sizes + b"\n" + b"".join(flat)


@given(st.dictionaries(st.binary().filter(lambda key: key[:1] != b"#"), st.binary()))
def test_pushes(fields: dict[bytes, bytes]) -> None:
    """A push arrives as it was sent, whatever bytes the session holds."""
    created = b"%016d" % 1700
    whole = fields | {b"#version": b"7", b"#state": b"0" * 16 + created + b"0" * 17 + b"-" * 26}
    expected = Handover("G", "token", 1234, 1_700_000_000_000_000, 2.0, Snapshot(whole, 7, created.decode()))
    assert protocol.pushed(a_push(whole)) == expected


HOSTILE = [
    b"",
    b"\n",
    b" ",
    b"G",
    b"G t",
    b"L",
    b"L a b",
    b"L \xff",
    b"D \xff\n",
    b"X t",
    b"G t 1 1 1",
    b"G t x 1 1 -",
    b"G t 1 1 1 +",
    b"G t 1 1 1 +\n",
    b"G t 1 1 1 +\n1",
    b"G t 1 1 1 +\n1\nab",
    b"G t 1 1 1 +\n1,1\na",
    b"G t 1 1 1 +\n1\na",
    b"G t 1 1 1 +\n,\n",
    b"G t 1 1 1 +\n-1,3\nab",
    b"G t 1 1 1 +\n8,1\n#versionx",
    b"G t 1 1 1 +\n6,1\n#state\xff",
    b"G \xff 1 1 1 -",
    b"G t 1e3 1 1 -",
    b"G t 1 1 " + b"9" * 400 + b" -",
    b"G t 1 " + b"9" * 400 + b" 1 -",
    b"G t " + b"9" * 5000 + b" 1 1 -",
    b"G t 1 1 1 +\n" + b"9" * 400 + b",1\na",
    b"\x00" * 100,
    b"G t 1 1 nan -",
]


def take(message: bytes) -> None:
    """What a process does with whatever was published on its channel: understand it, or leave it."""
    push = protocol.pushed(message)
    if push is None:
        return
    assert push.kind in ("G", "D", "L")
    granted = protocol.granted_by_push(push, push.snapshot or Snapshot({}, 0, ""), 1_700_000_000_000_000, 0.0, 1.0)
    assert math.isfinite(granted.asked_at + granted.trusted_for)
    assert granted.asked_at <= 1.0


@pytest.mark.parametrize("message", HOSTILE, ids=lambda message: repr(message[:30]))
def test_hostile_pushes(message: bytes) -> None:
    """Anybody may publish on a channel: no message raises, and none is trusted beyond what it says."""
    take(message)


@given(st.binary(max_size=200))
def test_random_pushes(message: bytes) -> None:
    """The same for random bytes, behind a good beginning, too."""
    take(message)
    take(b"G t 1 1 1 +\n" + message)
    take(b"G " + message)


@given(st.integers(0, 200), st.integers(0, 255))
def test_damaged_pushes(at: int, byte: int) -> None:
    """The same for a good push with one wrong byte."""
    good = bytearray(a_push({b"key": b"value", b"#version": b"3", b"#state": b"17"}))
    assume(at < len(good))
    good[at] = byte
    take(bytes(good))


EMPTY = Snapshot({}, 0, "")
seconds = st.floats(0, 100)
HOUR = 3_600.0


def trusted_until(sent: float, received: float, asked: float, seen: float, jump: float) -> float:
    """Until when (real time) a process trusts a claim of 2 s, if the server's clock jumps between its last reply and
    the push. All instants by a true clock; the process' own differs from that by 1000 s, the server's by 5000 s."""
    server_us = int((sent + 5000 + jump) * 1e6)
    seen_us = int((seen + 5000) * 1e6)
    push = Handover("G", "t", 1, server_us, 2.0, EMPTY)
    granted = protocol.granted_by_push(push, EMPTY, seen_us, asked + 1000, received + 1000)
    return granted.asked_at + granted.trusted_for - 1000


@given(seconds, seconds, seconds, seconds)
def test_how_long_a_push_is_trusted(asking: float, waiting: float, way: float, answering: float) -> None:
    """However long request, reply and push took: never longer than the server's own claim, and never in the future."""
    asked = 10.0
    seen = asked + asking
    sent = seen + answering + waiting
    received = sent + way
    until = trusted_until(sent, received, asked, seen, 0.0)
    assert until <= sent + 2.0 + 1e-5
    assert until >= sent - asking + 2.0 - 1e-5, "no more is given away than the request's way took"


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
@given(waiting=seconds, way=seconds)
def test_the_servers_clock_jumps(jump: float, waiting: float, way: float) -> None:
    """An hour ahead: never trusted longer than from its arrival. An hour back: not trusted before it is confirmed."""
    asked, seen = 10.0, 10.1
    sent = seen + waiting
    received = sent + way
    until = trusted_until(sent, received, asked, seen, jump)
    assert until <= received + 2.0 + 1e-5
    if jump < 0:
        assert until < received


def test_a_push_before_any_reply_is_not_trusted() -> None:
    """Nothing is known of the server's clock: the claim must be confirmed first."""
    granted = protocol.granted_by_push(Handover("G", "t", 1, 5, 2.0, EMPTY), EMPTY, None, 0.0, 50.0)
    assert granted.asked_at + granted.trusted_for == 50.0


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (stop_after_delay(5), 3.0),
        (stop_after_delay(1), 0.0),
        (stop_after_attempt(3), math.inf),
        (stop_never, math.inf),
        (stop_after_delay(5) | stop_after_delay(4), 2.0),
        (stop_after_attempt(3) | stop_after_delay(5), 3.0),
        (stop_any(stop_any(stop_after_delay(7)), stop_never), 5.0),
        (stop_any(), math.inf),
        (stop_all(stop_after_delay(5), stop_after_attempt(3)), math.inf),
        (lambda state: False, math.inf),
    ],
    ids=stable_name,
)
def test_seconds_until_stop(stop: object, left: float) -> None:
    """After two seconds: when a tenacity ``stop`` certainly stops."""
    assert seconds_until_stop(stop, 2.0) == left


def test_stop_before_delay_is_a_delay_too() -> None:
    """tenacity's other kind of delay stops no later."""
    assert seconds_until_stop(stop_before_delay(5), 2.0) in (3.0, math.inf)


@pytest.mark.parametrize(
    ("reply", "parse"),
    [
        ([b"granted", b"x", b"1"], lambda reply: protocol.acquired(reply, 0.0, 30.0, [])),
        ([b"queued", b"1"], lambda reply: protocol.acquired(reply, 0.0, 30.0, None)),
        ([b"granted", b"1", b"1"], lambda reply: protocol.acquired(reply, 0.0, 30.0, [b"odd"])),
        ([b"saved", b"x"], protocol.committed),
        ([b"conflict", b"1", [b"odd"]], protocol.committed),
        ([b"found", [b"#version", b"x"]], protocol.loaded),
    ],
    ids=stable_name,
)
def test_damaged_replies(reply: list[object], parse: Callable[[list[object]], object]) -> None:
    """A reply that makes no sense (a damaged record, another program's script) is a clear error of ours."""
    with pytest.raises(CodecError):
        parse(reply)
