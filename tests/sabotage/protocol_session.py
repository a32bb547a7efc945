"""Protections of the scripts that write a session, and of how their replies are read."""

from __future__ import annotations

from tests.sabotage import Table

PAUSES = "tests/faults/test_pauses.py::"
LATE = "tests/faults/test_late_calls.py::"
REPLIES = "tests/faults/test_lost_replies.py::"
STATE = "tests/faults/test_lost_state.py::"
PUSHES = "tests/faults/test_lost_pushes.py::"
LOOP = "tests/faults/test_event_loop.py::"
RACES = "tests/faults/test_release_races.py::"
EDGES = "tests/faults/test_edges.py::"
TABLES = "tests/protocol/test_tables.py::"
DONE = "tests/protocol/test_done.py::"
IDS = "tests/conformance/test_ids.py::"
SERIAL = "tests/session/test_serializable.py::"
VISIT = "tests/integrations/web/test_request_session.py::"

LOCK_CHECK = "if call('GET', LOCK) ~= token then\n"
RELEASE = "protocol/lua/[!f]*lease.lua"  # release.lua and _release.lua, but not force_release.lua
FENCE_CHECK = "  if current == fence then\n"  # a record that is gone, or a tombstone, is still noticed without it
UNFENCED = "  if true then\n"
SAVES_FENCE_CHECK = "if current ~= fence then\n"
NEVER = "if false then\n"
COMMIT = "protocol/lua/_commit.lua"
TOMBSTONE_CHECK = "  if state[1] then\n    return ended_word(state[2], state[1], now)\n"
WITHOUT_IT = "  if false then\n    return ended_word(state[2], state[1], now)\n"

