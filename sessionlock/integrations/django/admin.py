"""The admin page within Django's admin: for those who may log in there.

::

    # urls.py
    from sessionlock.integrations.django.admin import sessions_admin

    urlpatterns = [
        path("admin/sessions/", include(sessions_admin(admin.site))),
        path("admin/", admin.site.urls),
    ]
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.urls import NoReverseMatch, path, reverse

from ...admin import Access, Done, PageAnswer, PageRequest, Site, check_blocking
from ...guard import SessionGuard
from ...operate import Operator
from .homes import home_of_threads

__all__ = ["primary_key_of", "sessions_admin"]

log: logging.Logger = logging.getLogger("sessionlock.admin")

SAID = {
    "show": "Looked at the value of %s.",
    "release": "Took the lock away.",
    "destroy": "Logged out.",
    "destroy_all": "Logged out everywhere.",
}


def _permitted(request: HttpRequest) -> Access:
    """By the permissions of Django's own sessions."""
    may: Any = getattr(getattr(request, "user", None), "has_perm", lambda permission: False)
    if not may("sessions.view_session"):
        return "locks"
    return "act" if may("sessions.delete_session") else "look"


async def _answered(guard: SessionGuard, asked: PageRequest) -> PageAnswer:
    async with Operator.of(guard) as operator:
        return await Site(operator).answer(asked)


def primary_key_of(name: str) -> str:
    """What sessions are bound to: the primary key of the user of that name; ``name`` itself where there is none."""
    model = get_user_model()
    try:
        user = model._default_manager.get_by_natural_key(name)
    except (model.DoesNotExist, AttributeError):
        return name
    return str(user._meta.pk.value_to_string(user))


def sessions_admin(site: Any, *, allow: Callable[[HttpRequest], Access] = _permitted) -> Any:
    """Patterns for ``include()``. ``site``: the ``AdminSite``, which asks for its own log-in first.

    ``allow``: what one of those who may log in there may: ``"locks"``, also values (True or ``"look"``), also take
    locks and log out (``"act"``), or nothing. By default all see locks, who has the permission
    ``sessions.view_session`` sees values, and who has ``sessions.delete_session`` as well acts. Redis, prefix and
    serializer are those of the settings. What was done is in the admin's own log, too.

    Raises:
        ConfigurationError: ``allow`` is a coroutine function.
    """
    check_blocking(allow, "sessions_admin")

    def view(request: HttpRequest, below: str = "") -> HttpResponse:
        root = request.path.removesuffix(below)
        user, form = getattr(request, "user", None), request.POST.copy()
        if named := form.get("user", "").strip():
            form["user"] = primary_key_of(named)
        asked = PageRequest(
            request.method or "GET",
            f"/{below}",
            root,
            query=request.META.get("QUERY_STRING", ""),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=form.urlencode().encode(),
            secure=request.is_secure(),
            access=allow(request),
            who=str(getattr(user, "get_username", str)()),
            forms_are_ours=False,
            marks=f'<input type="hidden" name="csrfmiddlewaretoken" value="{get_token(request)}">',
            back=_index_of(site),
            users_are="by user name or primary key; a login binds its session to its user",
        )
        answer: PageAnswer = home_of_threads().run(_answered, asked)
        if answer.done is not None:
            _enter(user, answer.done)
        response = HttpResponse(answer.body, status=answer.status)
        for name, value in answer.headers:
            response[name] = value
        return response

    protected = site.admin_view(view)
    return [
        path("", protected, name="sessionlock"),
        path("<path:below>", protected, name="sessionlock-below"),
    ], "sessionlock"


def _index_of(site: Any) -> str:
    try:
        return str(reverse("admin:index", current_app=site.name))
    except NoReverseMatch:
        return ""


def _enter(user: Any, done: Done) -> None:
    """In the log of Django's admin, where there is one. It was done: a log that fails changes nothing of that."""
    if not apps.is_installed("django.contrib.admin") or getattr(user, "pk", None) is None:
        return
    from django.contrib.admin.models import CHANGE, DELETION, LogEntry

    said = SAID[done.what] + ("" if done.number else " There was none any more.")
    try:
        LogEntry.objects.create(
            user_id=user.pk,
            object_id=done.digest,
            object_repr=f"{'user' if done.what == 'destroy_all' else 'session'} {done.digest}",
            action_flag=DELETION if done.what.startswith("destroy") else CHANGE,
            change_message=said.replace("%s", done.key[:200]),
        )
    except Exception:
        log.exception("what was done on the sessions' page is not in the admin's log")
