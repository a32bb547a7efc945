"""The shop in Django, for server processes: ``tests.harness.django_site.shop:wsgi()`` and ``asgi()``."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import anyio
from django.http import JsonResponse
from django.urls import path

from sessionlock.integrations.django.decorators import locks_session

from ..asgi_shops import handlers
from ..flask_shop import call_it, wait_for
from . import configure

Asked = Any


def add(request: Asked) -> JsonResponse:
    items = request.session.get("cart", [])
    time.sleep(handlers.MOMENT)
    request.session["cart"] = [*items, request.GET["item"]]
    return JsonResponse({"pid": os.getpid()})


def cart(request: Asked) -> JsonResponse:
    return JsonResponse(handlers.cart(request.session), safe=False)


def pid(request: Asked) -> JsonResponse:
    return JsonResponse(os.getpid(), safe=False)


def hold(request: Asked) -> JsonResponse:
    request.session["held"] = request.GET["gate"]
    wait_for(request.GET["gate"])
    return JsonResponse({"pid": os.getpid()})


def call(request: Asked) -> JsonResponse:
    request.session["called"] = True
    where = f"http://{request.get_host()}"
    return JsonResponse(call_it(where, request.GET, request.headers["cookie"]))


def count(request: Asked) -> JsonResponse:
    number = request.session.get("number", 0)
    time.sleep(handlers.MOMENT)
    request.session["number"] = number + 1
    return JsonResponse({"pid": os.getpid()})


def login(request: Asked) -> JsonResponse:
    """What ``django.contrib.auth.login`` does to the session."""
    time.sleep(handlers.MOMENT)
    request.session.cycle_key()
    request.session["user_id"] = request.GET["user"]
    return JsonResponse({"pid": os.getpid()})


def logout(request: Asked) -> JsonResponse:
    time.sleep(handlers.MOMENT)
    request.session.flush()
    return JsonResponse({"pid": os.getpid()})


def who(request: Asked) -> JsonResponse:
    return JsonResponse(handlers.who(request.session))


async def alogin(request: Asked) -> JsonResponse:
    await anyio.sleep(handlers.MOMENT)
    await request.session.acycle_key()
    await request.session.aset("user_id", request.GET["user"])
    return JsonResponse({"pid": os.getpid()})


async def alogout(request: Asked) -> JsonResponse:
    await anyio.sleep(handlers.MOMENT)
    await request.session.aflush()
    return JsonResponse({"pid": os.getpid()})


async def awho(request: Asked) -> JsonResponse:
    user = await request.session.aget("user_id")
    return JsonResponse({"user": user, "cart": await request.session.aget("cart", [])})


async def acount(request: Asked) -> JsonResponse:
    number = await request.session.aget("number", 0)
    await anyio.sleep(handlers.MOMENT)
    await request.session.aset("number", number + 1)
    return JsonResponse({"pid": os.getpid()})


def upload(request: Asked) -> JsonResponse:
    """``file`` of a form, or any body."""
    size = request.FILES["file"].size if request.content_type == "multipart/form-data" else len(request.body)
    request.session["sizes"] = [*request.session.get("sizes", []), size]
    return JsonResponse({"size": size})


async def aadd(request: Asked) -> JsonResponse:
    items = await request.session.aget("cart", [])
    await anyio.sleep(handlers.MOMENT)
    await request.session.aset("cart", [*items, request.GET["item"]])
    return JsonResponse({"pid": os.getpid()})


async def acart(request: Asked) -> JsonResponse:
    return JsonResponse(await request.session.aget("cart", []), safe=False)


async def ahold(request: Asked) -> JsonResponse:
    await request.session.aset("held", request.GET["gate"])
    await handlers.passed(request.GET["gate"])
    return JsonResponse({"pid": os.getpid()})


async def acall(request: Asked) -> JsonResponse:
    await request.session.aset("called", True)
    where = f"http://{request.get_host()}"
    return JsonResponse(await handlers.call(where, request.GET, request.headers["cookie"]))


urlpatterns: list[Any] = []


def configured(*views: Any) -> None:
    """Set Django up with these views, and with sessions as the environment says."""
    from ..sites import BRIEF, PATIENTLY

    names = ("add", "cart", "hold", "call", "count", "login", "logout", "who")
    urlpatterns[:] = [path(name, view) for name, view in zip(names, views, strict=True)]
    urlpatterns.append(path("pid", pid))
    urlpatterns.append(path("upload", upload))
    urlpatterns.append(path("brief", locks_session(wait=BRIEF)(partial(views[0]))))
    store, way = os.environ["STORE"], os.environ["WAY"]
    options: dict[str, Any] = {"ROOT_URLCONF": __name__, "SESSION_LOCK_WAIT": PATIENTLY}
    if "DEFAULTS" in os.environ:
        del options["SESSION_LOCK_WAIT"]
    if way != "guarded":
        options |= {
            "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
            "CACHES": {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": store}},
            "MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware"],
        }
    configure(store, **options)


def wsgi() -> Any:
    from django.core.wsgi import get_wsgi_application

    configured(add, cart, hold, call, count, login, logout, who)
    return get_wsgi_application()


def asgi() -> Any:
    from django.core.asgi import get_asgi_application

    configured(aadd, acart, ahold, acall, acount, alogin, alogout, awho)
    return get_asgi_application()
