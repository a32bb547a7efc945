"""Protections of the scripts that take, hand over, renew and end a lock, and of their queue."""

from __future__ import annotations

from tests.sabotage import Table

PAUSES = "tests/faults/test_pauses.py::"
LATE = "tests/faults/test_late_calls.py::"
REPLIES = "tests/faults/test_lost_replies.py::"
CANCEL = "tests/faults/test_cancellation.py::"
STATE = "tests/faults/test_lost_state.py::"
DEAD = "tests/faults/test_dead_holders.py::"
FAIR = "tests/faults/test_fairness.py::"
RACES = "tests/faults/test_release_races.py::"
EDGES = "tests/faults/test_edges.py::"
TABLES = "tests/protocol/test_tables.py::"
VOTE = "tests/protocol/test_vote.py::"
DONE = "tests/protocol/test_done.py::"
MISHAPS = "tests/faults/test_quorum_mishaps.py::"
RIDERS = "tests/lock/test_riders.py::"
IDS = "tests/conformance/test_ids.py::"

RENEW_CHECK = "  if call('GET', lock) ~= token then\n"
NEVER = "if false then\n"
NEXT_NUMBER = "  local number = math.max((number_in(last) or 0) + 1, now)\n"
LOCK_CHECK = "if call('GET', LOCK) ~= token then\n"

# Whether an acquisition has ended, on the short way and on the other.
ENDED_CHECKS = (
    "        and string.sub(state, DONE_AT, DONE_AT + 28) < token\n",
    " and not repeated(token, done_in(state)))\n",
    "  local answer = repeated(token, last.done)\n",
)
WITHOUT_THEM = ("", ")\n", "  local answer = nil\n")
GONE_CHECK = " and not gone[channel]"

