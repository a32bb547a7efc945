"""Protections of the queue's order, and against forgotten scripts, forks, blocked loops, races at the end, and edges.

name, number of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

FAIR = "tests/attacks/test_fairness.py::"
SCRIPTS = "tests/attacks/test_scripts_and_forks.py::"
LOOP = "tests/attacks/test_event_loop.py::"
RACES = "tests/attacks/test_release_races.py::"
EDGES = "tests/attacks/test_edges.py::"
TABLES = "tests/protocol/test_tables.py::"
SELF = "tests/integrations/test_self_calls.py::"
PEERS = "tests/unit/test_peers.py::"
OBJECTIONS = "tests/conformance/test_objections.py::"

LOCK_CHECK = "if call('GET', LOCK) ~= token then\n"
FENCE_CHECK = "if (number_in(state.fence) or 0) > tonumber(fence) then\n"
NEVER = "if false then\n"

Texts: TypeAlias = "str | tuple[str, ...]"

SABOTAGE: list[tuple[str, int | str, str, Texts, Texts, Texts]] = [
    # 17: a slow but live waiter
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
        "a lock that was handed over lapses at once",
        17,
        "protocol/lua/_queue.lua",
        "local fence = grant(head, claim, 'claim'",
        "local fence = grant(head, 1, 'claim'",
        FAIR + "test_a_stopped_waiter_that_is_back_within_its_claim",
    ),
    # 18: a herd
    (
        "every waiter looks for itself",
        18,
        "lock/waiting.py",
        "return self.room.foremost() is self",
        "return True",
        (FAIR + "test_only_the_foremost_of_a_process_looks",),
    ),
    # 19: barging
    (
        "who finds the lock free takes it",
        19,
        "protocol/lua/acquire.lua",
        "  local head, fence = hand_over(token,",
        "  leave_queue(token)\n  local head, fence = (function() end)(token,",
        FAIR + "test_a_newcomer_never_overtakes",
    ),
    (
        "last come, first served",
        19,
        "protocol/lua/_queue.lua",
        "call('ZPOPMIN', QUEUE)",
        "call('ZPOPMAX', QUEUE)",
        (
            FAIR + "test_a_releaser_that_asks_again_goes_last",
            FAIR + "test_first_come_first_served_over_two_processes",
            FAIR + "test_a_newcomer_never_overtakes",
        ),
    ),
    # 20: scripts are forgotten
    (
        "NOSCRIPT is an error like another",
        20,
        "transport/link.py",
        'if str(reply).startswith("NOSCRIPT"):',
        "if False:",
        (
            SCRIPTS + "test_scripts_are_forgotten_before_every_call",
            SCRIPTS + "test_scripts_are_forgotten_amid_a_pipeline",
            SCRIPTS + "test_scripts_are_forgotten_all_the_time",
        ),
    ),
    (
        "NOSCRIPT is an error like another, through the client",
        20,
        "transport/one_server.py",
        "except NoScriptError:",
        "except ZeroDivisionError:",
        SCRIPTS + "test_scripts_are_forgotten_behind_a_client_of_another_kind",
    ),
    # 21: forks
    (
        "a child goes on with its parent's connections",
        21,
        "guard.py",
        "if runtime is None or runtime.loop is not loop or runtime.pid != os.getpid():",
        "if runtime is None:",
        (
            SCRIPTS + "test_a_fork_after_the_guard_was_used",
            SCRIPTS + "test_a_fork_while_the_loop_runs",
        ),
    ),
    (
        "a child goes on with the connections of its parent's client",
        21,
        "lock/runtime.py",
        "self.client = own_client(client)",
        "self.client = client",
        SCRIPTS + "test_a_fork_and_the_clients_own_connections",
    ),
    (
        "a child keeps its parent's connections open",
        21,
        "transport/wire.py",
        "os.register_at_fork(after_in_child=_let_go_after_fork)",
        "pass",
        SCRIPTS + "test_a_parent_that_dies_before_its_child",
    ),
    # 22: a blocked event loop
    (
        "a release is not bound to the lock",
        22,
        "protocol/lua/release.lua",
        LOCK_CHECK,
        NEVER,
        LOOP + "test_the_loop_was_blocked_beyond_the_lease",
    ),
    (
        "the end of a lock does not look whether it was lost",
        22,
        "lock/context.py",
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
        "a release is bound neither to the lock nor to the fence",
        22,
        "protocol/lua/release.lua",
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, NEVER),
        LOOP + "test_the_loop_was_blocked_while_another_process_saved",
    ),
    (
        "a save is not bound to the lock",
        22,
        "protocol/lua/save.lua",
        LOCK_CHECK,
        NEVER,
        (
            LOOP + "test_a_save_amid_a_body_that_was_blocked",
            LOOP + "test_a_change_saved_at_once_after_blocking",
        ),
    ),
    (
        "nobody tells a body that its time is over",
        22,
        "lock/watchdog.py",
        "if now >= watched.lease.trusted_until:",
        "if False:",
        LOOP + "test_a_body_that_was_blocked_goes_no_further",
    ),
    # 23: a hung body
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
    # 24: a renewal and the release
    (
        "a renewal extends whoever's lock",
        24,
        "protocol/lua/renew.lua",
        "  if redis.call('GET', lock) ~= token then\n",
        "  if false then\n",
        (
            RACES + "test_a_renewal_and_the_end_of_its_lease_in_any_order",
            RACES + "test_ends_of_a_lease_in_any_order",
        ),
    ),
    (
        "a renewal takes a free lock",
        24,
        "protocol/lua/renew.lua",
        "    reply[n] = 0\n",
        "    reply[n] = 0\n    redis.call('SET', lock, token, 'NX', 'PX', ttl)\n",
        (
            RACES + "test_a_renewal_and_the_end_of_its_lease_in_any_order",
            RACES + "test_ends_of_a_lease_in_any_order",
            RACES + "test_a_renewal_and_the_release_on_the_wire[release]",
        ),
    ),
    (
        "what has ended can be acquired again",
        24,
        "protocol/lua/acquire.lua",
        "if finished(token, state['#commit']) then\n",
        NEVER,
        RACES + "test_ends_of_a_lease_in_any_order",
    ),
    # 25: forced releases
    (
        "a forced release takes the lock from whoever has it",
        25,
        "protocol/lua/force_release.lua",
        LOCK_CHECK,
        NEVER,
        (
            RACES + "test_of_ten_forced_releases_one_wins",
            RACES + "test_forced_releases_of_an_older_holder",
        ),
    ),
    (
        "nobody tells a holder that its lock was taken",
        25,
        "protocol/lua/force_release.lua",
        "  push(channel, 'L ' .. token)\n",
        "",
        RACES + "test_of_ten_forced_releases_one_wins",
    ),
    # 26: destroyed under the lock
    (
        "a release does not see the tombstone",
        26,
        "protocol/lua/release.lua",
        "if state.destroyed then\n",
        NEVER,
        RACES + "test_a_session_destroyed_under_its_lock[at the end-True]",
    ),
    (
        "a release for a new session does not see the tombstone",
        26,
        "protocol/lua/release.lua",
        "if state.destroyed then\n",
        NEVER,
        RACES + "test_a_session_destroyed_under_its_lock[at the end-False]",
    ),
    (
        "a save does not see the tombstone",
        26,
        "protocol/lua/save.lua",
        "if state.destroyed then\n",
        NEVER,
        RACES + "test_a_session_destroyed_under_its_lock[amid-False]",
    ),
    (
        "an increment does not see the tombstone",
        26,
        "protocol/lua/incr.lua",
        "if state.destroyed then\n",
        NEVER,
        RACES + "test_a_session_destroyed_under_its_lock[as incr-False]",
    ),
    (
        "a commit does not see the tombstone",
        26,
        "protocol/lua/commit.lua",
        "if state.destroyed then\n",
        NEVER,
        RACES + "test_a_save_without_the_lock_after_destroying",
    ),
    (
        "a tombstone ends before the lock",
        26,
        "protocol/lua/destroy.lua",
        "math.max(tonumber(ARGV[1]), call('PTTL', LOCK))",
        "ARGV[1]",
        RACES + "test_a_tombstone_that_ends_before_the_holder[False]",
    ),
    (
        "nobody tells the waiters that it was destroyed",
        26,
        "protocol/lua/destroy.lua",
        "  push(channel, 'D ' .. waiters[i])\n",
        "",
        RACES + "test_waiters_are_told_at_once_that_it_was_destroyed",
    ),
    # 28: edges of time
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
        "a late release is not refused",
        28,
        "protocol/lua/release.lua",
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, NEVER),
        EDGES + "test_a_round_trip_longer_than_the_lease",
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
        "a claim counts from the arrival of its push",
        28,
        "protocol/replies.py",
        "start = now - push.claim if seen_us is None else min(now, seen_at + (push.server_us - seen_us) / 1e6)",
        "start = now",
        (
            TABLES + "test_how_long_a_push_is_trusted",
            TABLES + "test_the_servers_clock_jumps",
            TABLES + "test_a_push_before_any_reply_is_not_trusted",
        ),
    ),
    # 29: fences near 2^53
    (
        "fences go on beyond 2^53",
        29,
        "protocol/lua/_queue.lua",
        "  if number >= LARGEST then\n",
        "  if false then\n",
        (
            EDGES + "test_fences_up_to_their_end",
            EDGES + "test_fences_beyond_their_end",
            EDGES + "test_tickets_run_out",
        ),
    ),
    (
        "a hand-over does not see that there is no fence left",
        29,
        "protocol/lua/_queue.lua",
        "not exhausted(last_fence, now) and call('ZPOPMIN', QUEUE)[1]",
        "call('ZPOPMIN', QUEUE)[1]",
        EDGES + "test_fences_run_out_in_a_hand_over",
    ),
    (
        "numbers leave the scripts rounded",
        29,
        "protocol/lua/_base.lua",
        "'%.0f'",
        "'%.14g'",
        EDGES + "test_fences_up_to_their_end",
    ),
    (
        "anything counts as a fence",
        29,
        "protocol/lua/_base.lua",
        "  return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) or nil\n",
        "  return tonumber(text)\n",
        EDGES + "test_a_fence_that_nobody_gave_out",
    ),
    # the tables
    (
        "create overwrites",
        "table",
        "protocol/lua/create.lua",
        "if state.created or state.destroyed or state.id then\n",
        NEVER,
        TABLES + "test_row[create-never-overwrites]",
    ),
    (
        "a conflict gives the lock up",
        "table",
        "protocol/lua/release.lua",
        "if refusal and refusal[1] == 'conflict' then\n    return refusal",
        "if refusal and refusal[1] == 'conflict' then\n    call('DEL', LOCK)\n    return refusal",
        TABLES + "test_row[a-conflict-keeps-the-lock]",
    ),
    (
        "a delta revives part of a record that is gone",
        "table",
        "protocol/lua/_commit.lua",
        "if state.created ~= created then\n",
        NEVER,
        TABLES + "test_row[the-record-is-gone-and-came-again]",
    ),
    (
        "a publish count of 0 means nothing",
        "table",
        "protocol/lua/_queue.lua",
        "if push(channel, message, deaf) > 0 then\n",
        "if push(channel, message, deaf) >= 0 then\n",
        TABLES + "test_row[hand-over-to-dead-waiters]",
    ),
    # an application that calls itself
    (
        "who calls itself waits for itself",
        "self-call",
        "selfcalls/check.py",
        "if await _found_out(lambda: is_on_this_host(peer) and is_of_process(peer, pid)):\n",
        "if False:\n",
        (
            SELF + "test_held_by_this_process",
            SELF + "test_a_decorated_view",
            SELF + "test_a_decorated_view_in_a_thread",
        ),
    ),
    (
        "the look-up waits for a thread that a self-call occupies",
        "self-call",
        "selfcalls/check.py",
        'threading.Thread(target=run, name="sessionlock-self-call", daemon=True).start()',
        "loop.run_in_executor(None, run)",
        SELF + "test_while_all_threads_wait",
    ),
    (
        "an error of the look-up ends the request",
        "self-call",
        "selfcalls/check.py",
        ("with suppress(Exception):\n", "except Exception:\n        return None\n"),
        ("with suppress(ValueError):\n", "except ValueError:\n        return None\n"),
        SELF + "test_what_goes_wrong_while_it_is_found_out",
    ),
    (
        "only the own loop's holds are known",
        "self-call",
        "lock/runtime.py",
        "for runtime in runtimes if runtime is not None)\n",
        "for runtime in runtimes if runtime is not None and runtime.loop is asyncio.get_running_loop())\n",
        SELF + "test_held_by_another_loop_of_this_process",
    ),
    (
        "everything on this host is taken for the holder",
        "self-call",
        "selfcalls/sockets.py",
        "return _has(pid, theirs)",
        "return True",
        (PEERS + "test_a_socket_of_another_process", PEERS + "test_a_port_that_is_in_use_towards_two_servers"),
    ),
    (
        "any connection from the client's port is taken for the request's",
        "self-call",
        "selfcalls/sockets.py",
        "            if _has(os.getpid(), ours):\n                return _has(pid, theirs)\n",
        "            if _has(pid, theirs):\n                return True\n",
        PEERS + "test_a_port_that_is_in_use_towards_two_servers",
    ),
    (
        "a parent's holds are taken for the child's",
        "self-call",
        "lock/runtime.py",
        "self._prefix == keys.prefix and self.pid == os.getpid() else",
        "self._prefix == keys.prefix else",
        SELF + "test_what_is_held_here",
    ),
    (
        "whoever holds later is taken for whom the wait began for",
        "self-call",
        "selfcalls/check.py",
        "    if token is not None and held_here(wanted.keys, holder.label) != token:\n",
        "    if False:\n",
        SELF + "test_short_holds_of_this_process",
    ),
    (
        "an objection is not raised",
        "self-call",
        "lock/acquire.py",
        "            self._asking.result()\n",
        "            pass\n",
        OBJECTIONS + "test_an_objection_ends_the_wait",
    ),
    (
        "the question outlives the wait",
        "self-call",
        "lock/acquire.py",
        "        if self._asking is not None:\n            self._asking.cancel()\n",
        "",
        (
            OBJECTIONS + "test_a_grant_comes_before_an_objection",
            OBJECTIONS + "test_a_waiter_that_is_cancelled_while_it_asks",
        ),
    ),
]
