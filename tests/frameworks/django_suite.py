"""Runs Django's own tests on sessionlock's session engine and middleware, and on Django's: what fails with ours only?

Django's wheels do not carry its tests and they are not copied here, so the source archive is an argument::

    pip download --no-deps --no-binary :all: "django==5.2.*"
    python tests/frameworks/django_suite.py [--mode lock] django-5.2.*.tar.gz [label ...]

The tests of sessions run on our store and middleware, sync and async. The others, of what uses a session, run twice.
What Django's tests say about sessions that live in one particular back end (a database row, a file) is left out.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sessionlock.embedded import EmbeddedServer

LABELS = """
messages_tests auth_tests csrf_tests test_client test_client_regress view_tests handlers asgi async middleware
middleware_exceptions requests_tests decorators flatpages_tests file_uploads admin_views admin_custom_urls admin_docs
generic_views servers i18n signed_cookies_tests test_utils
"""
OURS = "sessions_tests.test_sessionlock"
ROOT = Path(__file__).resolve().parents[2]

SETTINGS = """
from test_sqlite import *
SESSION_ENGINE = "sessionlock.integrations.django"
SESSION_LOCK_URL = {url!r}
SESSION_LOCK_MODE = {mode!r}
"""

SESSION_TESTS = """
from unittest import mock
from asgiref.sync import async_to_sync, sync_to_async
from django.test import SimpleTestCase, override_settings
from sessionlock.integrations.django import SessionLockMiddleware, SessionStore
from . import tests

class SessionLockTests(tests.SessionTestsMixin, SimpleTestCase):
    backend = SessionStore

@override_settings(USE_TZ=True)
class SessionLockWithTimeZoneTests(SessionLockTests):
    pass

class Asynchronous:
    def __init__(self, get_response):
        self.middleware = SessionLockMiddleware(sync_to_async(get_response))

    def __call__(self, request):
        return async_to_sync(self.middleware)(request)

class MiddlewareTests(tests.SessionMiddlewareTests):
    middleware = SessionLockMiddleware

    def setUp(self):
        super().setUp()
        for name, ours in (("SessionMiddleware", self.middleware), ("DatabaseSession", SessionStore)):
            patched = mock.patch.object(tests, name, ours)
            patched.start()
            self.addCleanup(patched.stop)

    test_empty_session_saved = None  # reads the row of the database back end

class AsyncMiddlewareTests(MiddlewareTests):
    middleware = Asynchronous
"""
# What is no fault: Django's tests count the queries of its own back end, or name another engine.
EXPECTED = {
    "test_changelist_view_count_queries": "counts queries",
    "test_group_permission_performance": "counts queries",
    "test_no_total_count": "counts queries",
    "test_protected_view_logged_in_performance": "counts queries",
    "test_reset_link": "counts queries",
    "test_user_permission_performance": "counts queries",
    "test_login": "another engine",
    "test_logout_cookie_sessions": "another engine",
    "test_sessions_app_is_not_installed": "another engine",
    "test_view_with_login_when_sessions_app_is_not_installed": "another engine",
}
RESULT = re.compile(r"^(ERROR|FAIL): (\S+ \(\S+\))", re.MULTILINE)
RAN = re.compile(r"^Ran (\d+) tests", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("labels", nargs="*", default=[OURS, *LABELS.split()])
    parser.add_argument("--mode", default="auto", help="SESSION_LOCK_MODE")
    asked = parser.parse_args()
    theirs = [label for label in asked.labels if label != OURS]
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        with tarfile.open(asked.archive) as source:
            source.extractall(folder, filter="data")
        (tests,) = Path(folder).glob("*/tests")
        before = run(tests, "test_sqlite", theirs) if theirs else Outcome("", 0)
        prepare(tests, server.unix_url, asked.mode)
        after = run(tests, "on_sessionlock", asked.labels)
    only_ours = sorted(after.failed - before.failed)
    print(f"without sessionlock: {before}; with it: {after}")
    wrong = [name for name in only_ours if name.split()[0] not in EXPECTED]
    for name in only_ours:
        print(f"fails with sessionlock only: {name}: {EXPECTED.get(name.split()[0], 'OURS')}")
    return bool(wrong)


class Outcome:
    """What a run came to."""

    def __init__(self, told: str, code: int) -> None:
        self.failed = {name for _, name in RESULT.findall(told)}
        ran = RAN.search(told)
        self.ran = int(ran.group(1)) if ran else 0
        if code and not self.failed:
            raise SystemExit(told)

    def __str__(self) -> str:
        return f"{self.ran} tests, {len(self.failed)} failed"


def run(tests: Path, settings: str, labels: list[str]) -> Outcome:
    done = subprocess.run(
        [sys.executable, "runtests.py", f"--settings={settings}", "--parallel=1", *labels],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests.parent), str(ROOT)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if "KEEP" in os.environ:
        Path(os.environ["KEEP"], f"{settings}.log").write_text(done.stdout)
    return Outcome(done.stdout, done.returncode)


def prepare(tests: Path, url: str, mode: str) -> None:
    """Put our middleware in the place of Django's, wherever the tests say which ones they use."""
    (tests / "on_sessionlock.py").write_text(SETTINGS.format(url=url, mode=mode))
    (tests / "sessions_tests" / "test_sessionlock.py").write_text(SESSION_TESTS)
    theirs = "django.contrib.sessions.middleware.SessionMiddleware"
    runner = tests / "runtests.py"
    assert runner.read_text().count(theirs) == 1, "runtests.py names the session middleware in another way"
    for file in tests.rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        if f'"{theirs}"' in text and "admin_checks" not in file.parts and "check_framework" not in file.parts:
            text = text.replace(f'"{theirs}"', '"sessionlock.integrations.django.SessionLockMiddleware"')
            file.write_text(text, encoding="utf-8", errors="surrogateescape")


if __name__ == "__main__":
    sys.exit(main())
