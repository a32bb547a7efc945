"""A set-up that cannot work is told: by ``manage.py check``, and as the server starts where the app is not installed.

Each project is a process of its own with a settings module, as it is in life.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sessionlock

pytestmark = pytest.mark.slow

OURS = '"sessionlock.integrations.django.SessionLockMiddleware"'
DJANGOS = '"django.contrib.sessions.middleware.SessionMiddleware"'
AUTH = '"django.contrib.auth.middleware.AuthenticationMiddleware"'
MESSAGES = '"django.contrib.messages.middleware.MessageMiddleware"'
UPDATE = '"django.middleware.cache.UpdateCacheMiddleware"'
FETCH = '"django.middleware.cache.FetchFromCacheMiddleware"'
CSRF = '"django.middleware.csrf.CsrfViewMiddleware"'

SETTINGS = """
SECRET_KEY = "for tests only " * 5
ROOT_URLCONF = "urls"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages",
    "sessionlock.integrations.django",
]
MIDDLEWARE = ["sessionlock.integrations.django.SessionLockMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware"]
SESSION_ENGINE = "sessionlock.integrations.django"
SESSION_LOCK_URL = "{store}"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
USE_TZ = True
"""
NOT_INSTALLED = 'INSTALLED_APPS.remove("sessionlock.integrations.django")'
URLS = """
from django.http import HttpResponse
from django.urls import path

def count(request):
    request.session["n"] = request.session.get("n", 0) + 1
    return HttpResponse(str(request.session["n"]))

urlpatterns = [path("", count)]
"""
# A project's own code, where it matters how a class is named.
OWN = """
from django.contrib.sessions.backends.db import SessionStore as Rows
from django.contrib.sessions.middleware import SessionMiddleware
from sessionlock.integrations.django import SessionLockMiddleware, SessionStore

class Guarded(SessionLockMiddleware):
    pass

class Plain(SessionMiddleware):
    pass

def wrapped_djangos(get_response):
    return SessionMiddleware(get_response)

def wrapped_ours(get_response):
    return SessionLockMiddleware(get_response)

class Broken:
    def dumps(self, obj):
        return repr(obj)
    def loads(self, data):
        return {}
"""
# django-user-sessions and the like: no descendant of Django's.
OTHERS = """
class SessionMiddleware:
    def __init__(self, get_response):
        self.get_response = get_response
    def __call__(self, request):
        return self.get_response(request)
"""
PICKLES = """
import pickle
class PickleSerializer:
    def dumps(self, obj):
        return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
    def loads(self, data):
        return pickle.loads(data)
"""
CHECK = """
import django
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
django.setup()
try:
    call_command("check", deploy=DEPLOY)
except SystemCheckError:
    pass
found = checks.run_checks(include_deployment_checks=DEPLOY)
print("FOUND", *sorted({message.id for message in found}))
for message in found:
    print(message.msg, message.hint)
"""
SERVE = """
import logging, sys
from django.core.exceptions import ImproperlyConfigured
logging.basicConfig(stream=sys.stdout, level="WARNING", format="%(levelname)s %(message)s")
from django.core.wsgi import get_wsgi_application
try:
    application = get_wsgi_application()
except ImproperlyConfigured as error:
    print("REFUSED", error)
    raise SystemExit
from django.test import Client
client = Client()
print("ANSWERED", client.post("/").status_code, client.post("/").text)
print("ANSWERED", client.post("/").status_code, client.post("/").text)
if "sessionid" in client.cookies:
    from sessionlock.blocking import SessionGuard
    with SessionGuard.from_url("{store}") as guard:
        print("HOLDER", guard.inspect(client.cookies["sessionid"].value).holder)
"""


# Forks a process for each project: what none of them changes is imported once.
NURSERY = """
import json, os, sys, tempfile, traceback
import django.conf, django.contrib.messages, django.core.checks, django.core.handlers.wsgi, django.core.management
import django.db.backends.sqlite3.base, django.db.models, django.urls
import sessionlock, sessionlock.blocking

for line in sys.stdin:
    settings, code = json.loads(line)
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if not child:
            for number in (1, 2):
                os.dup2(told.fileno(), number)
            with open("settings.py", "w") as file:
                file.write(settings)
            failed = 1
            try:
                exec(code, {"__name__": "__main__"})
                failed = 0
            except SystemExit:
                failed = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(failed)
        _, failed = os.waitpid(child, 0)
        told.seek(0)
        print(json.dumps([failed, told.read()]), flush=True)