SABOTAGE: Table = [
    (
        "many changes travel as words of their own",
        "limits",
        "protocol/changes.py",
        "MOST_APART = 500",
        "MOST_APART = 50_000",
        "tests/protocol/test_headers.py::test_no_request_has_more_words_than_any_server_takes",
    ),
    (
        "many changes in one word are not taken apart",
        "limits",
        COMMIT,
        "    unpack_changes(first)\n",
        "",
        "tests/conformance/test_limits.py::test_thousands_of_keys_at_once",
    ),
    (
        "a save is not bound to the lock or the fence",
        1,
        RELEASE,
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, UNFENCED),
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
        (LOCK_CHECK, SAVES_FENCE_CHECK),
        (NEVER, NEVER),
        (
            PAUSES + "test_a_late_immediate_save_is_refused",
            PAUSES + "test_a_pause_before_an_immediate_save",
        ),
    ),
    (
        "the client checks, the store does not",
        2,
        RELEASE,
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, UNFENCED),
        PAUSES + "test_a_pause_between_check_and_write",
    ),
    (
        "a late release is carried out",
        3,
        RELEASE,
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, UNFENCED),
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
        (LOCK_CHECK, SAVES_FENCE_CHECK),
        (NEVER, NEVER),
        LATE + "test_a_delayed_immediate_save",
    ),
    (
        "an older acquisition may save",
        4,
        RELEASE,
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, UNFENCED),
        (
            LATE + "test_an_older_acquisition_is_replayed",
            LATE + "test_an_older_acquisition_that_was_lost_is_replayed",
        ),
    ),
    (
        "an immediate save is done each time it is asked for",
        6,
        "protocol/lua/save.lua",
        "local answer = repeated(op, done_in(state))\n",
        "local answer = nil\n",
        "tests/session/test_immediate.py::test_a_save_whose_reply_is_lost",
    ),
    (
        "what was created just now exists already",
        6,
        "protocol/lua/create.lua",
        "local answer = repeated(op, done_in(state))\n",
        "local answer = nil\n",
        REPLIES + "test_a_new_session_is_created_once",
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
        RELEASE,
        FENCE_CHECK,
        UNFENCED,
        STATE + "test_an_old_lock_with_a_newer_fence",
    ),
    (
        "a lock is good for immediate saves although the fence is newer",
        10,
        "protocol/lua/save.lua",
        SAVES_FENCE_CHECK,
        NEVER,
        STATE + "test_an_old_lock_with_a_newer_fence",
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
        "a release is not bound to the lock",
        22,
        "protocol/lua/release.lua",
        LOCK_CHECK,
        NEVER,
        LOOP + "test_the_loop_was_blocked_beyond_the_lease",
    ),
    (
        "a release is bound neither to the lock nor to the fence",
        22,
        RELEASE,
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, UNFENCED),
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
        "a release does not see the tombstone",
        26,
        "protocol/lua/release.lua",
        "if fence and call('HEXISTS', SESSION, '#destroyed') == 1 then\n",
        NEVER,
        RACES + "test_a_session_destroyed_under_its_lock[at the end-True]",
    ),
    (
        "a release for a new session does not see the tombstone",
        26,
        "protocol/lua/release.lua",
        "if fence and call('HEXISTS', SESSION, '#destroyed') == 1 then\n",
        NEVER,
        RACES + "test_a_session_destroyed_under_its_lock[at the end-False]",
    ),
    (
        "a save does not see the tombstone",
        26,
        "protocol/lua/_ids.lua",
        TOMBSTONE_CHECK,
        WITHOUT_IT,
        RACES + "test_a_session_destroyed_under_its_lock[amid-False]",
    ),
    (
        "an increment does not see the tombstone",
        26,
        "protocol/lua/_ids.lua",
        TOMBSTONE_CHECK,
        WITHOUT_IT,
        RACES + "test_a_session_destroyed_under_its_lock[as incr-False]",
    ),
    (
        "a commit does not see the tombstone",
        26,
        "protocol/lua/_ids.lua",
        TOMBSTONE_CHECK,
        WITHOUT_IT,
        RACES + "test_a_save_without_the_lock_after_destroying",
    ),
    (
        "a tombstone ends before the lock",
        26,
        "protocol/lua/destroy.lua",
        "math.max(tonumber(tombstone), call('PTTL', LOCK))",
        "tombstone",
        RACES + "test_a_tombstone_that_ends_before_the_holder[False]",
    ),
    (
        "nobody tells the waiters that it was destroyed",
        26,
        "protocol/lua/_base.lua",
        "    push(string.match(waiters[i + 1], '^%d+ %d+ %d+ (%S+) '), 'D ' .. waiters[i])\n",
        "",
        RACES + "test_waiters_are_told_at_once_that_it_was_destroyed",
    ),
    (
        "a late release is not refused",
        28,
        RELEASE,
        (LOCK_CHECK, FENCE_CHECK),
        (NEVER, UNFENCED),
        EDGES + "test_a_round_trip_longer_than_the_lease",
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
    (
        "create overwrites",
        "table",
        "protocol/lua/create.lua",
        "if exists or call('HEXISTS', SESSION, '#destroyed') == 1 then\n",
        NEVER,
        TABLES + "test_row[create-never-overwrites]",
    ),
    (
        "a conflict gives the lock up",
        "table",
        "protocol/lua/release.lua",
        "    return with_next_fence(refusal, token, string.sub(granted, 1, 16), state)\n",
        "    call('DEL', LOCK)\n    return with_next_fence(refusal, token, string.sub(granted, 1, 16), state)\n",
        TABLES + "test_row[a-conflict-keeps-the-lock]",
    ),
    (
        "a delta revives part of a record that is gone",
        "table",
        "protocol/lua/_commit.lua",
        "  elseif stamp ~= created then\n",
        "  elseif false then\n",
        TABLES + "test_row[the-record-is-gone-and-came-again]",
    ),
    (
        "an id sees any record of its name, without scripts and when its turn comes",
        "ids",
        "protocol/replies.py",
        'if current is None:\n        return keys.proof.startswith("p:")',
        'if current is None or current.startswith(b"p:"):\n        return keys.proof.startswith("p:")',
        (IDS + "test_another_session_of_the_same_name", IDS + "test_a_waiter_of_the_same_name"),
    ),
    (
        "a record does not say whose it is",
        "ids",
        "protocol/lua/_commit.lua",
        "parts.id or proof\n",
        "parts.id\n",
        IDS + "test_another_session_of_the_same_name",
    ),
    (
        "a holder saves into the record of another session",
        "ids",
        "protocol/lua/_commit.lua",
        "    if id and not belongs(proof, id, call('HGET', SESSION, '#old')) then\n",
        "    if false then\n",
        IDS + "test_it_begins_while_another_is_about_to",
    ),
    (
        "the set of keys is not compared after iterating",
        "A1b",
        COMMIT,
        "    return own_fields() ~= tonumber(value)\n",
        "    return false\n",
        SERIAL + "test_iterating_sees_a_key_that_came_meanwhile",
    ),
    (
        "a record that one request emptied ends under another's hands",
        "A2",
        COMMIT,
        "  if holder and holder ~= token or call('EXISTS', QUEUE) == 1 or own_fields() > 0 then\n",
        "  if own_fields() > 0 then\n",
        (
            VISIT + "test_the_other_way_round_nothing_acknowledged_is_lost",
            VISIT + "test_nor_that_of_a_post_that_waits",
        ),
    ),
    (
        "a record ends although somebody has put something in",
        "A2",
        COMMIT,
        "call('EXISTS', QUEUE) == 1 or own_fields() > 0 then\n",
        "call('EXISTS', QUEUE) == 1 then\n",
        VISIT + "test_a_get_that_takes_the_last_message_leaves_the_cart",
    ),
    (
        "who touches a record always believes another that it is not due",
        1,
        "protocol/lua/_life.lua",
        " and (refresh_ms < idle_ms or idle_ms <= 0) then",
        " then",
        "tests/conformance/test_life_and_death.py::test_who_touches_always_does_so_whoever_was_here_before",
    ),
    (
        "who touches a record always takes the short way",
        1,
        "protocol/calls.py",
        'always = " " if refresh_ms >= idle_ms > 0 else ""',
        'always = ""',
        (
            "tests/conformance/test_life_and_death.py::test_who_touches_always_does_so_whoever_was_here_before",
            "tests/integrations/flask/test_lifetimes.py::test_modified_sends_the_cookie_and_renews[POST]",
        ),
    ),
    (
        "what a refused call came to after all is not asked for",
        "refused",
        "transport/executor.py",
        'return giving_up.result().known == "done"\n',
        "return False\n",
        "tests/faults/test_refused_calls.py::test_it_is_carried_out_after_all",
    ),
    (
        "a refused call is taken for given up, whatever came of that",
        "refused",
        "transport/executor.py",
        "if not giving_up.done() or giving_up.exception() is not None:\n",
        "if not giving_up.done():\n            return False\n        if giving_up.exception() is not None:\n",
        "tests/faults/test_refused_calls.py::test_it_cannot_be_given_up",
    ),
    (
        "giving up what is forgotten says nothing",
        "refused",
        "protocol/lua/abandon.lua",
        "answer[1] == 'forgotten' and 'forgotten' or ",
        "",
        "tests/faults/test_refused_calls.py::test_it_is_forgotten_whether_it_was_done",
    ),
    (
        "giving up forgets what a call came to",
        "refused",
        "protocol/lua/abandon.lua",
        "if not answer or answer[1] == 'forgotten' then\n  last.done",
        "if true then\n  last.done",
        "tests/faults/test_refused_calls.py::test_it_is_carried_out_after_all",
    ),
    (
        "a release begins a session although all that was there is gone",
        "eviction",
        "protocol/lua/_release.lua",
        "    return nil, true\n",
        "    return nil, last.created ~= nil\n",
        STATE + "test_a_missing_session_is_evicted_while_it_is_held[nothing-by leaving]",
    ),
    (
        "a late call begins a session when nothing is known of it",
        "gone",
        "protocol/lua/create.lua",
        "answer = outlived(op, state, life)\n",
        "answer = nil\n",
        (
            DONE + "test_what_may_begin_a_session_comes_when_all_is_gone",
            LATE + "test_a_creation_that_comes_when_its_session_has_expired",
        ),
    ),
    (
        "a late increment begins a session when nothing is known of it",
        "gone",
        "protocol/lua/incr.lua",
        "created == 'new' and outlived(op, state, life)",
        "nil",
        DONE + "test_a_short_life_forgets_sooner",
    ),
    (
        "a late commit begins a session when nothing is known of it",
        "gone",
        "protocol/lua/commit.lua",
        "created == '' and not answer and outlived(op, state, life)",
        "nil",
        DONE + "test_what_may_begin_a_session_comes_when_all_is_gone",
    ),
    (
        "what a younger record knows of earlier calls is taken for all",
        "gone",
        "protocol/lua/_done.lua",
        "created and created <= number then",
        "created then",
        DONE + "test_what_may_begin_a_session_comes_when_all_is_gone",
    ),
    (
        "numbers do not tell the time",
        "gone",
        "transport/executor.py",
        "                lane.exceed(self.numbers.clock.hint(monotonic()))\n",
        "                pass\n",
        LATE + "test_a_creation_that_comes_when_its_session_has_expired",
    ),
    (
        "copies of a process go on under one name",
        "clones",
        "transport/executor.py",
        "        self.numbers.rename()\n",
        "",
        LATE + "test_copies_of_one_process",
    ),
]
