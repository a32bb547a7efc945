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

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.urls import path

from ...admin import Access, PageAnswer, PageRequest, Site
from ...guard import SessionGuard
from ...operate import Operator
from .homes import home_of_threads

__all__ = ["sessions_admin"]


def _staff(request: HttpRequest) -> Access:
    user: Any = getattr(request, "user", None)
    return "act" if getattr(user, "is_superuser", False) else "look"


async def _answered(guard: SessionGuard, asked: PageRequest) -> PageAnswer:
    async with Operator.of(guard) as operator:
        return await Site(operator).answer(asked)


def sessions_admin(site: Any, *, allow: Callable[[HttpRequest], Access] = _staff) -> Any:
    """Patterns for ``include()``. ``site``: the ``AdminSite``, which asks for its own log-in first.

    ``allow``: of those who may log in there, whether one may look (True or ``"look"``), or also take locks and log out
    (``"act"``). By default the superusers may act. Redis, prefix and serializer are those of the settings.
    """

    def view(request: HttpRequest, below: str = "") -> HttpResponse:
        root = request.path.removesuffix(below)
        asked = PageRequest(
            request.method or "GET",
            f"/{below}",
            root,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request.POST.urlencode().encode(),
            secure=request.is_secure(),
            access=allow(request),
            forms_are_ours=False,
            marks=f'<input type="hidden" name="csrfmiddlewaretoken" value="{get_token(request)}">',
        )
        answer: PageAnswer = home_of_threads().run(_answered, asked)
        response = HttpResponse(answer.body, status=answer.status)
        for name, value in answer.headers:
            response[name] = value
        return response

    protected = site.admin_view(view)
    return [
        path("", protected, name="sessionlock"),
        path("<path:below>", protected, name="sessionlock-below"),
    ], "sessionlock"
