"""A small Django site for the tests; ``configure(url)`` before anything of it is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.test import override_settings as django_override_settings


@contextmanager
def override_settings(**changed: Any) -> Iterator[None]:
    """Django's, as a decorator that keeps a test's types."""
    with django_override_settings(**changed):
        yield


def configure(url: str, **changed: Any) -> None:
    """Set Django up, once per process. ``url``: where the sessions live."""
    if settings.configured:
        return
    options: dict[str, Any] = {
        "SECRET_KEY": "for tests only",
        "DEBUG": False,
        "ALLOWED_HOSTS": ["*"],
        "ROOT_URLCONF": "tests.harness.django_site.urls",
        "SESSION_ENGINE": "sessionlock.integrations.django",
        "SESSION_LOCK_URL": url,
        "MIDDLEWARE": [
            "sessionlock.integrations.django.SessionLockMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        "MESSAGE_STORAGE": "django.contrib.messages.storage.session.SessionStorage",
        "AUTHENTICATION_BACKENDS": ["tests.harness.django_site.people.Backend"],
        "INSTALLED_APPS": ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        "DATABASES": {},
        "CACHES": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        "LOGGING_CONFIG": None,
        "USE_TZ": True,
    }
    settings.configure(**{**options, **changed})
    django.setup()
