"""Protections of a quorum: the vector, the majority, masters that forget or hang, votes that come late. And of saves
that wait for replicas, and of the look at every master.

name, number of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

QUORUM = "tests/deployments/test_quorum.py::"
FAIL = QUORUM + "TestMastersThatFail::"
LEFT = QUORUM + "TestWhatIsLeftBehind::"
INSTALL = "tests/protocol/test_install.py::"
LOCKS = "tests/deployments/test_quorum_locks.py::"
VOTE = "tests/protocol/test_vote.py::"
BALLOT = "tests/protocol/test_ballot.py::"
CHECKUP = "tests/deployments/test_checkup.py::"
REPEATED = "tests/deployments/test_durability.py::test_a_repeated_save_is_judged_as_well"

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
        "            self._debts.append((until, call))\n",
        "",
        LEFT + "test_a_master_that_hung_settles_by_itself",
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
    (
        "a repeated save does not wait again",
        "durability",
        "executor.py",
        'if call.script != "destroy":  # which writes each time',
        "if False:",
        (REPEATED + "[release]", REPEATED + "[save]", REPEATED + "[commit]", REPEATED + "[create]"),
    ),
    (
        "a server without RESP3 is asked again and again",
        "capabilities",
        "executor.py",
        "hopeless = isinstance(error, AuthenticationError) or NO_RESP3.search(str(error))",
        "hopeless = isinstance(error, AuthenticationError)",
        CHECKUP + "test_a_client_that_insists_on_resp3",
    ),
    (
        "a holder's save gives up as soon as everybody's",
        "merge",
        "holding.py",
        "MOST_MERGES = 100",
        "MOST_MERGES = 10",
        "tests/sessions/test_engines.py::test_a_holder_among_many_writers",
    ),
    (
        "the masters of a quorum are not looked at",
        "capabilities",
        "runtime.py",
        "if also is not None and also.known() is None:",
        "if False:",
        CHECKUP + "test_every_master_of_a_quorum",
    ),
    (
        "one master of a cluster speaks for all",
        "capabilities",
        "survey.py",
        "if isinstance(route, ClusterRoute):",
        "if False:",
        CHECKUP + "test_every_master_of_a_cluster",
    ),
    (
        "closing waits for the look at a hung master",
        "capabilities",
        "runtime.py",
        "for look in (self._looking, self._looking_at_quorum):",
        "for look in (self._looking,):",
        CHECKUP + "test_a_hung_master_of_a_quorum_delays_nothing",
    ),
    (
        "a sharded push is sent where there is none",
        "cluster",
        "lua/_base.lua",
        "local heard = redis.pcall('SPUBLISH', channel, message)",
        "local heard = call('SPUBLISH', channel, message)",
        "tests/deployments/test_cluster_faults.py::test_without_sharded_pubsub",
    ),
    (
        "masters that number differently are not told the highest",
        "quorum",
        "election.py",
        "if won.agreed < self._masters.majority and",
        "if False and",
        (
            LOCKS + "TestFences::test_grow_when_the_master_with_the_highest_dies",
            LOCKS + "TestFences::test_grow_whatever_is_lost",
        ),
    ),
    (
        "a fence is raised after the lock was lost",
        "quorum",
        "lua/raise_fence.lua",
        "if call('GET', LOCK) ~= ARGV[1] then",
        "if false then",
        (VOTE + "TestRaisedFence", LOCKS + "TestFences::test_a_majority_that_is_lost_before_it_agreed"),
    ),
    (
        "a proposed counter may be below one that was given",
        "quorum",
        "lua/vote.lua",
        "and proposed > (number_in(last) or 0) then",
        "then",
        VOTE + "test_a_counter_that_was_proposed",
    ),
    (
        "a proposed counter may be far ahead of the clock",
        "quorum",
        "lua/vote.lua",
        "and proposed <= now + NEAR_US",
        "",
        VOTE + "test_a_proposal_by_a_clock_that_is_wrong",
    ),
    (
        "a lock that was taken by force ends as if it had been held",
        "quorum",
        "quorum.py",
        "if len(gone) > others:",
        "if False:",
        LOCKS + "TestHolding::test_taken_by_force",
    ),
    (
        "a master owes what it was not asked for",
        "quorum",
        "master.py",
        "elif (token is None or token in self._perhaps_here) and",
        "elif",
        FAIL + "test_calls_to_one_that_hangs_do_not_pile_up",
    ),
    (
        "what a vote is given up by overtakes it while the connection is opened",
        "quorum",
        "master.py",
        "self._arriving.append((use, answered))",
        "self._arriving.insert(0, (use, answered))",
        LOCKS + "TestHolding::test_given_up_while_the_connection_is_opened",
    ),
    (
        "a fence that is ahead of the clock is forgotten",
        "quorum",
        "lua/raise_fence.lua",
        "keep_mortal(math.ceil(math.max(0, fence - server_time()) / 1000) + SHELL_MS)",
        "",
        VOTE + "TestRaisedFence::test_it_is_remembered_until_the_clock_has_come_as_far",
    ),
    (
        "a fence counts as known where the vote did not count",
        "quorum",
        "election.py",
        "members = {name for name, _ in won.vector}",
        "members = set(self._by_name)",
        LOCKS + "TestFences::test_a_majority_that_is_not_the_one_that_won",
    ),
    (
        "who leaves while it subscribes stays subscribed",
        "cluster",
        "pushes.py",
        'shard.wire.tell(("SUNSUBSCRIBE", channel))  # who asked for it left meanwhile',
        "pass",
        "tests/deployments/test_cluster_pushes.py::test_who_is_cancelled_while_it_subscribes",
    ),
]
