"""Protections of waiting, holding and renewing, on the client's side."""

from __future__ import annotations

from tests.sabotage import Table

REPLIES = "tests/faults/test_lost_replies.py::"
CANCEL = "tests/faults/test_cancellation.py::"
STATE = "tests/faults/test_lost_state.py::"
PUSHES = "tests/faults/test_lost_pushes.py::"
DEAD = "tests/faults/test_dead_holders.py::"
FAIR = "tests/faults/test_fairness.py::"
SCRIPTS = "tests/faults/test_scripts_and_forks.py::"
LOOP = "tests/faults/test_event_loop.py::"
EDGES = "tests/faults/test_edges.py::"
SELF = "tests/selfcalls/test_check.py::"
OBJECTIONS = "tests/conformance/test_objections.py::"
RUNTIME = "tests/lock/test_runtime.py::"
CHECKUP = "tests/checkup/test_checkup.py::"
MISHAPS = "tests/faults/test_quorum_mishaps.py::"

SABOTAGE: Table = [
    (
        "a guard that is dropped keeps its connections",
        "leaks",
        "lock/operations.py",
        ("        runtimes.end_with(self)\n", "        twin._runtimes.end_with(twin)\n"),
        ("", ""),
        (
            RUNTIME + "test_a_guard_for_each_request",
            RUNTIME + "test_a_blocking_guard_for_each_request",
        ),
    ),
    (
        "a block that is over keeps its guard",
        "leaks",
        "lock/context.py",
        "        self._find_runtime = used_up\n",
        "",
        RUNTIME + "test_it_does_not_take_the_garbage_collector",
    ),
    (
        "a child closes what is its parent's",
        "leaks",
        "lock/runtime.py",
        "        if self.pid == os.getpid():  # what a fork inherited",
        "        if True:  # what a fork inherited",
        RUNTIME + "test_a_child_does_not_close_what_is_its_parents",
    ),
    (
        "a local waiter is told by the first reply only",
        6,
        "lock/context.py",
        "self._runtime.wakeup.look_after(self._request.keys)",
        "pass",
        REPLIES + "test_the_next_one_is_in_the_same_process",
    ),
    (
        "a cancelled acquire leaves without a word",
        7,
        "lock/acquire.py",
        "            await self._abandon(wait=not isinstance(error, RedisUnavailable))\n",
        "",
        (
            CANCEL + "test_uncontended",
            CANCEL + "test_queued_and_handed_over",
            CANCEL + "test_the_instant_of_handover",
            CANCEL + "test_while_the_request_is_on_its_way",
            CANCEL + "test_after_any_number_of_turns",
        ),
    ),
    (
        "leaving is cancelled with the caller",
        7,
        "lock/runtime.py",
        "        task = self.background(work)\n        task.add_done_callback(fetch_error)\n",
        "        if wait:\n            return await work\n"
        "        task = self.background(work)\n        task.add_done_callback(fetch_error)\n",
        (
            CANCEL + "test_while_it_connects_again",
            CANCEL + "test_a_conflict_at_the_release",
        ),
    ),
    (
        "what a cancelled release came to is nobody's business",
        8,
        "lock/context.py",
        "                await self._runtime.see_through(self._to_the_end(call))\n",
        "                await self._runtime.see_through(self._runtime.executor.run(call))\n",
        (
            CANCEL + "test_a_conflict_at_the_release",
            CANCEL + "test_the_holder_is_cancelled_while_it_hands_over",
        ),
    ),
    (
        "a failed body keeps its lock",
        8,
        "lock/context.py",
        "                else:\n                    await self._without_saving()\n",
        "",
        CANCEL + "test_a_cancelled_body_gives_the_lock_back",
    ),
    (
        "the holder is not told that its lock is gone",
        10,
        "lock/watchdog.py",
        "        if answer == 0:\n",
        "        if answer is None:\n",
        STATE + "test_the_holder_learns_of_it",
    ),
    (
        "nobody looks at the lease's end",
        14,
        "lock/waiting.py",
        "until = min(until, started + self.claim, max(self.room.lease_ends, now) + soon_after_expiry())",
        "until = min(until, started + self.claim)",
        (
            PUSHES + "test_the_only_push_is_lost",
            PUSHES + "test_pushes_vanish_on_the_way",
            DEAD + "test_the_holder_dies",
        ),
    ),
    (
        "nobody looks by itself",
        14,
        "lock/waiting.py",
        "        return told or self.foremost or ",
        "        return told or ",
        (
            PUSHES + "test_every_push_is_lost",
            PUSHES + "test_the_only_push_is_lost",
            PUSHES + "test_the_policy_looks_sooner",
            PUSHES + "test_subscribing_is_forbidden",
        ),
    ),
    (
        "who looks does not subscribe again",
        14,
        "lock/acquire.py",
        "        await self._listen()\n        return self._granted_or_queued",
        "        return self._granted_or_queued",
        (PUSHES + "test_the_push_connection_is_killed", PUSHES + "test_killed_while_it_looks"),
    ),
    (
        "being told to look is forgotten while looking",
        14,
        "lock/waiting.py",
        "        started = time.monotonic()\n        while self.handover is None and not self._look:\n",
        "        self._look = False\n"
        "        started = time.monotonic()\n        while self.handover is None and not self._look:\n",
        PUSHES + "test_killed_while_it_looks",
    ),
    (
        "a push that comes early is thrown away",
        14,
        "lock/waiting.py",
        "        elif push.token in self._expected:\n            self._expected[push.token] = push\n",
        "",
        PUSHES + "test_the_push_overtakes_the_reply",
    ),
    (
        "a holder trusts its lease until Redis answers",
        14,
        "lock/watchdog.py",
        "            if now >= watched.lease.trusted_until:\n"
        "                self._lost(watched, now)\n            elif",
        "            if",
        PUSHES + "test_the_server_pauses",
    ),
    (
        "looking at the lease's end is spread over two seconds",
        15,
        "lock/waiting.py",
        "return random.uniform(SOONEST_AFTER_EXPIRY, LATEST_AFTER_EXPIRY)",
        "return random.uniform(SOONEST_AFTER_EXPIRY, 2.0)",
        DEAD + "test_the_holder_dies",
    ),
    (
        "what a waiter heard last of the lease is not kept",
        15,
        "lock/waiting.py",
        'self.room.lease_ends = float("inf") if left is None else self.last_heard + left',
        "self.room.lease_ends = self.room.lease_ends or self.last_heard + (left or 0) + 60",
        DEAD + "test_the_holder_dies_after_it_has_renewed",
    ),
    (
        "a waiter may miss a whole claim",
        16,
        "lock/waiting.py",
        "until = min(until, started + self.claim, max(",
        "until = min(until, max(",
        DEAD + "test_a_claim_shorter_than_the_waiters_pauses",
    ),
    (
        "a waiter that was passed by comes back as a newcomer",
        17,
        "lock/acquire.py",
        'ticket=last.ticket if last is not None else "0",',
        'ticket="0",',
        (
            FAIR + "test_a_stopped_waiter_whose_claim_ran_out",
            FAIR + "test_a_waiter_whose_push_connection_is_cut",
        ),
    ),
    (
        "a waiter that is not the foremost is never heard of again",
        17,
        "lock/waiting.py",
        (
            "until = min(started + seconds, self.last_heard + HEARD_OF_EVERY)",
            "return told or self.foremost or time.monotonic() - self.last_heard >= HEARD_OF_EVERY",
        ),
        ("until = started + seconds", "return told or self.foremost"),
        FAIR + "test_a_patient_waiter_is_not_taken_for_dead",
    ),
    (
        "every waiter looks for itself",
        18,
        "lock/waiting.py",
        "return self.room.foremost() is self",
        "return True",
        (FAIR + "test_only_the_foremost_of_a_process_looks",),
    ),
    (
        "a child goes on with its parent's connections",
        21,
        "guard.py",
        "if runtime is None or runtime.loop is not loop or self._runtimes.pid != os.getpid():",
        "if runtime is None:",
        (
            SCRIPTS + "test_a_fork_after_the_guard_was_used",
            SCRIPTS + "test_a_fork_while_the_loop_runs",
        ),
    ),
    (
        "a child goes on with the connections of its parent's client",
        21,
        "lock/one_store.py",
        "self.client: Any = own_client(client)",
        "self.client: Any = client",
        SCRIPTS + "test_a_fork_and_the_clients_own_connections",
    ),
    (
        "the end of a lock does not look whether it was lost",
        22,
        "lock/blocks.py",
        "loss = self._loss(fence) if ended_by_loss or lease.is_lost or refused else None",
        "loss = self._loss(fence) if ended_by_loss else None",
        LOOP + "test_a_lock_alone_tells_when_the_loop_was_blocked",
    ),
    (
        "a lease that is over says nothing when asked",
        22,
        "lease.py",
        "            raise LeaseLost(self.why_lost()).about(self.name)\n",
        "            pass\n",
        LOOP + "test_a_lease_can_be_asked_after_blocking",
    ),
    (
        "nobody tells a body that its time is over",
        22,
        "lock/watchdog.py",
        "if now >= watched.lease.trusted_until:",
        "if False:",
        LOOP + "test_a_body_that_was_blocked_goes_no_further",
    ),
    (
        "max_hold does not count",
        23,
        "lock/watchdog.py",
        (
            "return wanted and now < self.lease.hold_until and now < self.lease.trusted_until",
            "return max(1, min(self.policy.ttl_ms, int((self.lease.hold_until - now) * 1000)))",
        ),
        ("return wanted and now < self.lease.trusted_until", "return self.policy.ttl_ms"),
        (LOOP + "test_a_hung_body_is_ended", LOOP + "test_a_hung_body_that_cannot_be_cancelled"),
    ),
    (
        "a lease is renewed also when nothing can be gained",
        23,
        "lock/watchdog.py",
        "watched.ended = ttl_ms < watched.policy.ttl_ms",
        "watched.ended = False",
        LOOP + "test_the_last_renewals_before_max_hold_are_few",
    ),
    (
        "a holder that was told of the loss may save within the margin",
        23,
        "lock/context.py",
        "            if self._the_lease.is_lost:\n                kept = False\n",
        "            if False:\n                kept = False\n",
        LOOP + "test_a_hung_body_that_is_only_told",
    ),
    (
        "any duration will do",
        28,
        "policies.py",
        "if not least <= value <= LONGEST:",
        "if False:",
        (EDGES + "test_no_duration", EDGES + "test_no_wait"),
    ),
    (
        "any margin will do",
        28,
        "policies.py",
        "elif not 0 <= self.safety_margin < self.ttl:",
        "elif False:",
        EDGES + "test_no_safety_margin",
    ),
    (
        "a lease is trusted until Redis says otherwise",
        28,
        "lock/watchdog.py",
        "if now >= watched.lease.trusted_until:",
        "if False:",
        EDGES + "test_a_lease_shorter_than_its_renewal",
    ),
    (
        "only the own loop's holds are known",
        "self-call",
        "lock/holders.py",
        "[reference() for reference in _all.valuerefs()]",
        "[reference() for reference in _all.valuerefs()][-1:]",
        SELF + "test_held_by_another_loop_of_this_process",
    ),
    (
        "a parent's holds are taken for the child's",
        "self-call",
        "lock/holders.py",
        "held_as == label and self._pid == os.getpid() else",
        "held_as == label else",
        SELF + "test_what_is_held_here",
    ),
    (
        "an objection is not raised",
        "self-call",
        "lock/self_call.py",
        "            self._asking.result()\n",
        "            pass\n",
        OBJECTIONS + "test_an_objection_ends_the_wait",
    ),
    (
        "the question outlives the wait",
        "self-call",
        "lock/self_call.py",
        "        if self._asking is not None:\n            self._asking.cancel()\n",
        "",
        (
            OBJECTIONS + "test_a_grant_comes_before_an_objection",
            OBJECTIONS + "test_a_waiter_that_is_cancelled_while_it_asks",
        ),
    ),
    (
        "a holder's save gives up as soon as everybody's",
        "merge",
        "lock/context.py",
        "MOST_MERGES = 100",
        "MOST_MERGES = 10",
        "tests/session/test_engines.py::test_a_holder_among_many_writers",
    ),
    (
        "the masters of a quorum are not looked at",
        "capabilities",
        "quorum/topology.py",
        "        if check:\n",
        "        if False:\n",
        (CHECKUP + "test_every_master_of_a_quorum", CHECKUP + "test_masters_of_a_quorum_that_permit_no_scripts"),
    ),
    (
        "closing waits for the look at a hung master",
        "capabilities",
        "quorum/topology.py",
        "        await self._vetting.aclose()\n",
        "        await self._vetting._looking\n",
        CHECKUP + "test_a_hung_master_of_a_quorum_delays_nothing",
    ),
    (
        "a lease that is being given up is renewed",
        "quorum",
        "lock/blocks.py",
        "self._runtime.watchdog.forget(lease)  # a renewal",
        "# a renewal",
        MISHAPS + "test_renewed_while_it_is_given_up",
    ),
]
