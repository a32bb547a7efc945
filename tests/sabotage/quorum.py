"""Protections of a quorum: the vector, the majority, masters that forget or hang, votes that come late."""

from __future__ import annotations

from tests.sabotage import Table

QUORUM = "tests/quorum/test_quorum.py::"
INSTALL = "tests/protocol/test_install.py::"
VOTE = "tests/protocol/test_vote.py::"
FAIL = QUORUM + "TestMastersThatFail::"
LEFT = QUORUM + "TestWhatIsLeftBehind::"
BALLOT = "tests/quorum/test_ballot.py::"
LOCKS = "tests/quorum/test_locks.py::"
MISHAPS = "tests/faults/test_quorum_mishaps.py::"

SABOTAGE: Table = [
    (
        "the store does not compare the counters",
        "quorum",
        "protocol/lua/install.lua",
        "if not known or known <= tonumber(counter) then",
        "if true then",
        (INSTALL + "test_an_older_vector", QUORUM + "TestLateHolders::test_a_late_load"),
    ),
    (
        "a vote goes before those who wait",
        "quorum",
        "protocol/lua/vote.lua",
        "call('EXISTS', LOCK, QUEUE)",
        "call('EXISTS', LOCK)",
        VOTE + "test_others_wait",
    ),
    (
        "a vote takes what is held",
        "quorum",
        "protocol/lua/vote.lua",
        "call('EXISTS', LOCK, QUEUE)",
        "call('EXISTS', QUEUE)",
        (VOTE + "test_a_lock_that_is_held", QUORUM + "TestOthers::test_a_foreign_client_on_a_majority"),
    ),
    (
        "a late vote takes the lock",
        "quorum",
        "protocol/lua/vote.lua",
        "local answer = repeated(token, last.done)\n",
        "local answer = nil\n",
        VOTE + "test_given_back_before_it_was_taken",
    ),
    (
        "a minority is enough",
        "quorum",
        "quorum/ballot.py",
        "        if len(held) < self.majority:\n            return None\n",
        "        if not held:\n            return None\n        self.majority = 1\n",
        (FAIL + "test_three_of_five_killed", LEFT + "test_a_minority_is_given_back"),
    ),
    (
        "a master that restarted votes at once",
        "quorum",
        "quorum/connection.py",
        "if up >= self._rejoin_after:",
        "if True:",
        FAIL + "test_one_restarted_empty",
    ),
    (
        "a minority of votes is kept",
        "quorum",
        "quorum/ballot.py",
        "        if now < self.hold_until(now):\n            return []\n",
        "        return []\n",
        BALLOT + "TestSplitVotes::test_a_minority_is_kept_for_a_moment_only",
    ),
    (
        "what a master was asked before it hung stays",
        "quorum",
        "quorum/debts.py",
        "            self.owed.append(call)\n",
        "",
        LEFT + "test_a_master_that_hung_settles_by_itself",
    ),
    (
        "debts wait for the next request",
        "quorum",
        "quorum/debts.py",
        "            self._come_back()\n        answered(reply)",
        "        answered(reply)",
        LEFT + "test_a_master_that_hung_settles_by_itself",
    ),
    (
        "an unknown renewal counts as a success",
        "quorum",
        "quorum/router.py",
        "result.append(1 if yes >= self.masters.majority else 0 if lost else None)",
        "result.append(1)",
        QUORUM + "TestRenewal::test_a_majority_that_is_gone",
    ),
    (
        "what failed is not given back",
        "quorum",
        "quorum/acquisition.py",
        "            await self._abandon(leaves_within(error, self._contest.request, self._contest.began))\n"
        "            raise",
        "            raise",
        LEFT + "test_cancelled_while_waiting",
    ),
    (
        "masters that number differently are not told the highest",
        "quorum",
        "quorum/acquisition.py",
        "if won.agreed < self._contest.masters.majority and",
        "if False and",
        (
            LOCKS + "TestFences::test_grow_when_the_master_with_the_highest_dies",
            LOCKS + "TestFences::test_grow_whatever_is_lost",
        ),
    ),
    (
        "a fence is raised after the lock was lost",
        "quorum",
        "protocol/lua/raise_fence.lua",
        "if call('GET', LOCK) ~= ARGV[1] then",
        "if false then",
        (VOTE + "TestRaisedFence", LOCKS + "TestFences::test_a_majority_that_is_lost_before_it_agreed"),
    ),
    (
        "a proposed counter may be below one that was given",
        "quorum",
        "protocol/lua/vote.lua",
        "and proposed > (number_in(last.fence) or 0) then",
        "then",
        VOTE + "test_a_counter_that_was_proposed",
    ),
    (
        "a proposed counter may be far ahead of the clock",
        "quorum",
        "protocol/lua/vote.lua",
        "and proposed <= now + NEAR_US",
        "",
        VOTE + "test_a_proposal_by_a_clock_that_is_wrong",
    ),
    (
        "a lock that was taken by force ends as if it had been held",
        "quorum",
        "quorum/router.py",
        "if len(gone) > others:",
        "if False:",
        LOCKS + "TestHolding::test_taken_by_force",
    ),
    (
        "a master owes what it was not asked for",
        "quorum",
        "quorum/debts.py",
        "return isinstance(call, Dismiss) or call.token in self.perhaps_here  #",
        "return True  #",
        FAIL + "test_calls_to_one_that_hangs_do_not_pile_up",
    ),
    (
        "what a vote is given up by overtakes it while the connection is opened",
        "quorum",
        "quorum/connection.py",
        "for use, _ in arriving:",
        "for use, _ in reversed(arriving):",
        LOCKS + "TestHolding::test_given_up_while_the_connection_is_opened",
    ),
    (
        "a fence that is ahead of the clock is forgotten",
        "quorum",
        "protocol/lua/raise_fence.lua",
        "keep_mortal(math.ceil(math.max(0, fence - server_time()) / 1000) + SHELL_MS)",
        "",
        VOTE + "TestRaisedFence::test_it_is_remembered_until_the_clock_has_come_as_far",
    ),
    (
        "a fence counts as known where the vote did not count",
        "quorum",
        "quorum/acquisition.py",
        "members = {name for name, _ in won.vector}",
        "members = {master.name for master in masters.all}",
        LOCKS + "TestFences::test_a_majority_that_is_not_the_one_that_won",
    ),
    (
        "what gives a vote up does not wait where the vote waits",
        "quorum",
        "quorum/connection.py",
        "elif late and self._opening is not None:",
        "elif False:",
        MISHAPS + "test_given_up_while_a_lost_connection_is_opened_again",
    ),
    (
        "locks alone are renewed with the sessions",
        "quorum",
        "quorum/router.py",
        "return ALONE if self._result(token).without_store else self.store.group(keys, token)",
        "return self.store.group(keys, token)",
        MISHAPS + "test_the_store_goes_while_sessions_are_renewed",
    ),
    (
        "the first majority of answers tells who holds it",
        "quorum",
        "quorum/router.py",
        "return most >= self.masters.majority or most + len(self.masters.all) - len(answers) < self.masters.majority",
        "return self._a_majority(answers)",
        MISHAPS + "test_a_bare_majority_is_seen",
    ),
    (
        "closing breaks what is under way",
        "quorum",
        "quorum/connection.py",
        "if not wire.idle:\n",
        "if False:\n",
        "tests/quorum/test_connection.py::test_closing_lets_what_is_under_way_end",
    ),
    (
        "a master that refuses owes what it refused",
        "quorum",
        "quorum/debts.py",
        "if isinstance(reply, VoteRefused):",
        "if False:",
        MISHAPS + "test_a_master_that_refuses",
    ),
    (
        "a lease lives by a master to which a give-back is on its way",
        "quorum",
        "quorum/acquisition.py",
        "spoiled = self._election.poll.ballot.spoiled()",
        "spoiled: frozenset[str] = frozenset()",
        MISHAPS + "test_a_give_back_that_is_still_on_its_way",
    ),
]
