"""Protections of a quorum: the vector, the majority, masters that forget or hang, votes that come late.

name, number of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

QUORUM = "tests/deployments/test_quorum.py::"
FAIL = QUORUM + "TestMastersThatFail::"
LEFT = QUORUM + "TestWhatIsLeftBehind::"
INSTALL = "tests/protocol/test_install.py::"
VOTE = "tests/protocol/test_vote.py::"
BALLOT = "tests/protocol/test_ballot.py::"

Texts: TypeAlias = "str | tuple[str, ...]"

SABOTAGE: list[tuple[str, int | str, str, Texts, Texts, Texts]] = [
    (
        "the store does not compare the counters",
        "quorum",
        "lua/install.lua",
        "if not known or known <= tonumber(counter) then",
        "if true then",
        (INSTALL + "test_an_older_vector", QUORUM + "TestLateHolders::test_a_late_load"),
    ),
    (
        "a vote goes before those who wait",
        "quorum",
        "lua/vote.lua",
        "call('EXISTS', LOCK, QUEUE)",
        "call('EXISTS', LOCK)",
        VOTE + "test_others_wait",
    ),
    (
        "a vote takes what is held",
        "quorum",
        "lua/vote.lua",
        "call('EXISTS', LOCK, QUEUE)",
        "call('EXISTS', QUEUE)",
        (VOTE + "test_a_lock_that_is_held", QUORUM + "TestOthers::test_a_foreign_client_on_a_majority"),
    ),
    (
        "a late vote takes the lock",
        "quorum",
        "lua/vote.lua",
        "if finished(token, state[2]) then",
        "if false then",
        VOTE + "test_given_back_before_it_was_taken",
    ),
    (
        "giving back forgets who waits",
        "quorum",
        "lua/abandon.lua",
        "if ARGV[4] == '1' and holds and call('EXISTS', QUEUE) == 0 then",
        "if ARGV[4] == '1' and holds then",
        VOTE + "test_given_back_while_others_wait",
    ),
    (
        "a minority is enough",
        "quorum",
        "ballot.py",
        "        if len(held) < self.majority:\n            return None\n",
        "        if not held:\n            return None\n        self.majority = 1\n",
        (FAIL + "test_three_of_five_killed", LEFT + "test_a_minority_is_given_back"),
    ),
    (
        "a master that restarted votes at once",
        "quorum",
        "master.py",
        "if up >= self.rejoin_after:",
        "if True:",
        FAIL + "test_one_restarted_empty",
    ),
    (
        "a minority of votes is kept",
        "quorum",
        "ballot.py",
        "        if now < self.hold_until(now):\n            return []\n",
        "        return []\n",
        BALLOT + "TestSplitVotes::test_a_minority_is_kept_for_a_moment_only",
    ),
    (
        "what a master was asked before it hung stays",
        "quorum",
        "master.py",
        "            self._debts.append((time.monotonic() + PATIENCE, call))\n",
        "",
        LEFT + "test_a_master_that_hung_settles_later",
    ),
    (
        "debts wait for the next request",
        "quorum",
        "master.py",
        "            self._come_back()\n        answered(reply)",
        "        answered(reply)",
        LEFT + "test_a_master_that_hung_settles_by_itself",
    ),
    (
        "an unknown renewal counts as a success",
        "quorum",
        "quorum.py",
        "result.append(1 if yes >= self.masters.majority else 0 if lost else None)",
        "result.append(1)",
        QUORUM + "TestRenewal::test_a_majority_that_is_gone",
    ),
    (
        "what failed is not given back",
        "quorum",
        "election.py",
        "            await self._abandon(wait=not isinstance(error, RedisUnavailable))\n            raise",
        "            raise",
        LEFT + "test_cancelled_while_waiting",
    ),
]
