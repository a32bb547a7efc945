"""Protections of the audit: nothing is found that was not lost, nothing secret is told, nothing hostile is obeyed."""

from __future__ import annotations

from tests.sabotage import Table

CASES = "tests/audit/test_detector.py::"
CAPTURES = "tests/audit/test_captures.py::"
FORMATS = "tests/audit/test_formats.py::"
CLI = "tests/cli/test_audit.py::"

BASES = "audit/bases.py"
COMPARE = "audit/compare.py"
DETECTOR = "audit/detector.py"
JUDGE = "audit/judge.py"

SABOTAGE: Table = [
    (
        "a save under WATCH is taken for one that overwrites",
        "watch",
        DETECTOR,
        '                safe = "watched"\n',
        '                safe = ""\n',
        CASES + "test_watch_does_not_lose",
    ),
    (
        "a WATCH behind the read is taken for a protection",
        "watch",
        "audit/units.py",
        "update(dict.fromkeys(keys, False))",
        "update(dict.fromkeys(keys, True))",
        CASES + "test_a_watch_behind_the_read_does_lose",
    ),
    (
        "a script that looks before it writes is taken for one that overwrites",
        "script",
        DETECTOR,
        "            safe = why if any(",
        '            safe = "" if any(',
        CASES + "test_a_script_that_looks_before_it_writes",
    ),
    (
        "what a connection has read last is always what it saves",
        "Django",
        BASES,
        "    best = min(reversed((*others, *own)), key=lambda one: odd[id(one)])\n",
        "    best = last\n",
        CAPTURES + "test_found_is_what_was_counted[django]",
    ),
    (
        "an application without requests at once is suspected as much as one with them",
        "pool",
        "audit/habits.py",
        "        return -math.log((seen + usual) / (judged + FRESH + STALE + AGAIN))\n",
        "        return 0.5 if stale else 0.0\n",
        CASES + "test_what_was_read_seconds_ago_is_no_base",
    ),
    (
        "a script that has read anything is taken for one that looks before it writes",
        "script",
        DETECTOR,
        "            safe = why if any(same_session(key, other) for other in read) else",
        "            safe = why if read else",
        CASES + "test_a_script_that_looks_before_it_writes",
    ),
    (
        "one request that saves twice by a pool is taken for two",
        "pool",
        BASES,
        "        choices.append(current)  # saved",
        "        choices += []  # saved",
        CASES + "test_one_request_after_another_loses_nothing[saves twice-cart-pool]",
    ),
    (
        "a read between two saves is no doubt",
        "sure",
        JUDGE,
        "    if record.reads_seen == victim.reads_before:\n",
        "    if True:\n",
        CASES + "test_it_is_sure_only_when_nobody_has_read_between",
    ),
    (
        "over a unix socket all is sure",
        "sure",
        JUDGE,
        "victim.who in (None, event.who) or event.host.one_name or",
        "victim.who is None or",
        CASES + "test_over_a_unix_socket_nothing_is_sure",
    ),
    (
        "the time of the last request is taken for a count",
        "time",
        COMPARE,
        "    numbers = is_number(stood) and is_number(now) and not looks_like_time(now, at)\n",
        "    numbers = is_number(stood) and is_number(now)\n",
        CASES + "test_the_time_of_the_last_request_is_none",
    ),
    (
        "equal counts are taken for no loss",
        "count",
        COMPARE,
        '            yield Undone(token, "same", False)\n    elif',
        "            pass\n    elif",
        CASES + "test_equal_counts_are_likely_a_loss",
    ),
    (
        "what comes back is counted as lost for good",
        "back",
        JUDGE,
        "                record.ledger.bring_back(number, token, version.number)\n",
        "                continue\n",
        CAPTURES + "test_found_is_what_was_counted[django-asgi]",
    ),
    (
        "what was lost, and comes back, is taken for a removal undone",
        "back",
        JUDGE,
        "if token.added and not told else None",
        "if not told else None",
        CAPTURES + "test_found_is_what_was_counted[express]",
    ),
    (
        "saving by deleting first is taken for a logout undone",
        "delete",
        JUDGE,
        "not base.absent and dropped.who != event.who and",
        "not base.absent and",
        CASES + "test_saving_by_deleting_is_none",
    ),
    (
        "a lock that ran out is still held",
        "lock",
        "audit/locks.py",
        "        return self.since is not None and at <= self.until\n",
        "        return self.since is not None\n",
        CASES + "test_a_lock_that_ran_out_does_lose",
    ),
    (
        "a key's name is told",
        "secret",
        "audit/verdict.py",
        "    return hashlib.sha256(plain(key)).hexdigest()[:16]\n",
        "    return plain(key).decode()\n",
        CASES + "test_no_name_of_a_key_and_no_value_is_told",
    ),
    (
        "an id among the fields is told",
        "secret",
        "audit/verdict.py",
        '    told = _SECRET.sub("…", name)\n',
        "    told = name\n",
        CASES + "test_no_name_of_a_key_and_no_value_is_told",
    ),
    (
        "a pickle is loaded",
        "pickle",
        "audit/formats/pickled.py",
        "    return _Machine().run(raw)\n",
        '    return __import__("pickle").loads(raw)\n',
        FORMATS + "test_pickles_are_never_executed",
    ),
    (
        "lists that hold each other are walked to their end",
        "bomb",
        "audit/facts.py",
        "        if self._left < 0 or depth > _DEEPEST:\n",
        "        if depth > 10_000:\n",
        FORMATS + "test_a_pickle_that_holds_itself",
    ),
    (
        "a compressed bomb is unpacked",
        "bomb",
        "audit/formats/reading.py",
        ".decompress(raw, LARGEST)",
        ".decompress(raw)",
        FORMATS + "test_a_compressed_bomb_is_not_unpacked",
    ),
    (
        "keys are kept for ever",
        "memory",
        DETECTOR,
        "            if len(self._records) > self._limits[0]:\n",
        "            if False:\n",
        CASES + "test_keys_that_were_used_longest_ago_are_forgotten",
    ),
    (
        "values are kept for ever",
        "memory",
        DETECTOR,
        "        while self._size > self._limits[1] and self._records:\n",
        "        while False:\n",
        CASES + "test_large_values_are_forgotten_in_time",
    ),
    (
        "who falls behind goes on",
        "behind",
        "cli/audit/reading.py",
        "            if await watcher.is_behind():\n",
        "            if False:\n",
        CLI + "test_who_falls_behind_stops",
    ),
    (
        "nobody is asked before MONITOR begins",
        "ask",
        "cli/audit/run.py",
        "        if not _agreed(arguments.yes):\n",
        "        if False:\n",
        CLI + "test_somebody_at_a_terminal_is_asked",
    ),
]
