"""The handoff: one trusted holder, growing fences, nobody starts who is not the holder, nobody waits for ever."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.model.handoff import Handoff, Rules, Scenario
from tests.model.large import LARGE_ONLY
from tests.model.verdicts import breaks_no_promise, is_found

AT_MOST = 500_000

SMALL = {
    "two processes": Scenario((0, 1)),
    "both may leave": Scenario((0, 1), leaves=(0, 1)),
    "a subscription breaks": Scenario((0, 1), breaks=1, leaves=(1,)),
    "the record is evicted": Scenario((0, 1), evictions=1),
    "riders of two processes": Scenario((0, 1, 0, 1), rides=True, lapses=False),
    "riders and another process": Scenario((0, 0, 1), rides=True, lapses=False),
}
LARGE = {
    "riders": Scenario((0, 0, 0), rides=True),
    "riders elsewhere": Scenario((0, 1, 1), rides=True),
    "riders that leave": Scenario((0, 0, 0), rides=True, leaves=(1, 2)),
    "riders of two processes that leave": Scenario((1, 0, 0, 1), rides=True, lapses=False, leaves=(1,)),
    "riders whose process is cut off": Scenario((0, 1, 0), rides=True, breaks=1),
    "two waiters in one process": Scenario((0, 1, 1)),
    "a waiter beside the releaser": Scenario((0, 0, 1)),
    "subscribed at a replica": Scenario((0, 1, 1), at_replica=True),
    "failover that loses writes": Scenario((0, 1), failovers=1, at_replica=True),
    "a process dies": Scenario((0, 1, 1), deaths=1),
    "nobody can be asked who listens": Scenario((0, 1, 1), deaf=True, deaths=1),
}
TWO_TRUST = "two trust their leases at once"
# The protection that is taken out, where that shows, and what is complained of.
PLANTED = [
    ("asks_who_listens", "subscribed at a replica", "starts by a push, and is not the holder"),
    ("late_push_refused", "two processes", "starts by a push, and is not the holder"),
    ("trust_within_lease", "two processes", TWO_TRUST),
    ("no_trust_in_release", "two processes", TWO_TRUST),
    ("token_compared", "two waiters in one process", TWO_TRUST),
    ("fence_by_clock", "failover that loses writes", "gets a fence that is not higher than all before"),
    ("fence_renewed", "the record is evicted", "a body runs with fence 0"),
    ("fence_compared", "two processes", "saves behind a later grant"),
    ("finished_takes_nothing", "both may leave", "has finished, and gets the lock"),
    ("abandon_hands_on", "both may leave", "has left, and keeps the lock"),
    ("waiters_look", "two processes", "it never settles from here"),
    ("look_rejoins", "two waiters in one process", "was told to wait, and has no place"),
    ("look_marks_queue", "the record is evicted", "passes over those who wait"),
    ("newcomer_queues", "two processes", "overtakes those who wait"),
    ("release_hands_on", "two processes", "passes over those who wait"),
    ("rider_compares", "riders of two processes", "overtakes"),
    ("rider_joins", "riders of two processes", "overtakes"),
    ("rider_finished", "riders that leave", "has finished, and gets the lock"),
    ("rider_abandons", "riders that leave", "has left, and keeps the lock"),
    ("rider_looks", "riders of two processes that leave", "overtakes"),
]


@pytest.mark.parametrize("scenario", [*SMALL, *(pytest.param(name, marks=LARGE_ONLY) for name in LARGE)])
def test_no_reachable_state_breaks_a_promise(scenario: str) -> None:
    breaks_no_promise(Handoff((SMALL | LARGE)[scenario]), at_most=AT_MOST)


@pytest.mark.parametrize(("rule", "scenario", "complaint"), PLANTED, ids=[rule for rule, *_ in PLANTED])
def test_a_missing_protection_is_found(rule: str, scenario: str, complaint: str) -> None:
    is_found(Handoff((SMALL | LARGE)[scenario], replace(Rules(), **{rule: False})), complaint, at_most=AT_MOST)


def test_every_protection_is_taken_out_once() -> None:
    assert {rule for rule, *_ in PLANTED} == {field.name for field in fields(Rules)}