"""


class Nursery:
    """Projects in processes of their own, one after the other."""

    def __init__(self, folder: Path) -> None:
        for name, text in {"urls": URLS, "own": OWN, "others": OTHERS, "pickles": PICKLES}.items():
            (folder / f"{name}.py").write_text(text)
        paths = [str(Path(sessionlock.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": os.pathsep.join([str(folder), *paths]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, settings: str, code: str) -> str:
        """What a project says that has these settings."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([settings, code]), file=self.process.stdin, flush=True)
        failed, told = json.loads(self.process.stdout.readline())
        assert not failed, told
        assert isinstance(told, str)
        return told

    def close(self) -> None:
        self.process.communicate(timeout=20)


class Project:
    def __init__(self, nursery: Nursery, url: str) -> None:
        self._nursery, self._url = nursery, url

    def check(self, changed: str = "", *, deploy: bool = False) -> tuple[list[str], str]:
        """The ids that ``manage.py check`` tells, and its text."""
        said = self._run(changed, CHECK.replace("DEPLOY", str(deploy)))
        ids, *text = said.partition("FOUND")[2].splitlines()
        return ids.split(), "\n".join(text)

    def serve(self, changed: str) -> str:
        """What is told as a server starts, without the app, and what it answers."""
        return self._run(f"{changed}\n{NOT_INSTALLED}", SERVE)

    def _run(self, changed: str, code: str) -> str:
        return self._nursery.run((SETTINGS + changed).replace("{store}", self._url), code.replace("{store}", self._url))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("projects"))
    yield nursery
    nursery.close()


@pytest.fixture
def project(nursery: Nursery, redis_url: str) -> Project:
    return Project(nursery, redis_url)


