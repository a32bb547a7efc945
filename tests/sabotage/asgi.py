"""Protections of the ASGI face: requests that run again, bodies, other middlewares."""

from __future__ import annotations

from tests.sabotage import Table

SECOND = "tests/integrations/asgi/test_second_run.py::"
AGAIN = "tests/integrations/asgi/test_again.py::"
BODIES = "tests/integrations/asgi/test_bodies.py::"
BESIDE = "tests/integrations/asgi/test_beside.py::"

EXCHANGE = "integrations/asgi/exchange.py"
CANCELLING = "integrations/web/cancelling.py"
AHEAD = "integrations/asgi/ahead.py"
ASGI = "integrations/asgi/middleware.py"

SABOTAGE: Table = [
    (
        "what is sent by a run that was abandoned goes to the client",
        "asgi",
        EXCHANGE,
        "        if self._abandoned:\n            raise asyncio.CancelledError(OURS)\n",
        "",
        AGAIN + "test_only_the_second_run_is_seen",
    ),
    (
        "the task of a run that is abandoned elsewhere goes on",
        "asgi",
        EXCHANGE,
        "        self._cancels.cancel()\n        raise asyncio.CancelledError(OURS)\n",
        "        raise asyncio.CancelledError(OURS)\n",
        AGAIN + "test_only_the_second_run_is_seen",
    ),
    (
        "our cancellation is not taken back",
        "asgi",
        CANCELLING,
        "            self._task.uncancel()\n",
        "            pass\n",
        AGAIN + "test_only_the_second_run_is_seen",
    ),
    (
        "somebody else's cancellation of a run is taken for ours",
        "asgi",
        CANCELLING,
        "isinstance(error, asyncio.CancelledError) and self._number() <= self._before",
        "isinstance(error, asyncio.CancelledError)",
        SECOND + "test_a_server_that_gives_up_meanwhile",
    ),
    (
        "a second run finds the state of the first",
        "asgi",
        EXCHANGE,
        "            self._state.clear()\n            self._state.update(self._state_then)\n",
        "            pass\n",
        SECOND + "test_the_second_run_finds_the_request_as_it_came",
    ),
    (
        "a second run finds the scope of the first",
        "asgi",
        EXCHANGE,
        "before.restored()).handle",
        "self._scope).handle",
        SECOND + "test_the_second_run_finds_the_request_as_it_came",
    ),
    (
        "a second run finds the context of the first",
        "asgi",
        EXCHANGE,
        "            if variable.get(None) is not value:\n",
        "            if False:\n",
        SECOND + "test_the_second_run_finds_the_request_as_it_came",
    ),
    (
        "what is told before the answer is told by the first run, too",
        "asgi",
        EXCHANGE,
        "elif self._begun or not self._exchange.can_run_again:",
        "elif True:",
        SECOND + "test_what_is_told_before_the_answer_is_the_second_runs",
    ),
    (
        "a second run gets what is left of the body",
        "asgi",
        AHEAD,
        "        self._kept.extendleft(reversed(self._given))\n",
        "",
        SECOND + "test_a_body_is_given_to_both",
    ),
    (
        "a long body is kept for a second run without end",
        "asgi",
        AHEAD,
        "if self._given_size > MOST_AHEAD:",
        "if False:",
        SECOND + "test_a_body_that_is_too_long_to_be_kept",
    ),
    (
        "the lock is taken before the body has come",
        "asgi",
        EXCHANGE,
        'receives = self._visit.mode == "lock" and self._comes_back and _may_have_body(self._scope)\n',
        "receives = False\n",
        (BODIES + "test_a_slow_upload_holds_up_nobody", BODIES + "test_a_client_that_goes_away_while_it_sends"),
    ),
    (
        "a body is received without a limit",
        "asgi",
        AHEAD,
        "while limit and size <= limit and not self._complete:",
        "while limit and not self._complete:",
        BODIES + "test_what_comes_beyond_the_limit_comes_under_the_lock",
    ),
    (
        "a body's file stays open",
        "asgi",
        AHEAD,
        "            if isinstance(kept, _File):\n                kept.close()\n",
        "            pass\n",
        BODIES + "test_no_file_is_left_open",
    ),
    (
        "somebody else's session in the scope is replaced by ours",
        "asgi",
        ASGI,
        "            scope = self._beside(scope)\n",
        "            pass\n",
        (BESIDE + "test_mounted_below_another_session_middleware", BESIDE + "test_two_guarded_sessions"),
    ),
    (
        "another session middleware is not noticed at the start",
        "asgi",
        ASGI,
        "        wrong = misplaced(self, self.app, scope_app)\n",
        "        wrong: list[str] = []\n",
        (BESIDE + "test_another_session_middleware_is_named_at_the_start", BESIDE + "test_or_at_the_first_request"),
    ),
    (
        "one with other settings takes the outer one's place",
        "asgi",
        ASGI,
        "        raise ConfigurationError(TWICE)\n",
        "        return False\n",
        BESIDE + "test_a_mounted_one_with_the_same_cookie_but_another_store",
    ),
    (
        "the application's headers are lost with its answer",
        "asgi",
        EXCHANGE,
        'if stays(name.decode("latin-1"))]',
        "if False]",
        BESIDE + "test_what_the_application_has_added_stays",
    ),
    (
        "our answers pass nothing of the application's",
        "asgi",
        EXCHANGE,
        "            answer = self._around(answer)\n",
        "            pass\n",
        BESIDE + "test_cors_headers_are_on_our_answers",
    ),
]
