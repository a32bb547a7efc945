"""The election as tables: what the masters say, in order, and what follows; no clock, no network.

A row's step is "master word" with the second at which it happens. ``+A 5`` A granted with counter 5 (for a lease of
10 s), ``~A`` queued there, ``!A`` no answer, ``-A`` busy, ``>A 5`` a push granted counter 5 (for a claim of 2 s).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sessionlock.protocol.replies import Busy, Granted, Handover, Holder, Queued, Snapshot
from sessionlock.quorum.ballot import Ballot, Won

THREE, FIVE = ("A", "B", "C"), ("A", "B", "C", "D", "E")
SERVER_START = 1_000_000_000_000  # microseconds on every server's clock at our second 0
CLAIM = 2.0
HOLDER = Holder("node-1", 0.5)


def us(at: float) -> int:
    return SERVER_START + round(at * 1e6)


def granted(fence: int, at: float, lease: float = 10.0) -> Granted:
    return Granted(fence, us(at), at, lease, Snapshot({}, 0, ""))


def queued(at: float, left: float | None = 1.0, position: int = 0) -> Queued:
    return Queued("7", position, left, HOLDER, us(at), at)


def push(fence: int, at: float) -> Handover:
    return Handover("G", "token", fence, us(at), CLAIM)


def ballot(masters: tuple[str, ...] = THREE, hold: float = 0.03) -> Ballot:
    return Ballot(masters, claim=CLAIM, draw=lambda: hold)


def told(votes: Ballot, steps: str, at: float = 0.0) -> Ballot:
    """``votes`` after these steps, all at one instant."""
    for step in steps.split(","):
        word, *more = step.split()
        kind, master = word[0], word[1:]
        if kind == "+":
            votes.granted(master, granted(int(more[0]), at))
        elif kind == "~":
            votes.queued(master, queued(at))
        elif kind == "!":
            votes.silent(master, "no answer")
        elif kind == "-":
            votes.busy(master, Busy(HOLDER, 0, False))
        elif kind == ">":
            votes.pushed(master, push(int(more[0]), at), at)
        else:
            raise AssertionError(step)
    return votes


def won(votes: Ballot, at: float = 0.0) -> Won:
    """The majority, which there must be."""
    result = votes.won(at)
    assert result is not None
    return result


@pytest.mark.parametrize("masters", [THREE, FIVE, (*FIVE, "F"), (*FIVE, "F", "G")], ids=len)
def test_every_mask(masters: tuple[str, ...]) -> None:
    """All 2**n sets of granting masters: more than half win, and any two winning sets share a master."""
    winning = []
    for mask in itertools.product((True, False), repeat=len(masters)):
        votes = ballot(masters)
        for number, (master, grants) in enumerate(zip(masters, mask, strict=True)):
            told(votes, f"+{master} {number + 1}" if grants else f"!{master}")
        result = votes.won(0.0)
        assert (result is not None) == (sum(mask) > len(masters) / 2)
        if result is not None:
            winning.append({master for master, _ in result.vector})
    assert all(one & other for one in winning for other in winning)


# steps, when they happened, and whether (and until when) there is a majority at another instant
TABLE: dict[str, tuple[tuple[str, ...], list[tuple[float, str]], float, float | None]] = {
    "all at once": (THREE, [(0, "+A 1,+B 1,+C 1")], 0, 10),
    "two of three": (THREE, [(0, "+A 1,+B 1,!C")], 0, 10),
    "one of three": (THREE, [(0, "+A 1,~B,!C")], 0, None),
    "three of five, two dead": (FIVE, [(0, "+A 1,!B,+C 1,!D,+E 1")], 0, 10),
    "two of five": (FIVE, [(0, "+A 1,+B 1,~C,~D,~E")], 0, None),
    # The trust ends with the majority-th largest end, not with the last.
    "an early and a late vote": (THREE, [(0, "+A 1"), (4, "+B 1")], 4, 10),
    "the earliest of three does not matter": (THREE, [(0, "+A 1"), (4, "+B 1"), (5, "+C 1")], 5, 14),
    "the two earliest of five do not matter": (
        FIVE,
        [(0, "+A 1,+B 1"), (1, "+C 1"), (2, "+D 1"), (3, "+E 1")],
        3,
        11,
    ),
    # A vote that has lapsed is none, whatever came after it.
    "a lapsed minority": (THREE, [(0, "+A 1"), (10, "+B 1")], 10, None),
    "a majority about to lapse": (THREE, [(0, "+A 1,+B 1")], 9.5, None),
    "confirmed in time": (THREE, [(0, "+A 1,+B 1"), (9.5, "+A 1,+B 1")], 9.5, 19.5),
    # Pushes.
    "pushed, the server's clock known": (THREE, [(0, "~A,~B,~C"), (1, ">A 2,>B 2")], 1, 3),
    "pushed, nothing known of the clock": (THREE, [(1, ">A 2,>B 2")], 1, None),
    "the push before the reply that says queued": (THREE, [(1, ">A 2,~A,>B 2,~B")], 1, 3),
    "a push that a later reply overtook": (THREE, [(0, "~A,~B"), (2, "~A"), (1, ">A 2,>B 2")], 2, None),
    "one granted, one pushed": (THREE, [(0, "+A 1,~B,~C"), (1, ">C 4")], 1, 3),
    # What is not known counts as no.
    "silence does not undo a grant": (THREE, [(0, "+A 1,+B 1"), (1, "!A")], 1, 10),
    "queued undoes a grant": (THREE, [(0, "+A 1,+B 1"), (1, "~A")], 1, None),
    "busy undoes a grant": (THREE, [(0, "+A 1,+B 1"), (1, "-A")], 1, None),
}


@pytest.mark.parametrize("row", TABLE)
def test_who_has_won(row: str) -> None:
    masters, history, now, until = TABLE[row]
    votes = ballot(masters)
    for at, steps in history:
        told(votes, steps, at)
    result = votes.won(now)
    assert (None if result is None else result.until) == (until if until is None else pytest.approx(until))


def test_vector() -> None:
    """Each granting master with its own counter; who did not grant is not in it."""
    votes = told(ballot(FIVE), "+A 5,+C 9,~D,!E,+B 7")
    assert won(votes).vector == (("A", 5), ("B", 7), ("C", 9))


def test_an_older_grant_that_arrives_late() -> None:
    """The newest counter of a master stands."""
    votes = told(ballot(), "+A 5,+B 5")
    votes.pushed("A", push(4, 0.0), 0.0)
    assert won(votes).vector == (("A", 5), ("B", 5))


@pytest.mark.parametrize(
    ("steps", "pending", "decided"),
    [
        ("", "ABC", False),
        ("+A 1", "BC", False),
        ("+A 1,+B 1", "C", True),  # the third is not waited for
        ("-A", "BC", False),
        ("-A,-B", "C", True),  # nor where it can change nothing
        ("+A 1,-B", "C", False),
        ("!A,!B", "C", True),
        ("-A,-B,-C", "", True),
    ],
)
def test_whom_to_wait_for(steps: str, pending: str, decided: bool) -> None:
    votes = ballot()
    for master in THREE:
        votes.asked(master)
    if steps:
        told(votes, steps)
    assert votes.decided(0.0) is decided
    assert set(pending).isdisjoint(votes.to_ask(0.0))


def test_whom_a_look_asks() -> None:
    """Not those that granted for long enough; those whose grant is about to end."""
    votes = told(ballot(FIVE), "+A 1,~B,!C,-D")
    assert votes.to_ask(0.0) == ["B", "C", "D", "E"]
    assert votes.to_ask(9.5) == ["A", "B", "C", "D", "E"]


def test_when_to_look() -> None:
    """When so many leases have ended that a majority may be had."""
    votes = ballot(FIVE)
    for master, left in zip(FIVE, (1.0, None, 3.0, 2.0, 4.0), strict=True):
        votes.queued(master, queued(0.0, left))
    assert votes.look_at(0.0) == 3.0
    told(votes, "+A 1")
    assert votes.look_at(0.0) == 3.0
    told(votes, "+C 1")
    assert votes.look_at(0.0) == 2.0


class TestSplitVotes:
    def test_a_minority_is_kept_for_a_moment_only(self) -> None:
        votes = told(ballot(hold=0.03), "+A 5")
        votes.queued("B", queued(0.0, position=2))
        assert votes.hold_until(0.0) == pytest.approx(0.03)
        assert votes.give_back(0.02) == []
        assert votes.give_back(0.031) == ["A"]
        assert votes.give_back(0.032) == []

    def test_whom_the_others_give_way_to(self) -> None:
        """Who is first in line keeps it longer."""
        votes = told(ballot(hold=0.03), "+A 5,~B,~C")
        assert votes.hold_until(0.0) == pytest.approx(0.09)

    def test_a_majority_is_kept(self) -> None:
        votes = told(ballot(), "+A 5,+B 5,~C")
        assert votes.give_back(1.0) == []

    def test_what_was_given_back_counts_no_more(self) -> None:
        """Nor does a push that tells late of that grant; a new grant does."""
        votes = told(ballot(), "+A 5,~B,~C")
        assert votes.hold_until(0.0) < 1
        assert votes.give_back(1.0) == ["A"]
        told(votes, ">A 5,+B 6,+C 6", 1.0)
        assert [master for master, _ in won(votes, 1.0).vector] == ["B", "C"]
        votes.gave_back("A", answered=True)
        votes.pushed("A", push(5, 0.0), 1.0)
        assert [master for master, _ in won(votes, 1.0).vector] == ["B", "C"]
        told(votes, "+A 7", 1.1)
        assert won(votes, 1.1).vector == (("A", 7), ("B", 6), ("C", 6))

    def test_a_give_back_that_was_not_answered(self) -> None:
        """It may take effect at any later time, also after this master granted again: it never counts again."""
        votes = told(ballot(), "+A 5,~B,~C")
        votes.hold_until(0.0)
        assert votes.give_back(1.0) == ["A"]
        votes.gave_back("A", answered=False)
        told(votes, "+A 7,+B 7", 1.1)
        assert votes.won(1.1) is None
        assert "A" not in votes.to_ask(1.1)
        told(votes, "+C 7", 1.2)
        assert won(votes, 1.2).vector == (("B", 7), ("C", 7))

    def test_nobody_else_wanted_it(self) -> None:
        """Then there is no hurry: it is given back less and less often."""
        votes = told(ballot(hold=0.03), "+A 5,-B,!C")
        now, holds = 0.0, []
        for fence in range(6, 16):
            until = votes.hold_until(now)
            holds.append(until - now)
            now = until
            assert votes.give_back(now) == ["A"]
            votes.gave_back("A", answered=True)
            votes.granted("A", granted(fence, now))
        assert holds[:4] == pytest.approx([0.03, 0.06, 0.12, 0.24])
        assert holds[-1] == pytest.approx(CLAIM / 2)

    @pytest.mark.parametrize("seed", range(50))
    def test_two_that_split_the_vote(self, seed: int) -> None:
        """Two waiters with one master each, the third dead: one of them gets both, soon."""
        import random

        chance = random.Random(seed)
        draw: Any = lambda: chance.uniform(0.01, 0.05)  # noqa: E731
        both = [Ballot(THREE, claim=CLAIM, draw=draw) for _ in range(2)]
        holder = {"A": 0, "B": 1}
        told(both[0], "+A 1,~B,!C"), told(both[1], "+B 1,~A,!C")
        now, fence = 0.0, 2
        for _ in range(100):
            if any(votes.won(now) for votes in both):
                break
            now = min(votes.hold_until(now) for votes in both)
            for me, votes in enumerate(both):
                for master in votes.give_back(now):
                    other = both[1 - me]
                    votes.gave_back(master, answered=True)
                    holder[master], fence = 1 - me, fence + 1
                    other.pushed(master, push(fence, now), now)
                    votes.queued(master, queued(now))
        winner = [votes.won(now) is not None for votes in both].index(True)
        assert holder == {"A": winner, "B": winner}
        assert now < 1.0


class TestWhatIsTold:
    def test_answers(self) -> None:
        votes = ballot(FIVE)
        told(votes, "+A 1,~B,!C")
        votes.asked("D")
        assert votes.answers(0.0) == {
            "A": "granted",
            "B": "held by node-1 for 0.50 s",
            "C": "no answer",
            "D": "no answer yet",
            "E": "not asked",
        }
        assert votes.answers(11.0)["A"] == "its grant has run out"

    def test_enough_have_a_say(self) -> None:
        assert told(ballot(), "~A,~B,!C").reached()
        assert not told(ballot(), "~A,!B,!C").reached()

    def test_the_holder_is_whom_most_name(self) -> None:
        votes = told(ballot(), "~A,~B")
        votes.queued("C", Queued("7", 3, 1.0, Holder("node-2", 1.0), us(0), 0.0))
        holder = votes.holder()
        assert holder is not None
        assert holder.label == "node-1"
        assert votes.position() == 0
