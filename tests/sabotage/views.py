"""Protections of decorated views and of the visitors' cookies."""

from __future__ import annotations

from tests.sabotage import Table

VISITORS = "tests/views/test_decorator_new_visitors.py::"

SABOTAGE: Table = [
    (
        "a decorated view adopts the id of a cookie",
        "B17",
        "views/wrap.py",
        "if missing is None or isinstance(self.sid_from, SidCookie):",
        "if missing is None:",
        VISITORS + "test_an_unknown_id_is_never_adopted",
    ),
    (
        "an id that was replaced begins another session",
        "B17",
        "views/wrap.py",
        "if error.replaced or not begins",
        "if not begins",
        VISITORS + "test_an_id_that_was_replaced",
    ),
    (
        "a session is stored whose id nobody is told",
        "B17",
        "views/visitor_cookie.py",
        "if session.new and not session.modified:",
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
        "            and not block.outdated\n",
        "",
        VISITORS + "test_the_cookie_lives_as_long_as_the_session",
    ),
]
