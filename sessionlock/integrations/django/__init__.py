"""Sessions for Django under sessionlock::

    SESSION_ENGINE = "sessionlock.integrations.django"
    SESSION_LOCK_URL = "redis://localhost:6379/0"
    MIDDLEWARE = [..., "sessionlock.integrations.django.SessionLockMiddleware", ...]  # for Django's SessionMiddleware

``request.session`` stays what it was, in sync and async views. See :mod:`.settings` for what may be said besides.
"""

from __future__ import annotations

from typing import Any

from django.core.signals import setting_changed

from .decorators import session_lock, session_lock_exempt, session_policy, session_readonly
from .homes import close, forget
from .middleware import SessionLockMiddleware
from .store import SessionStore

__all__ = [
    "SessionLockMiddleware",
    "SessionStore",
    "close",
    "session_lock",
    "session_lock_exempt",
    "session_policy",
    "session_readonly",
]


def _settings_changed(*, setting: str, **_: Any) -> None:
    if setting.startswith("SESSION_LOCK_") or setting == "SESSION_SERIALIZER":
        forget()


setting_changed.connect(_settings_changed)