MISTAKES = {
    # name: (settings, id, what is told)
    "unknown setting": ("SESSION_LOCK_WIAT = 3", "E001", "Did you mean SESSION_LOCK_WAIT?"),
    "unknown setting, other prefix": ("SESSIONLOCK_LEASE = 3", "E001", "Did you mean SESSION_LOCK_LEASE?"),
    "no url": ("del SESSION_LOCK_URL", "E002", "SESSION_LOCK_URL"),
    "url that cannot be read": ('SESSION_LOCK_URL = "localhost:6379"', "E002", "SESSION_LOCK_URL"),
    "wait": ('SESSION_LOCK_WAIT = "3"', "E002", "SESSION_LOCK_WAIT must be"),
    "lease": ("SESSION_LOCK_LEASE = 0", "E002", "SESSION_LOCK_LEASE must be"),
    "mode": ('SESSION_LOCK_MODE = "off"', "E002", "SESSION_LOCK_MODE"),
    "grace": ("SESSION_LOCK_GRACE = -1", "E002", "SESSION_LOCK_GRACE must be"),
    "absolute": ('SESSION_LOCK_ABSOLUTE = "1h"', "E002", "SESSION_LOCK_ABSOLUTE must be"),
    "merge": ('SESSION_LOCK_MERGE = {"cart": "apend"}', "E002", "SESSION_LOCK_MERGE"),
    "identity": ('SESSION_LOCK_IDENTITY = "user_id"', "E002", "SESSION_LOCK_IDENTITY must be"),
    "problems": ('SESSION_LOCK_PROBLEMS = "urls.count"', "E002", "SESSION_LOCK_PROBLEMS"),
    "problems that are not there": ('SESSION_LOCK_PROBLEMS = "urls.none"', "E002", "SESSION_LOCK_PROBLEMS"),
    "option": ('SESSION_LOCK_OPTIONS = {"prefx": "a"}', "E002", "Did you mean prefix?"),
    "option's value": ('SESSION_LOCK_OPTIONS = {"retry_for": "1"}', "E002", "SESSION_LOCK_OPTIONS: retry_for"),
    "serializer": ('SESSION_SERIALIZER = "own.Broken"', "E002", "SESSION_SERIALIZER"),
    "serializer that is not there": ('SESSION_SERIALIZER = "own.Missing"', "E002", "SESSION_SERIALIZER"),
    "pickle": ('SESSION_SERIALIZER = "pickles.PickleSerializer"', "E002", "SESSION_LOCK_PICKLE = True"),
    "engine": ('SESSION_ENGINE = "django.contrib.sessions.backends.cache"', "E003", "SESSION_ENGINE ="),
    "Django's outside": (f"MIDDLEWARE.insert(0, {DJANGOS})", "E004", "Remove it"),
    "Django's inside": (f"MIDDLEWARE.append({DJANGOS})", "E004", "Remove it"),
    "a descendant of Django's": ('MIDDLEWARE.append("own.Plain")', "E004", "own.Plain"),
    "another package's": ('MIDDLEWARE.append("others.SessionMiddleware")', "E004", "others.SessionMiddleware"),
    "twice": (f"MIDDLEWARE.append({OURS})", "E005", "Remove all but the first"),
    "twice, once by another name": ('MIDDLEWARE.append("own.Guarded")', "E005", "Remove all but the first"),
    "Django's instead": (f"MIDDLEWARE[0] = {DJANGOS}", "E006", "in its place"),
    "a descendant of Django's instead": ('MIDDLEWARE[0] = "own.Plain"', "E006", "in its place"),
    "no middleware": ("MIDDLEWARE.pop(0)", "W001", "into MIDDLEWARE"),
    "behind auth": (f"MIDDLEWARE.remove({AUTH}); MIDDLEWARE.insert(0, {AUTH})", "E007", "before all that uses"),
    "behind messages": (f"MIDDLEWARE.insert(0, {MESSAGES})", "E007", "MessageMiddleware"),
    "behind csrf in the session": (
        f"CSRF_USE_SESSIONS = True; MIDDLEWARE.remove({CSRF}); MIDDLEWARE.insert(0, {CSRF})",
        "E007",
        "CsrfViewMiddleware",
    ),
    "behind another's": (
        'MIDDLEWARE.insert(0, "hijack.middleware.HijackUserMiddleware")',
        "E007",
        "HijackUserMiddleware",
    ),
    "cache inside": (f"MIDDLEWARE += [{UPDATE}, {FETCH}]", "W002", "before SessionLockMiddleware"),
    "messages in a cookie first": ("del MESSAGE_STORAGE", "W003", "SessionStorage"),
    "the cache's settings": ('SESSION_CACHE_ALIAS = "sessions"', "W005", "SESSION_CACHE_ALIAS"),
    "another package's settings": ('SESSION_REDIS_HOST = "localhost"', "W005", "SESSION_REDIS_HOST"),
    "a cookie's setting with a slip": ("SESSION_COOKIE_HTTP_ONLY = True", "W005", "SESSION_COOKIE_HTTP_ONLY"),
    "lifetimes that Django decides": (
        'import sessionlock; SESSION_LOCK_OPTIONS = {"session": sessionlock.SessionPolicy(idle=60)}',
        "W006",
        "SESSION_COOKIE_AGE",
    ),
    "messages in a cookie": (
        'MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"',
        "W003",
        "SessionStorage",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_check_tells_each_mistake_and_its_remedy(project: Project, name: str) -> None:
    changed, expected, told = MISTAKES[name]
    ids, text = project.check(changed)
    assert [one for one in ids if one.startswith("sessionlock.")] == [f"sessionlock.{expected}"], text
    assert told in text


FINE = {
    "as documented": "",
    "a subclass of ours": 'MIDDLEWARE[0] = "own.Guarded"',
    "cache outside": f"MIDDLEWARE = [{UPDATE}, *MIDDLEWARE, {FETCH}]",
    "csrf outside": f"MIDDLEWARE.remove({CSRF}); MIDDLEWARE.insert(0, {CSRF})",
    "pickle by choice": 'SESSION_SERIALIZER = "pickles.PickleSerializer"; SESSION_LOCK_PICKLE = True',
    "without messages": ('del MESSAGE_STORAGE; MIDDLEWARE.pop(); INSTALLED_APPS.remove("django.contrib.messages")'),
    "the app without its engine": (
        f'SESSION_ENGINE = "django.contrib.sessions.backends.db"; MIDDLEWARE[0] = {DJANGOS}; del MESSAGE_STORAGE'
    ),
    "settings of its own": 'SESSION_TIMEOUT_HINT = 5; SESSION_COOKIE_NAME = "shop"; SESSION_COOKIE_AGE = 60',
    "what Django does not decide": (
        'import sessionlock; SESSION_LOCK_OPTIONS = {"session": sessionlock.SessionPolicy(max_field=4096)}'
    ),
    "all settings": (
        'SESSION_LOCK_MODE = "auto"; SESSION_LOCK_WAIT = 2; SESSION_LOCK_LEASE = 8.5; SESSION_LOCK_GRACE = 0;'
        'SESSION_LOCK_OPTIONS = {"prefix": "shop"}; SESSION_LOCK_ROUTES = {"/feed/*": "read"};'
        'SESSION_LOCK_MERGE = {"cart": "append"}; SESSION_LOCK_ABSOLUTE = 86400; SESSION_LOCK_BODY_LIMIT = 0'
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_check_finds_nothing_where_nothing_is_wrong(project: Project, name: str) -> None:
    assert project.check(FINE[name]) == ([], "")


def test_check_deploy_tells_of_the_cookie_and_the_store(project: Project) -> None:
    """Django's own checks look for Django's own name."""
    ids, _ = project.check('INSTALLED_APPS.remove("django.contrib.sessions")', deploy=True)
    assert "security.W011" in ids
    assert "security.W014" not in ids
    ids, _ = project.check(
        "SESSION_COOKIE_SECURE = True; SESSION_COOKIE_HTTPONLY = False;"
        'INSTALLED_APPS.remove("django.contrib.sessions"); SESSION_LOCK_URL = "redis://localhost:1/0"',
        deploy=True,
    )
    assert "security.W011" not in ids
    assert {"security.W014", "sessionlock.W004"} <= set(ids)
    ids, text = project.check('SESSION_LOCK_URL = "memory://"', deploy=True)
    assert "sessionlock.W007" in ids
    assert "each process has sessions of its own" in text


# --- without the app


@pytest.mark.parametrize(
    "name",
    [
        "unknown setting",
        "no url",
        "lease",
        "serializer",
        "engine",
        "Django's outside",
        "Django's inside",
        "another package's",
        "twice",
        "twice, once by another name",
        "behind auth",
    ],
)
def test_a_server_refuses_to_start_with_what_can_never_work(project: Project, name: str) -> None:
    changed, _, told = MISTAKES[name]
    said = project.serve(changed)
    assert said.startswith("REFUSED"), said
    assert told in said
    assert "ANSWERED" not in said


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("Django's instead", "ERROR"),
        ("a descendant of Django's instead", "ERROR"),
        ("cache inside", "WARNING"),
        ("messages in a cookie first", "WARNING"),
        ("the cache's settings", "WARNING"),
    ],
)
def test_a_server_logs_once_what_is_merely_wrong(project: Project, name: str, level: str) -> None:
    changed, expected, told = MISTAKES[name]
    said = project.serve(changed)
    logged = [line for line in said.splitlines() if f"sessionlock.{expected}" in line]
    assert len(logged) == 1, said
    assert logged[0].startswith(level)
    assert told in logged[0]


def test_a_server_says_when_its_store_cannot_be_used(project: Project) -> None:
    said = project.serve('SESSION_LOCK_URL = "redis://localhost:1/0"; SESSION_LOCK_OPTIONS = {"retry_for": 0.1}')
    assert said.startswith("WARNING sessionlock.W004"), said
    assert "ANSWERED 503" in said


def test_a_store_that_says_nothing_does_not_hold_up_the_start(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        started = time.monotonic()
        ids, _ = project.check(f'SESSION_LOCK_URL = "{url}"', deploy=True)
    assert "sessionlock.W004" in ids
    # A second for each of the two times that it is asked; without a limit it would never end.
    assert time.monotonic() - started < 6


def test_silenced_is_silenced(project: Project) -> None:
    said = project.serve('del MESSAGE_STORAGE; SILENCED_SYSTEM_CHECKS = ["sessionlock.W003"]')
    assert "W003" not in said
    assert said.startswith("ANSWERED 200")


# What stands behind a function is seen when a request passes.
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ('MIDDLEWARE.insert(0, "own.wrapped_djangos")', "E004"),
        ('MIDDLEWARE.insert(1, "own.wrapped_djangos")', "E004"),
        ('MIDDLEWARE.insert(0, "own.wrapped_ours")', "E005"),
        ('MIDDLEWARE.append("own.wrapped_ours")', "E005"),
    ],
)
def test_a_hidden_mistake_is_told_once_and_keeps_no_lock(project: Project, changed: str, told: str) -> None:
    said = project.serve(changed)
    assert said.count(f"ERROR sessionlock.{told}") == 1, said
    assert said.count("ANSWERED 200") == 2, said
    assert "ANSWERED 200 4" in said
    assert "HOLDER None" in said


def test_an_older_django_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import django
    from django.core.exceptions import ImproperlyConfigured

    from sessionlock.integrations.django import checks

    monkeypatch.setattr(django, "VERSION", (4, 2, 16, "final", 0))
    with pytest.raises(ImproperlyConfigured, match=r"needs Django 5\.2 or later; this is 4\.2\.16"):
        checks.refuse()
