"""Completion records: no call takes effect twice, none is told what is not so, and a late one changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.model.large import LARGE_ONLY
from tests.model.records import Asked, Rules, Scenario, Traffic
from tests.model.verdicts import breaks_no_promise, is_found

AT_MOST = 600_000
INCR = (Asked("incr"),)
THERE_AND_BACK = (Asked("acquire"), Asked("save", 0, 1), Asked("save", 1, 0), Asked("end", 0, 2))

SMALL = {
    "saves there and back under one lock": Scenario(((THERE_AND_BACK,),), lapses=True),
    "counters side by side, one other client": Scenario(((INCR, INCR), (INCR,))),
    "no room for another client": Scenario(((INCR, INCR), (INCR,)), most_away=0),
    "the other client has higher numbers": Scenario(((INCR, INCR), (INCR,)), begins=(0, 3)),
    "a row of counters beside another": Scenario(((INCR + INCR, INCR),)),
    "other clients' records evicted": Scenario(((INCR + INCR,), (INCR,)), loses_away=True),
    "the whole record lost": Scenario(((INCR,), (INCR,)), loses_all=True),
    "commits there and back": Scenario(
        (((Asked("commit", 0, 1),),), ((Asked("commit", 0, 5), Asked("commit", 5, 0)),))
    ),
}
LARGE = {
    "a commit beside the lock": Scenario(((THERE_AND_BACK,), ((Asked("commit", 0, 5),),))),
    "two want the lock": Scenario(
        (((Asked("acquire"), Asked("end", 0, 1)),), ((Asked("acquire"), Asked("end", 0, 2)),)), lapses=True
    ),
    "the holder is forgotten": Scenario(
        (((Asked("acquire"), Asked("save", 0, 1), Asked("end", 1, 1)),), (INCR,)), lapses=True, most_away=0
    ),
    "the record lost while it is held": Scenario(
        (((Asked("acquire"), Asked("end", 0, 1)),), (INCR,)), lapses=True, loses_all=True
    ),
    "three sendings of each": Scenario(((INCR, INCR), (INCR,)), most_sendings=3),
}
TWICE = "took effect twice"
LATE = "changes something after its answer"
FALSE_DONE = "was told `done`, and did not take effect"
# The protection that is taken out, where that shows, and what is complained of.
PLANTED = [
    ("records", "saves there and back under one lock", "took effect"),
    ("low", "counters side by side, one other client", TWICE),
    ("low_covers_open", "a row of counters beside another", FALSE_DONE),
    ("by_count", "a row of counters beside another", TWICE),
    ("prunes", "a row of counters beside another", "an answered call is kept"),
    ("drops", "no room for another client", "more records are kept than promised"),
    ("keep_others", "counters side by side, one other client", TWICE),
    ("floor", "counters side by side, one other client", TWICE),
    ("born", "counters side by side, one other client", TWICE),
    ("away", "other clients' records evicted", TWICE),
    ("told_apart", "no room for another client", TWICE),
    ("young", "the whole record lost", LATE),
    ("floor_before_lost", "the holder is forgotten", "was told `lost`, and took effect"),
    ("conflict_finishes", "commits there and back", LATE),
    ("refusal_raises", "saves there and back under one lock", FALSE_DONE),
    ("fence_equal", "the record lost while it is held", FALSE_DONE),
    ("token_compared", "saves there and back under one lock", LATE),
    ("lost_finishes", "saves there and back under one lock", LATE),
    ("abandon_finishes", "saves there and back under one lock", LATE),
]


@pytest.mark.parametrize("scenario", [*SMALL, *(pytest.param(name, marks=LARGE_ONLY) for name in LARGE)])
def test_no_reachable_state_breaks_a_promise(scenario: str) -> None:
    breaks_no_promise(Traffic((SMALL | LARGE)[scenario]), at_most=AT_MOST)


@pytest.mark.parametrize(("rule", "scenario", "complaint"), PLANTED, ids=[rule for rule, *_ in PLANTED])
def test_a_missing_protection_is_found(rule: str, scenario: str, complaint: str) -> None:
    without: dict[str, bool | int] = {rule: 1 if rule == "by_count" else False}
    is_found(Traffic((SMALL | LARGE)[scenario], replace(Rules(), **without)), complaint, at_most=AT_MOST)  # type: ignore[arg-type]


def test_every_protection_is_taken_out_once() -> None:
    assert {rule for rule, *_ in PLANTED} == {field.name for field in fields(Rules)}
