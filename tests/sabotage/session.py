"""Protections of what a session knows of its changes."""

from __future__ import annotations

from tests.sabotage import Table

MERGE = "tests/session/test_merge.py::"
IDS = "tests/conformance/test_ids.py::"
RMW = "tests/session/test_read_modify_write.py::"
SERIAL = "tests/session/test_serializable.py::"

SESSION = "session/data.py"

ENDS = "tests/session/test_ends_and_limits.py::"
DONE = "tests/protocol/test_done.py::"
LIFE_CYCLE = "tests/session/test_life_cycle.py::"
ENGINES = "tests/session/test_engines.py::"
COMMIT = "protocol/lua/_commit.lua"
PREVIOUS = "if previous ~= proof or "

SABOTAGE: Table = [
    (
        "nobody finds out at the start that saves cannot wait",
        "durability",
        "checkup/probe.py",
        "        trial={**trial, **waited},\n",
        "        trial=trial,\n",
        "tests/session/test_durability.py::test_it_is_known_from_the_look_at_the_server",
    ),
    (
        "a merge compares each item with each",
        "stalls",
        "session/merge.py",
        "    if isinstance(value, dict):\n        return dict, frozenset(",
        "    raise TypeError\n    if isinstance(value, dict):\n        return dict, frozenset(",
        MERGE + "test_long_lists_are_not_compared_each_with_each",
    ),
    (
        "what cannot be hashed is never the same",
        "merge",
        "session/merge.py",
        "            return item in self._others\n",
        "            return False\n",
        MERGE + "test_equal_is_what_python_says",
    ),
    (
        "a record that was made without scripts does not say whose it is",
        "ids",
        "session/commit_watch.py",
        "records.begun(left, now, keys.proof)",
        "records.begun(left, now, records.NO_ID.decode())",
        IDS + "test_another_session_of_the_same_name",
    ),
    (
        "equal results of two read-modify-writes agree",
        "A1",
        SESSION,
        "        if key in self._read or ALL_KEYS in self._read:\n            return False\n",
        "",
        (
            RMW + "test_two_that_come_to_the_same_by_computing_it",
            RMW + "test_ten_increments_at_once",
        ),
    ),
    (
        "an absent key counts as not read",
        "A1",
        SESSION,
        "        if type(key) is str and key not in self._assigned and key not in self._deleted:\n"
        "            self._read.add(key)\n",
        "",
        SERIAL + "test_a_key_that_was_looked_for_and_is_there_now",
    ),
    (
        "what a transaction read does not count",
        "A1b",
        SESSION,
        "        known = self._read | self._given\n",
        "        known = set(self._given)\n",
        SERIAL + "test_each_copies_the_others_key",
    ),
    (
        "what a transaction wrote and took back does not count",
        "A1b",
        SESSION,
        "        known = self._read | self._given\n",
        "        known = set(self._read)\n",
        SERIAL + "test_a_key_that_was_written_and_is_as_it_was",
    ),
    (
        "a record's absolute end is Redis' business",
        "ends",
        "protocol/lua/_ids.lua",
        "  return expires and (number_in(expires) or 0) <= now\n",
        "  return false\n",
        (ENDS + "test_a_commit_after_the_end[script]", ENDS + "test_counting_saving_and_renaming_after_the_end"),
    ),
    (
        "a commit without scripts does not look at the absolute end",
        "ends",
        "session/commit_watch.py",
        "            over = _has_ended(current, now)\n",
        "            over = False\n",
        ENDS + "test_a_commit_after_the_end[watch]",
    ),
    (
        "giving a place back lengthens a record",
        "ends",
        "protocol/lua/abandon.lua",
        "if not last.created then\n",
        "if true then\n",
        ENDS + "test_a_cancelled_waiter_puts_no_end_off",
    ),
    (
        "an older id can be replaced",
        "ids",
        "protocol/lua/regenerate.lua",
        PREVIOUS,
        "if ",
        ENDS + "test_an_older_id_cannot_be_replaced",
    ),
    (
        "older ids are kept without bound",
        "ids",
        "protocol/lua/regenerate.lua",
        "if #old < MOST_OLD and ",
        "if ",
        ENDS + "test_the_list_of_older_ids_is_bounded",
    ),
    (
        "what others have stored is not measured",
        "limits",
        COMMIT,
        "  elseif grown > 0 and too_large(",
        "  elseif false and too_large(",
        (
            ENDS + "test_parallel_commits_are_measured_together",
            ENDS + "test_what_others_stored_counts_under_the_lock",
            ENDS + "test_an_increment_is_no_way_around_the_limits",
        ),
    ),
    (
        "a call that was refused may be done later",
        "numbers",
        "transport/executor.py",
        "if doubtful and isinstance(outcome, (Refused, Conflict)) and await self._was_done(call, op):\n",
        "if False:\n",
        ENDS + "test_a_refused_increment_is_never_done",
    ),
    (
        "a release that was refused is done already",
        "numbers",
        "protocol/lua/release.lua",
        "state_after(state, fence, granted, LOST)",
        "set[2]",
        ENDS + "test_a_release_that_was_refused_is_not_done_already",
    ),
    (
        "destroying once more finds nothing",
        "numbers",
        "protocol/lua/destroy.lua",
        "return {answer[2] == '' and 'destroyed' or answer[2], user}",
        "return {'missing', user}",
        ENDS + "test_destroying_a_renewed_id_whose_reply_is_lost",
    ),
    (
        "a call whose number is below low is done once more",
        "numbers",
        "protocol/lua/_done.lua",
        "    if number < string.sub(record, 29, 44) then\n      return",
        "    if false then\n      return",
        DONE + "test_an_older_save_comes_after_a_newer_one",
    ),
    (
        "a call that is listed is done once more",
        "numbers",
        "protocol/lua/_done.lua",
        "    if from and value ~= UNCERTAIN then\n",
        "    if false then\n",
        DONE + "test_so_many_calls",
    ),
    (
        "a client that was forgotten is new",
        "numbers",
        "protocol/lua/_done.lua",
        "  if floor and number <= floor then\n",
        "  if false then\n",
        DONE + "test_clients_that_are_too_many",
    ),
    (
        "what met a conflict may be done later",
        "numbers",
        "protocol/lua/commit.lua",
        "with_finished(state, nil, op, low, REFUSED)",
        "state",
        DONE + "test_what_met_a_conflict_is_never_done",
    ),
    (
        "the index of a user keeps what was destroyed",
        "index",
        "session/operations.py",
        "        if outcome.user and self.on_end is not None:\n",
        "        if False:\n",
        ENDS + "test_the_index_of_a_user_loses_what_was_destroyed",
    ),
    (
        "what expired stays in its user's index",
        "index",
        "session/user_index.py",
        "            if await self._is_kept(user, name):\n",
        "            if True:\n",
        LIFE_CYCLE + "test_entries_of_sessions_that_have_expired",
    ),
    (
        "a load by WATCH prolongs whatever is there meanwhile",
        "load",
        "session/commit_watch.py",
        "            await pipe.watch(keys.session)\n            if",
        "            if",
        ENGINES + "test_a_load_that_is_late_does_not_prolong_what_came_instead[PEXPIRE-True]",
    ),
    (
        "a load by WATCH does not look again",
        "load",
        "session/commit_watch.py",
        "!= [snapshot.fields.get(name) for name in AS_LOADED]:",
        "is None:",
        ENGINES + "test_a_load_that_is_late_does_not_prolong_what_came_instead",
    ),
    (
        "a holder saves into a record whose absolute end has come",
        "absolute",
        "session/data.py",
        "return [BEFORE_THE_END, *changes] if changes and BEFORE_THE_END.field in self._stored else changes",
        "return changes",
        ENDS + "test_leaving_after_the_end[True]",
    ),
]
