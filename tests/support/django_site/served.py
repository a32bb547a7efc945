"""``application`` for gunicorn. ``SESSIONS``: the url for sessionlock, or a folder for Django's own file sessions."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from . import configure

where = os.environ["SESSIONS"]
if where.startswith("/"):
    configure(
        "",
        SESSION_ENGINE="django.contrib.sessions.backends.file",
        SESSION_FILE_PATH=where,
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    )
else:
    configure(where, SESSION_LOCK_WAIT=30)
application = get_wsgi_application()