SABOTAGE: Table = [
    (
        "a client whose clock is slow makes the fence fall",
        2,
        "protocol/lua/acquire.lua",
        "if state and state < now and ",
        "if state and ",
        "tests/protocol/test_server_clock.py::test_a_clock_that_is_slow",
    ),
    (
        "a server's clock is carried on for ever",
        2,
        "protocol/numbers.py",
        "since < KNOWN_FOR else",
        "self._us else",
        "tests/protocol/test_server_clock.py::test_how_long_it_is_carried_on",
    ),
    (
        "a rider is granted although it is over",
        2,
        "protocol/lua/_release.lua",
        (
            "    if not repeated(rider, done_in(state)) then\n",
            "  if rider and (repeated(rider, last.done) or exhausted(last.fence, now)) then\n",
        ),
        ("    if true then\n", "  if rider and exhausted(last.fence, now) then\n"),
        TABLES + "test_row[the-rider-was-over-before-the-release-came]",
    ),
    (
        "a rider passes by who came first",
        2,
        "protocol/lua/_release.lua",
        "  if not rider or first and (tonumber(first) < tonumber(ticket) or tonumber(first) > now) then\n",
        "  if not rider then\n",
        (TABLES + "test_row[a-rider-that-came-later]", RIDERS + "test_nobody_is_passed_by"),
    ),
    (
        "riders pass by the queue when the clock was set back",
        2,
        "protocol/lua/_release.lua",
        " or tonumber(first) > now) then\n",
        ") then\n",
        TABLES + "test_row[a-rider,-and-the-clock-was-set-back-since-the-others-came]",
    ),
    (
        "a grant that overtakes a reply is taken for news of the clock",
        2,
        "lock/waiting.py",
        "                if waiter.named_at:  # else it has asked for a place, and the reply is on its way\n",
        "                if True:\n",
        RIDERS + "test_a_push_overtakes_the_place_in_the_queue",
    ),
    (
        "riders of a destroyed session are not told",
        2,
        "lock/waiting.py",
        ("                    each.look()\n", "            foremost.look()\n"),
        ("                    each.look() if not each.rides_as else None\n", "            pass\n"),
        RIDERS + "test_the_session_is_destroyed",
    ),
    (
        "who is refused tells nobody of its process",
        2,
        "lock/waiting.py",
        "            foremost.look()\n",
        "            pass\n",
        RIDERS + "test_the_session_is_gone",
    ),
    (
        "nobody of the releaser's riders stands in the queue after it",
        2,
        "protocol/lua/_release.lua",
        "      join_queue(rider, ttl, claim, who, ticket, tonumber(patience), now, now_digits, last)\n",
        "",
        TABLES + "test_row[a-rider-that-came-later]",
    ),
    (
        "who left the queue leaves its riders without anybody there",
        2,
        "lock/waiting.py",
        "        elif not held_here and waiter.was_known and room.riders:\n",
        "        elif False:\n",
        (RIDERS + "test_all_that_stood_in_the_queue_leave", RIDERS + "test_who_came_first_elsewhere_is_first"),
    ),
    (
        "a rider that was named waits for a reply that is lost",
        2,
        "lock/waiting.py",
        "            rider.look()\n",
        "            pass\n",
        RIDERS + "test_the_holders_lease_is_lost",
    ),
    (
        "a rider that was named is taken for unknown to Redis",
        2,
        "lock/acquire.py",
        "        if self._asked or (self._waiter is not None and self._waiter.was_known):\n",
        "        if self._asked:\n",
        RIDERS + "test_a_rider_is_cancelled_when_it_was_named",
    ),
    (
        "any number of riders",
        2,
        "lock/waiting.py",
        " < most or len(room.riders) >= most // RIDER_SHARE:\n",
        ":\n",
        RIDERS + "test_how_many_ride",
    ),
    (
        "a rider that is granted keeps its place in the queue",
        2,
        "protocol/lua/_release.lua",
        "      leave_queue(rider) -- it may have asked for a place meanwhile\n",
        "",
        TABLES + "test_row[a-rider-that-has-asked-for-a-place-meanwhile]",
    ),
    (
        "a rider is let into a session that was destroyed",
        2,
        "protocol/lua/release.lua",
        "  rides = nil -- whoever does is to ask, and to learn that\n",
        "",
        TABLES + "test_row[a-rider,-and-the-session-was-destroyed]",
    ),
    (
        "who is passed over is told of a grant all the same",
        "cluster",
        "protocol/lua/_queue.lua",
        "        gone[channel] = is_gone(channel, deaf)\n",
        "        push(channel, 'G ' .. head .. ' ' .. now_digits .. ' ' .. now_digits .. ' ' .. claim .. ' -\\n')\n"
        "        gone[channel] = is_gone(channel, deaf)\n",
        "tests/transport/test_cluster_pushes.py::test_who_is_passed_over_hears_nothing",
    ),
    (
        "a renewal extends whatever lock there is",
        2,
        "protocol/lua/renew.lua",
        (RENEW_CHECK, "    if call('PTTL', lock) < ttl then\n"),
        ("  if not call('GET', lock) then\n", "    if true then\n"),
        (PAUSES + "test_a_pause_before_a_renewal", LATE + "test_a_delayed_renewal"),
    ),
    (
        "a renewal makes another's lease longer",
        2,
        "protocol/lua/renew.lua",
        RENEW_CHECK,
        "  if not call('GET', lock) then\n",
        "tests/protocol/test_renew.py::test_the_lease_of_another",
    ),
    (
        "a renewal makes a lease shorter",
        2,
        "protocol/lua/renew.lua",
        "    if call('PTTL', lock) < ttl then\n",
        "    if true then\n",
        "tests/protocol/test_renew.py::test_a_lease_that_is_longer_already",
    ),
    (
        "a renewal takes a free lock anew",
        2,
        "protocol/lua/renew.lua",
        RENEW_CHECK,
        "  call('SET', lock, token, 'PX', ttl, 'NX')\n" + RENEW_CHECK,
        PAUSES + "test_a_late_renewal_takes_nothing",
    ),
    (
        "leaving gives up whoever holds",
        3,
        "protocol/lua/abandon.lua",
        "if not holder and call('EXISTS', QUEUE) == 1 or holder == token then\n",
        "if true then\n",
        (LATE + "test_a_delayed_abandon", REPLIES + "test_a_lost_leave_taking"),
    ),
    (
        "a finished acquisition may begin again",
        3,
        "protocol/lua/*acquire.lua",
        ENDED_CHECKS,
        WITHOUT_THEM,
        (
            LATE + "test_a_delayed_acquire",
            LATE + "test_an_older_acquisition_is_replayed",
            CANCEL + "test_the_request_overtaken_by_its_own_cancellation",
        ),
    ),
    (
        "only the last client is known to have finished",
        4,
        "protocol/lua/_done.lua",
        "  call('HSET', RECEIPTS, string.sub(record, 1, 12), string.sub(record, 13))\n",
        "",
        (
            REPLIES + "test_already_done_however_many_came_since",
            DONE + "test_a_save_is_repeated_after_others_came_and_went",
            DONE + "test_a_late_acquire",
        ),
    ),
    (
        "the short way takes the last number for the highest",
        5,
        "protocol/lua/acquire.lua",
        "(#state == DONE_AT + 43 and ",
        "(",
        DONE + "test_a_late_acquire_of_the_younger_of_two",
    ),
    (
        "the holder asking again is a stranger",
        5,
        "protocol/lua/_acquire.lua",
        "  if held == token then\n",
        "  if false then\n",
        (
            REPLIES + "test_acquire_gets_the_same_grant",
            REPLIES + "test_acquire_survives_lost_replies_and_requests",
            REPLIES + "test_a_handed_over_grant_is_confirmed_once_more",
        ),
    ),
    (
        "the holder asking again is granted anew",
        5,
        "protocol/lua/_acquire.lua",
        "    return {'granted', last.fence, now_digits}\n",
        "    return {'granted', grant(token, ttl, 'held', who, now, now_digits, last), now_digits}\n",
        (
            REPLIES + "test_acquire_gets_the_same_grant",
            REPLIES + "test_a_handed_over_grant_is_confirmed_once_more",
        ),
    ),
    (
        "the waiter asking again goes last",
        5,
        "protocol/lua/_queue.lua",
        "call('ZADD', QUEUE, 'NX', ticket, token)",
        "call('ZADD', QUEUE, ticket, token)",
        REPLIES + "test_a_queued_acquire_keeps_one_place",
    ),
    (
        "a release that was done before is lost",
        6,
        "protocol/lua/_done.lua",
        "  if answer and answer[1] == 'already' and answer[2] ~= LOST then\n",
        "  if false then\n",
        (
            REPLIES + "test_save_and_release_was_already_done",
            REPLIES + "test_already_done_however_many_came_since",
            REPLIES + "test_a_lost_release_of_nothing",
        ),
    ),
    (
        "leaving is not written down",
        7,
        "protocol/lua/abandon.lua",
        "last.done = finish(token, low, last.done)\n",
        "",
        CANCEL + "test_the_request_overtaken_by_its_own_cancellation",
    ),
    (
        "leaving stays in the queue",
        7,
        "protocol/lua/abandon.lua",
        "leave_queue(token) -- as the first write it is allowed, and all after it, also when Redis is out of memory\n",
        "",
        CANCEL + "test_queued_and_handed_over",
    ),
    (
        "leaving drops the lock that others wait for",
        7,
        "protocol/lua/abandon.lua",
        "hand_over(nil, nil, false, deaf, now, now_digits, last)",
        "call('DEL', LOCK)",
        CANCEL + "test_queued_and_handed_over",
    ),
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
    (
        "a lock has no end",
        15,
        "protocol/lua/_*.lua",
        "  call('SET', LOCK, token, 'PX', ttl_ms)\n",
        "  call('SET', LOCK, token)\n",
        (DEAD + "test_the_holder_dies", DEAD + "test_the_one_who_was_handed_the_lock_dies"),
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
        "protocol/lua/_queue.lua",
        GONE_CHECK,
        "",
        (DEAD + "test_any_number_of_dead_waiters", DEAD + "test_the_living_between_dead_ones"),
    ),
    (
        "each waiter of a hung process has a claim of its own",
        16,
        "protocol/lua/_acquire.lua",
        "  if kind ~= 'claim' or repeated(holder, done) then\n",
        "  if true then\n",
        DEAD + "test_fifty_hung_waiters_cost_one_claim",
    ),
    (
        "a lock that was handed over lapses at once",
        17,
        "protocol/lua/_queue.lua",
        "local fence = grant(head, claim, 'claim'",
        "local fence = grant(head, 1, 'claim'",
        FAIR + "test_a_stopped_waiter_that_is_back_within_its_claim",
    ),
    (
        "who finds the lock free takes it",
        19,
        "protocol/lua/_acquire.lua",
        "      head, fence = hand_over(token,",
        "      leave_queue(token)\n      head, fence = (function() end)(token,",
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
    (
        "a renewal extends whoever's lock",
        24,
        "protocol/lua/renew.lua",
        RENEW_CHECK,
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
        "    reply[n] = 0\n    call('SET', lock, token, 'NX', 'PX', ttl)\n",
        (
            RACES + "test_a_renewal_and_the_end_of_its_lease_in_any_order",
            RACES + "test_ends_of_a_lease_in_any_order",
            RACES + "test_a_renewal_and_the_release_on_the_wire[release]",
        ),
    ),
    (
        "what has ended can be acquired again",
        24,
        "protocol/lua/*acquire.lua",
        ENDED_CHECKS,
        WITHOUT_THEM,
        RACES + "test_ends_of_a_lease_in_any_order",
    ),
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
        "not exhausted(last.fence, now) and call('ZPOPMIN', QUEUE)[1]",
        "call('ZPOPMIN', QUEUE)[1]",
        EDGES + "test_fences_run_out_in_a_hand_over",
    ),
    (
        "numbers leave the scripts rounded",
        29,
        "protocol/lua/_base.lua",
        "string.format('%016.0f', number)",
        "string.format('%016.0f', number - number % 10)",
        EDGES + "test_fences_up_to_their_end",
    ),
    (
        "anything counts as a fence",
        29,
        "protocol/lua/_base.lua",
        "  return text and #text <= 16 and not string.find(text, '%D') and tonumber(text) or nil\n",
        "  return tonumber(text)\n",
        EDGES + "test_a_fence_that_nobody_gave_out",
    ),
    (
        "that nobody listens means nothing",
        "table",
        "protocol/lua/_base.lua",
        "  return listed[2] == 0 --",
        "  return false --",
        TABLES + "test_row[hand-over-to-dead-waiters]",
    ),
    (
        "giving back forgets who waits",
        "quorum",
        "protocol/lua/abandon.lua",
        "if ARGV[4] == '1' and holder == token and call('EXISTS', QUEUE) == 0 then",
        "if ARGV[4] == '1' and holder == token then",
        VOTE + "test_given_back_while_others_wait",
    ),
    (
        "a sharded push is sent where there is none",
        "cluster",
        "protocol/lua/_base.lua",
        (
            "redis.pcall(is_sharded(channel) and 'SPUBLISH' or 'PUBLISH', channel, message)",
            "redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', channel)",
        ),
        (
            "call(is_sharded(channel) and 'SPUBLISH' or 'PUBLISH', channel, message)",
            "call('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', channel)",
        ),
        "tests/faults/test_cluster_faults.py::test_without_sharded_pubsub",
    ),
    (
        "a holder is taken out twice",
        "quorum",
        "protocol/lua/force_release.lua",
        "call('HGET', SESSION, '#forced') == token and 'over' or 'not-holder'",
        "'not-holder'",
        MISHAPS + "test_taken_out_once",
    ),
    (
        "an id sees any record of its name",
        "ids",
        "protocol/lua/_ids.lua",
        "if not id then\n",
        "if not id or string.sub(id, 1, 2) == 'p:' then\n",
        IDS + "test_another_session_of_the_same_name",
    ),
]
