"""A page for administrators: who holds which session's lock, who waits, what a session holds, an account's sessions.

::

    from sessionlock.admin import asgi_admin

    page = asgi_admin("redis://localhost:6379/0", allow=lambda scope: scope["user"].is_staff)
    app.mount("/admin/sessions", page)

``allow`` says who may see locks (``"locks"``), also values (True or ``"look"``), and also act (``"act"``). No default.
"""

from .faces import asgi_admin, check_blocking, wsgi_admin
from .site import Access, Done, PageAnswer, PageRequest, Site

__all__ = ["Access", "Done", "PageAnswer", "PageRequest", "Site", "asgi_admin", "check_blocking", "wsgi_admin"]
