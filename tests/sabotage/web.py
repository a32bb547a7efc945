"""Protections that all web faces share."""

from __future__ import annotations

from tests.sabotage import Table

VISIT = "tests/integrations/web/test_request_session.py::"
TAKEOVER = "tests/integrations/takeover/test_takeover.py::"

VISITS = "integrations/web/request_session.py"
TAKING = "integrations/takeover/taking.py"

SABOTAGE: Table = [
    (
        "a login keeps the id that it came with",
        "A4",
        VISITS,
        "            await session.regenerate(grace=grace)\n",
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
        "        elif session.new and self.answer.by_old_id and self._changed():\n",
        "        elif False:\n",
        VISIT + "test_a_late_request_with_the_replaced_id_gets_no_cookie",
    ),
    (
        "the cookie of an id that was replaced meanwhile is renewed",
        "A7",
        VISITS,
        "            answer.note(rolled=rolled is True)\n",
        "            answer.note(rolled=True)\n",
        VISIT + "test_the_cookie_of_a_replaced_id_is_not_renewed",
    ),
    (
        "a conflict of a safe request is answered",
        "B1",
        VISITS,
        "        except SessionConflict:\n            if self._can_run_again:\n"
        "                raise await self._once_more() from None\n",
        "        except SessionConflict:\n",
        VISIT + "test_a_safe_request_that_met_a_conflict_is_run_again",
    ),
    (
        "a request that only looks is ended for its lease",
        "B6",
        VISITS,
        "        if self._on_loss is not None and not self._finished and self._changed():\n",
        "        if self._on_loss is not None and not self._finished:\n",
        VISIT + "test_a_request_that_only_looks_is_not_ended_for_its_lease",
    ),
    (
        "an old session is taken over a second time",
        "B18",
        TAKING,
        '        if await beside.exists("taken"):\n',
        "        if False:\n",
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
]
