"""``INSTALLED_APPS = [..., "sessionlock.integrations.django"]``: ``manage.py check`` then looks at the set-up, too."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["SessionLockConfig"]


class SessionLockConfig(AppConfig):  # type: ignore[misc]
    """No models, no tables: only the checks of :mod:`.checks`."""

    name = "sessionlock.integrations.django"
    label = "sessionlock"
    verbose_name = "sessionlock"
    default = True
