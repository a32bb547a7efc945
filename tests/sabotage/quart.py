"""Protections of Quart's face: requests that run again, bodies, websockets, errors as answers."""

from __future__ import annotations

from tests.sabotage import Table

SESSIONS = "tests/integrations/quart/test_sessions.py::"
REQUESTS = "tests/integrations/quart/test_again.py::"
SOCKETS = "tests/integrations/quart/test_sockets.py::"

AGAIN = "integrations/quart/again.py"
APPLICATION = "integrations/quart/application.py"
INTERFACE = "integrations/quart/interface.py"
SESSION = "integrations/quart/session.py"

SABOTAGE: Table = [
    (
        "a second run gets no body",
        "quart",
        AGAIN,
        "        if len(self.kept) <= self.limit:\n            self.kept += data\n",
        "",
        REQUESTS + "test_a_body_that_comes_while_the_view_runs",
    ),
    (
        "a second run gets half a body",
        "quart",
        AGAIN,
        " and len(body.kept) <= body.limit",
        "",
        REQUESTS + "test_a_body_too_long_to_be_kept",
    ),
    (
        "a body is waited for under the lock",
        "quart",
        AGAIN,
        "            await _received(self.request, limit)\n",
        "            pass\n",
        REQUESTS + "test_a_slow_upload_holds_up_nobody",
    ),
    (
        "a second run of Quart finds the context variables of the first",
        "quart",
        AGAIN,
        "    _take_back(before)\n",
        "",
        REQUESTS + "test_nothing_of_the_first_run_is_left",
    ),
    (
        "a test client keeps the context of the first run",
        "quart",
        AGAIN,
        "            await self._forget_context(error)\n",
        "",
        REQUESTS + "test_a_test_client_that_keeps_the_context",
    ),
    (
        "who failed because of a conflict is not run again",
        "quart",
        AGAIN,
        "                await self._failed()\n",
        "                pass\n",
        REQUESTS + "test_a_save_of_its_own_that_meets_a_conflict[propagated]",
    ),
    (
        "a request whose client has gone keeps the lock",
        "quart",
        AGAIN,
        "                await self.use.leave(failure)\n",
        "                pass\n",
        REQUESTS + "test_who_hangs_up_in_a_view_leaves_no_lock",
    ),
    (
        "a lost lease ends nobody",
        "quart",
        AGAIN,
        "        self._cancels.cancel()\n",
        "        pass\n",
        REQUESTS + "test_a_lost_lease_ends_who_has_changed_something",
    ),
    (
        "a lost lease is no answer",
        "quart",
        AGAIN,
        "        return self._cancels.loss(error, None if self.visit is None else self.visit.session.lease)\n",
        "        return None\n",
        REQUESTS + "test_a_lost_lease_ends_who_has_changed_something",
    ),
    (
        "what a hook meets is a 500",
        "quart",
        APPLICATION,
        "        except SessionLockError as error:\n            trouble: SessionLockError = error\n",
        "        except ZeroDivisionError as error:\n            trouble: Any = error\n",
        REQUESTS + "test_another_tab_holds_the_lock[after]",
    ),
    (
        "what was ready is spoilt by who looks again",
        "quart",
        SESSION,
        "        if self.phase is Phase.HANDLED and (not told or self._instead is None):\n",
        "        if not told or self._instead is None:\n",
        REQUESTS + "test_redis_is_down[view]",
    ),
    (
        "a websocket whose client goes loses what it has written",
        "quart",
        APPLICATION,
        "                    await interface.end_socket(run.use)\n",
        "                    pass\n",
        SOCKETS + "test_what_it_writes_is_a_commit_of_its_own[the client goes]",
    ),
    (
        "a websocket changes the id that the browser has",
        "quart",
        INTERFACE,
        "            identity=self.settings.identity if answers else (),\n",
        "            identity=self.settings.identity,\n",
        SOCKETS + "test_a_login_keeps_the_id_that_the_browser_has",
    ),
    (
        "a websocket takes the lock",
        "quart",
        INTERFACE,
        "        if isinstance(request, Websocket) or run is None:\n",
        "        if run is None:\n",
        SOCKETS + "test_it_reads_without_a_lock",
    ),
    (
        "a context of a test's own takes the lock",
        "quart",
        INTERFACE,
        "        if isinstance(request, Websocket) or run is None:\n",
        "        if isinstance(request, Websocket):\n",
        SESSIONS + "test_a_request_context_of_a_test",
    ),
    (
        "a session transaction loses in silence",
        "quart",
        INTERFACE,
        "            if use.run is None:\n                raise  # a test's session_transaction()\n",
        "",
        SESSIONS + "test_a_session_transaction_never_loses",
    ),
]
