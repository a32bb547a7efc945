"""Protections of the Flask face: requests that run again, hooks, lifetimes, identity, bodies, applications' ends.

name, number of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

TESTS = "tests/integrations/flask/test_"
FLASK = "integrations/flask/"
FAMILY = "integrations/flask_family/"

Texts: TypeAlias = "str | tuple[str, ...]"

SABOTAGE: list[tuple[str, int | str, str, Texts, Texts, Texts]] = [
    (
        "a safe request commits although somebody holds the lock",
        "flask",
        "integrations/web/asked.py",
        "yields = yields and held_here(self.guard, sid) is None",
        "yields = False",
        "tests/session/test_yielding.py::test_the_holder_saves_what_it_read",
    ),
    (
        "the second run has what the first one read of the body",
        "flask",
        FLASK + "again.py",
        "                body.rewind()\n",
        "                pass\n",
        TESTS + "again.py::test_the_body_of_a_get_is_there_again",
    ),
    (
        "the first run's context is kept for a test, too",
        "flask",
        FLASK + "again.py",
        "                contexts.clear()\n",
        "",
        TESTS + "again.py::test_only_the_run_that_counts_is_kept_for_a_test",
    ),
    (
        "who wrapped the application before is not wrapped",
        "flask",
        FLASK + "application.py",
        'if "wsgi_app" in vars(app):',
        "if False:",
        TESTS + "again.py::test_who_wraps_the_application",
    ),
    (
        "a request that cannot run again is to run again",
        "flask",
        FLASK + "interface.py",
        "rules=None if run is None else self.settings.rules",
        "rules=self.settings.rules",
        TESTS + "again.py::test_without_a_server_around_it_the_conflict_is_told",
    ),
    (
        "an answer that is ready is spoiled by a hook",
        "flask",
        FAMILY + "use.py",
        "        self.phase = max(self.phase, Phase.ANSWERED)\n",
        "        pass\n",
        (TESTS + "hooks.py::test_a_503_that_is_ready_stays", TESTS + "hooks.py::test_any_failure_that_is_ready_stays"),
    ),
    (
        "an error before or after the view is none of ours",
        "flask",
        FLASK + "application.py",
        "        if isinstance(args[-1], SessionLockError):\n",
        "        if False:\n",
        (TESTS + "hooks.py::test_a_url_converter", TESTS + "hooks.py::test_after_each_request"),
    ),
    (
        "the lock is taken before the body",
        "flask",
        FLASK + "interface.py",
        '        if visit.mode == "lock":\n',
        "        if False:\n",
        TESTS + "bodies.py::test_the_body_comes_before_the_lock",
    ),
    (
        "a body that is refused is received first",
        "flask",
        FLASK + "interface.py",
        "return 0 if most is not None and size is not None and size > most else limit",
        "return limit",
        TESTS + "bodies.py::test_a_body_that_is_too_long_is_refused_before",
    ),
    (
        "who only follows links is logged out",
        "flask",
        FLASK + "interface.py",
        "            visit = self._renewed(app, session)\n",
        "            pass\n",
        TESTS + "lifetimes.py::test_who_only_follows_links_stays",
    ),
    (
        "a lifetime that changed within the request does not count",
        "flask",
        FAMILY + "hooks.py",
        "        if idle == lifetime.idle and (session.new or begun_anew):\n",
        "        if session.new or begun_anew:\n",
        TESTS + "lifetimes.py::test_lifetime_and_permanence_are_read_at_each_request",
    ),
    (
        "loading renews where nothing is to be renewed",
        "flask",
        FAMILY + "hooks.py",
        'if app.config["SESSION_REFRESH_EACH_REQUEST"] else 0.0',
        "if True else 0.0",
        TESTS + "lifetimes.py::test_without_refreshing_it_ends_when_it_was_said",
    ),
    (
        "a login keeps its id",
        "flask",
        "integrations/web/request_session.py",
        "        if grace is None:\n",
        "        if True:\n",
        TESTS + "identity.py::test_a_planted_id_is_dead_after_a_login",
    ),
    (
        "a user that was changed inside is the same as before",
        "flask",
        "integrations/web/identity.py",
        "not same_person(self._before(session, key), after)",
        "not same_person(session.peek(key), after)",
        TESTS + "identity.py::test_who_is_logged_in_as_an_object",
    ),
    (
        "an application is kept by its session interface",
        "flask",
        FLASK + "interface.py",
        "        self._app = weakref.ref(app)",
        "        self._app = lambda: app",
        TESTS + "setup.py::test_an_application_is_freed_at_once",
    ),
    (
        "connections keep the request that came first",
        "flask",
        "transport/wire.py",
        "    return Context().run(asyncio.ensure_future, work)\n",
        "    return asyncio.ensure_future(work)\n",
        TESTS + "setup.py::test_many_applications_that_were_used",
    ),
    (
        "another session interface may take the place of ours",
        "flask",
        FLASK + "interface.py",
        "        expect_still_there(app, self)\n",
        "",
        TESTS + "setup.py::test_flask_session_afterwards",
    ),
    (
        "keys are as they were spelled",
        "flask",
        "integrations/web/mapping.py",
        "    if type(key) is str:\n        return key\n",
        "    return key\n",
        TESTS + "data.py::test_keys_as_json_has_them",
    ),
]
