"""Sessions for Django under sessionlock::

    SESSION_ENGINE = "sessionlock.integrations.django"
    SESSION_LOCK_URL = "redis://localhost:6379/0"
    MIDDLEWARE = [..., "sessionlock.integrations.django.SessionLockMiddleware", ...]  # for Django's SessionMiddleware

    INSTALLED_APPS = [..., "sessionlock.integrations.django"]  # so that manage.py check looks at all that
    MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"  # messages in a cookie are not guarded

``request.session`` stays what it was, in sync and async views. ``docs/settings.md`` has what may be said besides.
"""

from __future__ import annotations

from typing import Any

from django.core.signals import setting_changed

from . import checks
from .decorators import locks_session, session_lock, session_lock_exempt, session_policy, session_readonly
from .homes import close, forget
from .middleware import SessionLockMiddleware
from .store import SessionStore

__all__ = [
    "SessionLockMiddleware",
    "SessionStore",
    "close",
    "locks_session",
    "session_lock",
    "session_lock_exempt",
    "session_policy",
    "session_readonly",
]


def _settings_changed(*, setting: str, **_: Any) -> None:
    if setting.startswith("SESSION_LOCK_") or setting == "SESSION_SERIALIZER":
        forget()


setting_changed.connect(_settings_changed)
checks.as_imported()
