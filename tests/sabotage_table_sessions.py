"""Protections of what a session knows and of what all web faces share.

name, number of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

RMW = "tests/sessions/test_read_modify_write.py::"
SERIAL = "tests/sessions/test_serializable.py::"
VISITORS = "tests/faces/test_decorator_new_visitors.py::"
VISIT = "tests/integrations/test_visit.py::"
TAKEOVER = "tests/integrations/test_takeover.py::"

SESSION = "session/mapping.py"
COMMIT = "protocol/lua/_commit.lua"
VISITS = "integrations/web/request_session.py"
TAKING = "integrations/takeover/taking.py"

Texts: TypeAlias = "str | tuple[str, ...]"

SABOTAGE: list[tuple[str, int | str, str, Texts, Texts, Texts]] = [
    (
        "equal results of two read-modify-writes agree",
        "A1",
        SESSION,
        "        if key in self._read or self._read_all:\n            return False\n",
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
        "the set of keys is not compared after iterating",
        "A1b",
        COMMIT,
        "      clash = own_fields() ~= tonumber(ARGV[i + 2])\n",
        "      clash = false\n",
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
        "a login keeps the id that it came with",
        "A4",
        VISITS,
        "            await session.regenerate(grace=0)\n",
        "            pass\n",
        VISIT + "test_a_login_gives_a_new_id",
    ),
    (
        "clear() and filling keep the session",
        "A4",
        VISITS,
        "        elif session.cleared and not session.new:\n",
        "        elif session.cleared and not session.new and not len(session):\n",
        VISIT + "test_clear_and_fill_is_a_login",
    ),
    (
        "a logout that nobody awaited is dropped",
        "A5",
        VISITS,
        "        await session.do_what_nobody_awaited()\n        if session.destroyed:\n",
        "        if session.destroyed:\n",
        VISIT + "test_a_logout_that_nobody_awaited_takes_place",
    ),
    (
        "a late request with a replaced id gets a cookie of its own",
        "A4",
        VISITS,
        "        elif session.new and self.by_old_id and self._changed():\n",
        "        elif False:\n",
        VISIT + "test_a_late_request_with_the_replaced_id_gets_no_cookie",
    ),
    (
        "the cookie of an id that was replaced meanwhile is renewed",
        "A7",
        VISITS,
        "            self.rolled = rolled is True\n",
        "            self.rolled = True\n",
        VISIT + "test_the_cookie_of_a_replaced_id_is_not_renewed",
    ),
    (
        "a conflict of a safe request is answered",
        "B1",
        VISITS,
        "        except SessionConflict:\n            if self._may_run_again:\n"
        "                raise self._once_more() from None\n",
        "        except SessionConflict:\n",
        VISIT + "test_a_safe_request_that_met_a_conflict_is_run_again",
    ),
    (
        "a request that only looks is ended for its lease",
        "B6",
        VISITS,
        "        if self.on_loss is not None and not self._finished and self._changed():\n",
        "        if self.on_loss is not None and not self._finished:\n",
        VISIT + "test_a_request_that_only_looks_is_not_ended_for_its_lease",
    ),
    (
        "an old session is taken over a second time",
        "B18",
        TAKING,
        '        if await self._command("EXISTS", mark):\n            return None\n',
        "",
        TAKEOVER + "test_a_logout_is_not_undone_by_the_old_session",
    ),
    (
        "what an old node has changed is overwritten",
        "B18",
        TAKING,
        "            if theirs.get(key) == base.get(key) or ours.get(key) != base.get(key):\n"
        "                continue\n",
        "            continue\n",
        TAKEOVER + "test_a_rolling_switch",
    ),
    (
        "a decorated view adopts the id of a cookie",
        "B17",
        "views/wrap.py",
        "missing is None or isinstance(sid_from, SidCookie) else",
        "missing is None else",
        VISITORS + "test_an_unknown_id_is_never_adopted",
    ),
    (
        "an id that was replaced begins another session",
        "B17",
        "views/wrap.py",
        "if error.replaced or not self.begins",
        "if not self.begins",
        VISITORS + "test_an_id_that_was_replaced",
    ),
    (
        "a session is stored whose id nobody is told",
        "B17",
        "views/visitor_cookie.py",
        "if session.new and not session.changes():",
        "if session.new:",
        (
            VISITORS + "test_an_answer_that_cannot_carry_a_cookie",
            VISITORS + "test_aiohttp_answer_that_has_begun",
        ),
    ),
    (
        "an id that was replaced is given out again",
        "B17",
        "views/visitor_cookie.py",
        "            and not context.outdated\n",
        "",
        VISITORS + "test_the_cookie_lives_as_long_as_the_session",
    ),
]
