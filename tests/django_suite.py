"""Runs Django's own tests of sessions, messages and authentication on sessionlock's session engine and middleware.

Django's wheels do not carry its tests and they are not copied here, so the source archive is an argument::

    pip download --no-deps --no-binary :all: "django==5.2.*"
    python tests/django_suite.py django-5.2.*.tar.gz [label ...]

What Django's tests say about sessions that live in one particular back end (a database row, a file) is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sessionlock.embedded import EmbeddedServer

LABELS = ("sessions_tests.test_sessionlock", "messages_tests", "auth_tests")
ROOT = Path(__file__).resolve().parent.parent

SETTINGS = """
from test_sqlite import *
SESSION_ENGINE = "sessionlock.integrations.django"
SESSION_LOCK_URL = {url!r}
"""

SESSION_TESTS = """
from unittest import mock
from django.test import SimpleTestCase, override_settings
from sessionlock.integrations.django import SessionLockMiddleware, SessionStore
from . import tests

class SessionLockTests(tests.SessionTestsMixin, SimpleTestCase):
    backend = SessionStore

@override_settings(USE_TZ=True)
class SessionLockWithTimeZoneTests(SessionLockTests):
    pass

class MiddlewareTests(tests.SessionMiddlewareTests):
    def setUp(self):
        super().setUp()
        for name, ours in (("SessionMiddleware", SessionLockMiddleware), ("DatabaseSession", SessionStore)):
            patched = mock.patch.object(tests, name, ours)
            patched.start()
            self.addCleanup(patched.stop)

    test_empty_session_saved = None  # reads the row of the database back end
"""


def main(archive: str, *labels: str) -> int:
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        with tarfile.open(archive) as source:
            source.extractall(folder, filter="data")
        (tests,) = Path(folder).glob("*/tests")
        prepare(tests, server.unix_url)
        return subprocess.run(
            [sys.executable, "runtests.py", "--settings=on_sessionlock", "--parallel=1", *(labels or LABELS)],
            cwd=tests,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests.parent), str(ROOT)))},
            check=False,
        ).returncode


def prepare(tests: Path, url: str) -> None:
    (tests / "on_sessionlock.py").write_text(SETTINGS.format(url=url))
    (tests / "sessions_tests" / "test_sessionlock.py").write_text(SESSION_TESTS)
    runner = tests / "runtests.py"
    theirs = "django.contrib.sessions.middleware.SessionMiddleware"
    text = runner.read_text()
    assert text.count(theirs) == 1, "runtests.py names the session middleware in another way"
    runner.write_text(text.replace(theirs, "sessionlock.integrations.django.SessionLockMiddleware"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
