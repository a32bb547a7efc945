"""Protections against pauses, late calls, lost replies, cancellation, lost state, lost pushes and dead holders.

name, number of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

PAUSES = "tests/attacks/test_pauses.py::"
LATE = "tests/attacks/test_late_calls.py::"
REPLIES = "tests/attacks/test_lost_replies.py::"
CANCEL = "tests/attacks/test_cancellation.py::"
STATE = "tests/attacks/test_lost_state.py::"
PUSHES = "tests/attacks/test_lost_pushes.py::"
DEAD = "tests/attacks/test_dead_holders.py::"

LOCK_CHECK = "if call('GET', LOCK) ~= token then\n"
FENCE_CHECK = "if (number_in(state.fence) or 0) > tonumber(fence) then\n"
CHECKS = (LOCK_CHECK, FENCE_CHECK)
NEVER = "if false then\n"
RENEW_CHECK = "  if redis.call('GET', lock) ~= token then\n"
NEXT_NUMBER = "  local number = math.max((number_in(last) or 0) + 1, now)\n"

Texts: TypeAlias = "str | tuple[str, ...]"

SABOTAGE: list[tuple[str, int, str, Texts, Texts, Texts]] = [
    # 1, 2: pauses
    (
        "a save is not bound to the lock or the fence",
        1,
        "protocol/lua/release.lua",
        CHECKS,
        (NEVER, NEVER),
        (
            PAUSES + "test_a_late_save_is_refused",
            PAUSES + "test_a_late_save_is_refused_though_nobody_came",
            PAUSES + "test_a_pause_between_check_and_write",
        ),
    ),
    (
        "a save is bound to the fence only",
        1,
        "protocol/lua/release.lua",
        LOCK_CHECK,
        NEVER,
        PAUSES + "test_a_late_save_is_refused_though_nobody_came",
    ),
    (
        "an immediate save is not bound to the lock or the fence",
        1,
        "protocol/lua/save.lua",
        CHECKS,
        (NEVER, NEVER),
        (
            PAUSES + "test_a_late_immediate_save_is_refused",
            PAUSES + "test_a_pause_before_an_immediate_save",
        ),
    ),
    (
        "the client checks, the store does not",
        2,
        "protocol/lua/release.lua",
        CHECKS,
        (NEVER, NEVER),
        PAUSES + "test_a_pause_between_check_and_write",
    ),
    (
        "a renewal extends whatever lock there is",
        2,
        "protocol/lua/renew.lua",
        RENEW_CHECK,
        "  if not redis.call('GET', lock) then\n",
        (PAUSES + "test_a_pause_before_a_renewal", LATE + "test_a_delayed_renewal"),
    ),
    (
        "a renewal takes a free lock anew",
        2,
        "protocol/lua/renew.lua",
        RENEW_CHECK,
        "  redis.call('SET', lock, token, 'PX', ttl, 'NX')\n" + RENEW_CHECK,
        PAUSES + "test_a_late_renewal_takes_nothing",
    ),
    # 3, 4: late calls
    (
        "a late release is carried out",
        3,
        "protocol/lua/release.lua",
        CHECKS,
        (NEVER, NEVER),
        (
            LATE + "test_a_delayed_release",
            LATE + "test_a_delayed_release_when_nobody_holds",
            LATE + "test_a_duplicated_release",
        ),
    ),
    (
        "a late immediate save is carried out",
        3,
        "protocol/lua/save.lua",
        CHECKS,
        (NEVER, NEVER),
        LATE + "test_a_delayed_immediate_save",
    ),
    (
        "leaving gives up whoever holds",
        3,
        "protocol/lua/abandon.lua",
        "if not holds then\n",
        NEVER,
        (LATE + "test_a_delayed_abandon", REPLIES + "test_a_lost_leave_taking"),
    ),
    (
        "a finished acquisition may begin again",
        3,
        "protocol/lua/acquire.lua",
        "if finished(token, state['#commit']) then\n  return {'finished'}",
        "if false then\n  return {'finished'}",
        (
            LATE + "test_a_delayed_acquire",
            LATE + "test_an_older_acquisition_is_replayed",
            CANCEL + "test_the_request_overtaken_by_its_own_cancellation",
        ),
    ),
    (
        "only the last acquisition is known to be finished",
        4,
        "protocol/lua/_*.lua",
        "  call('ZADD', RECEIPTS, digits(score), other)\n",
        "",
        (
            LATE + "test_an_older_acquisition_is_replayed",
            REPLIES + "test_already_done_however_many_came_since",
        ),
    ),
    (
        "an older acquisition may save",
        4,
        "protocol/lua/release.lua",
        CHECKS,
        (NEVER, NEVER),
        (
            LATE + "test_an_older_acquisition_is_replayed",
            LATE + "test_an_older_acquisition_that_was_lost_is_replayed",
        ),
    ),
    # 5, 6: lost replies
    (
        "the holder asking again is a stranger",
        5,
        "protocol/lua/acquire.lua",
        "if held == token then\n",
        NEVER,
        (
            REPLIES + "test_acquire_gets_the_same_grant",
            REPLIES + "test_acquire_survives_lost_replies_and_requests",
            REPLIES + "test_a_handed_over_grant_is_confirmed_once_more",
        ),
    ),
    (
        "the holder asking again is granted anew",
        5,
        "protocol/lua/acquire.lua",
        "  return granted(state['#fence'] or '0')\n",
        "  return granted(grant(token, ttl, 'held', channel, label, now, now_digits,"
        " state['#fence'], state['#created']))\n",
        (
            REPLIES + "test_acquire_gets_the_same_grant",
            REPLIES + "test_a_handed_over_grant_is_confirmed_once_more",
        ),
    ),
    (
        "the waiter asking again goes last",
        5,
        "protocol/lua/acquire.lua",
        "call('ZADD', QUEUE, 'NX', ticket, token)",
        "call('ZADD', QUEUE, ticket, token)",
        REPLIES + "test_a_queued_acquire_keeps_one_place",
    ),
    (
        "a release that was done before is lost",
        6,
        "protocol/lua/_*.lua",
        "  if finished(token, state[1]) then\n    return {'already'",
        "  if false then\n    return {'already'",
        (
            REPLIES + "test_save_and_release_was_already_done",
            REPLIES + "test_already_done_however_many_came_since",
            REPLIES + "test_a_lost_release_of_nothing",
        ),
    ),
    (
        "an immediate save is done each time it is asked for",
        6,
        "protocol/lua/save.lua",
        "if state.op == op then\n  return {'already', state.version, state.created}\nend\n",
        "",
        REPLIES + "test_an_immediate_save_is_done_once",
    ),
    (
        "what was created just now exists already",
        6,
        "protocol/lua/create.lua",
        "if state.created and finished(op, state.commit) then",
        "if false then",
        REPLIES + "test_a_new_session_is_created_once",
    ),
    (
        "a local waiter is told by the first reply only",
        6,
        "lock/context.py",
        "self._runtime.wakeup.look_after(self._wanted.keys)",
        "pass",
        REPLIES + "test_the_next_one_is_in_the_same_process",
    ),
    # 7, 8: cancellation
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
        "        task = self.background(work)\n        task.add_done_callback(_fetch_error)\n",
        "        if wait:\n            return await work\n"
        "        task = self.background(work)\n        task.add_done_callback(_fetch_error)\n",
        (
            CANCEL + "test_while_it_connects_again",
            CANCEL + "test_a_conflict_at_the_release",
        ),
    ),
    (
        "leaving writes no receipt",
        7,
        "protocol/lua/abandon.lua",
        "call('HSET', SESSION, '#commit', token .. ' ' .. now_digits)\n",
        "",
        CANCEL + "test_the_request_overtaken_by_its_own_cancellation",
    ),
    (
        "leaving stays in the queue",
        7,
        "protocol/lua/abandon.lua",
        "leave_queue(token)\n",
        "",
        CANCEL + "test_queued_and_handed_over",
    ),
    (
        "leaving drops the lock that others wait for",
        7,
        "protocol/lua/abandon.lua",
        "hand_over(nil, nil, push_limit, deaf, now, now_digits, state[1], state[3])",
        "call('DEL', LOCK)",
        CANCEL + "test_queued_and_handed_over",
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
    # 10, 12: lost state
    (
        "fences are counted only",
        10,
        "protocol/lua/_*.lua",
        NEXT_NUMBER,
        "  local number = (number_in(last) or 0) + 1\n",
        (
            STATE + "test_restarted_empty",
            STATE + "test_restarted_with_an_old_state",
        ),
    ),
    (
        "a lock that Redis lost is still good for saving",
        10,
        "protocol/lua/release.lua",
        LOCK_CHECK,
        NEVER,
        STATE + "test_restarted_empty_and_nobody_came",
    ),
    (
        "a lock is good although the fence is newer",
        10,
        "protocol/lua/release.lua",
        FENCE_CHECK,
        NEVER,
        STATE + "test_an_old_lock_with_a_newer_fence",
    ),
    (
        "a lock is good for immediate saves although the fence is newer",
        10,
        "protocol/lua/save.lua",
        FENCE_CHECK,
        NEVER,
        STATE + "test_an_old_lock_with_a_newer_fence",
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
        "waiters do not look when their connection ends",
        14,
        "transport/pushes.py",
        "        self._drop()\n        self._on_gap()\n\n    def _drop(self)",
        "        self._drop()\n\n    def _drop(self)",
        (
            PUSHES + "test_the_push_connection_is_killed",
            PUSHES + "test_killed_with_the_grant_in_it",
        ),
    ),
    (
        "fences begin anew when their key is lost",
        12,
        "protocol/lua/_*.lua",
        NEXT_NUMBER,
        "  local number = (number_in(last) or 0) + 1\n",
        (
            STATE + "test_the_fence_is_lost_between_requests",
            STATE + "test_the_fence_is_lost_while_somebody_holds",
            STATE + "test_fences_only_grow_whatever_is_lost",
        ),
    ),
    (
        "fences are the time only",
        12,
        "protocol/lua/_*.lua",
        NEXT_NUMBER,
        "  local number = now\n",
        STATE + "test_a_fence_ahead_of_the_clock_counts_on",
    ),
    # 14: lost pushes
    (
        "nobody looks at the lease's end",
        14,
        "lock/waiting.py",
        "until = min(until, started + self.claim, max(self.room.lease_ends, now) + spread)",
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
        "a push is trusted from when it is read",
        14,
        "protocol/replies.py",
        "    start = now - push.claim if seen_us is None else min(now, seen_at + (push.server_us - seen_us) / 1e6)\n",
        "    start = now\n",
        PUSHES + "test_a_push_that_is_read_too_late_is_not_trusted",
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
    # 15, 16: the dead
    (
        "looking at the lease's end is spread over two seconds",
        15,
        "lock/waiting.py",
        "spread = random.uniform(SOONEST_AFTER_EXPIRY, LATEST_AFTER_EXPIRY)",
        "spread = random.uniform(SOONEST_AFTER_EXPIRY, 2.0)",
        DEAD + "test_the_holder_dies",
    ),
    (
        "a lock has no end",
        15,
        "protocol/lua/_*.lua",
        "  call('SET', LOCK, token, 'PX', ttl_ms)\n",
        "  call('SET', LOCK, token)\n",
        (DEAD + "test_the_holder_dies", DEAD + "test_the_one_who_was_handed_the_lock_dies"),
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
        "a handed-over lock is held for the whole lease at once",
        15,
        "protocol/lua/_*.lua",
        "local fence = grant(head, claim, 'claim',",
        "local fence = grant(head, ttl, 'claim',",
        DEAD + "test_the_one_who_was_handed_the_lock_dies",
    ),
    (
        "the lock is handed to who does not hear it",
        16,
        "protocol/lua/_*.lua",
        "if push(channel, message, deaf) > 0 then",
        "if push(channel, message, deaf) >= 0 then",
        (DEAD + "test_any_number_of_dead_waiters", DEAD + "test_the_living_between_dead_ones"),
    ),
    (
        "each waiter of a hung process has a claim of its own",
        16,
        "protocol/lua/acquire.lua",
        "  if kind ~= 'claim' or finished(holder, state['#commit']) then\n",
        "  if true then\n",
        DEAD + "test_fifty_hung_waiters_cost_one_claim",
    ),
    (
        "a waiter may miss a whole claim",
        16,
        "lock/waiting.py",
        "until = min(until, started + self.claim, max(",
        "until = min(until, max(",
        DEAD + "test_a_claim_shorter_than_the_waiters_pauses",
    ),
]
