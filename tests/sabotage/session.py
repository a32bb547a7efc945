"""Protections of what a session knows of its changes."""

from __future__ import annotations

from tests.sabotage import Table

MERGE = "tests/session/test_merge.py::"
IDS = "tests/conformance/test_ids.py::"
RMW = "tests/session/test_read_modify_write.py::"
SERIAL = "tests/session/test_serializable.py::"

SESSION = "session/data.py"

SABOTAGE: Table = [
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
]
