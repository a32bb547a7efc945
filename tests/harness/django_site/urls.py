"""The views; those named ``a...`` are coroutines that do the same."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.contrib import messages
from django.contrib.auth import aauthenticate, alogin, alogout, authenticate, login, logout
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from sessionlock.integrations.django.decorators import (
    locks_session,
    session_lock_exempt,
    session_policy,
    session_readonly,
)

Request = Any
entered = threading.Event()  # a view that waits is there
go_on = threading.Event()


def add(request: Request, item: str) -> HttpResponse:
    request.session.setdefault("cart", []).append(item)
    return JsonResponse({"cart": request.session["cart"]})


async def aadd(request: Request, item: str) -> HttpResponse:
    cart = await request.session.asetdefault("cart", [])
    cart.append(item)
    return JsonResponse({"cart": cart})


def slow_add(request: Request, item: str) -> HttpResponse:
    """As people write it, with time between loading and saving in which another request may come."""
    cart = request.session.get("cart", [])
    time.sleep(0.005)
    request.session["cart"] = [*cart, item]
    return HttpResponse()


async def in_memory(request: Request) -> HttpResponse:
    """A coroutine that uses the session as a sync view does."""
    request.session["count"] = request.session.get("count", 0) + 1
    return JsonResponse({"count": request.session["count"]})


def cart(request: Request) -> HttpResponse:
    return JsonResponse({"cart": request.session.get("cart", [])})


def quiet(request: Request) -> HttpResponse:
    return HttpResponse("nothing")


def put(request: Request, key: str, value: str) -> HttpResponse:
    request.session[key] = value
    return HttpResponse(status=int(request.GET.get("status", 200)))


def take(request: Request, key: str) -> HttpResponse:
    del request.session[key]
    return HttpResponse()


def expire(request: Request, seconds: int) -> HttpResponse:
    request.session["expires"] = True
    request.session.set_expiry(seconds)
    return HttpResponse()


def cycle(request: Request) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse()


async def acycle(request: Request) -> HttpResponse:
    await request.session.acycle_key()
    return HttpResponse()


def flush(request: Request) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


def log_in(request: Request, name: str) -> HttpResponse:
    login(request, authenticate(request, username=name))
    return HttpResponse()


def log_out(request: Request) -> HttpResponse:
    logout(request)
    return HttpResponse()


async def alog_in(request: Request, name: str) -> HttpResponse:
    await alogin(request, await aauthenticate(request, username=name))
    return HttpResponse()


async def alog_out(request: Request) -> HttpResponse:
    await alogout(request)
    return HttpResponse()


def who(request: Request) -> HttpResponse:
    return HttpResponse(request.user.username)


async def awho(request: Request) -> HttpResponse:
    return HttpResponse((await request.auser()).username)


def say(request: Request, text: str) -> HttpResponse:
    messages.info(request, text)
    return HttpResponse()


def heard(request: Request) -> HttpResponse:
    return JsonResponse({"messages": [str(message) for message in messages.get_messages(request)]})


def wait(request: Request) -> HttpResponse:
    """Loads its session and changes it when the test says go on."""
    request.session.get("waited")
    entered.set()
    assert go_on.wait(10)
    request.session["waited"] = True
    return HttpResponse()


def wait_and_see(request: Request) -> HttpResponse:
    seen = request.session.get("cart")
    entered.set()
    assert go_on.wait(10)
    return JsonResponse({"cart": seen})


async def await_(request: Request) -> HttpResponse:
    request.session["waiting"] = True
    entered.set()
    while not go_on.is_set():
        await asyncio.sleep(0.005)
    request.session["waited"] = True
    return HttpResponse()


def stream(request: Request) -> HttpResponse:
    request.session["streamed"] = True

    def parts() -> Iterator[bytes]:
        yield b"one"
        entered.set()
        assert go_on.wait(10)
        yield b"two"

    return StreamingHttpResponse(parts())


async def astream(request: Request) -> HttpResponse:
    await request.session.aset("streamed", True)

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    return StreamingHttpResponse(parts())


def broken(request: Request) -> HttpResponse:
    request.session["half"] = True
    raise ZeroDivisionError


def call_self(request: Request) -> HttpResponse:
    """Calls its own application with the same cookie."""
    from django.test import Client

    client = Client()
    client.cookies["sessionid"] = request.COOKIES["sessionid"]
    answers = [client.get("/cart"), client.post("/add/x")]
    return JsonResponse({"answers": [answer.status_code for answer in answers]})


@session_readonly
def change_though_readonly(request: Request) -> HttpResponse:
    request.session["cart"] = []
    return HttpResponse()


@session_readonly
def change_deep_though_readonly(request: Request) -> HttpResponse:
    request.session["cart"].append("x")
    return HttpResponse()


def replaced(request: Request, kind: str) -> HttpResponse:
    """Puts something else where the session is."""
    from sessionlock.integrations.django.store import SessionStore

    request.session["changed"] = True
    if kind == "gone":
        del request.session
    else:
        request.session = {"dict": {"of": "another"}, "none": None, "session": SessionStore()}[kind]
    if kind == "session":
        request.session["of"] = "another"
    return HttpResponse()


def count(request: Request) -> HttpResponse:
    number = request.session.get("count", 0)
    time.sleep(0.002)
    request.session["count"] = number + 1
    return HttpResponse()


def mode(request: Request) -> HttpResponse:
    return HttpResponse(request.session.sessionlock.mode)


async def amode(request: Request) -> HttpResponse:
    return HttpResponse(request.session.sessionlock.mode)


class Modes(View):  # type: ignore[misc]
    def get(self, request: Request) -> HttpResponse:
        return mode(request)

    post = get

    @method_decorator(session_lock_exempt)  # type: ignore[untyped-decorator]
    def put(self, request: Request) -> HttpResponse:
        return mode(request)


@method_decorator(session_readonly, name="dispatch")
class ReadOnly(Modes):
    pass


urlpatterns = [
    path("add/<item>", add),
    path("aadd/<item>", aadd),
    path("slow_add/<item>", slow_add),
    path("in_memory", in_memory),
    path("cart", cart),
    path("quiet", quiet),
    path("put/<key>/<value>", put),
    path("take/<key>", take),
    path("expire/<int:seconds>", expire),
    path("cycle", cycle),
    path("acycle", acycle),
    path("flush", flush),
    path("login/<name>", log_in),
    path("logout", log_out),
    path("alogin/<name>", alog_in),
    path("alogout", alog_out),
    path("who", who),
    path("awho", awho),
    path("say/<text>", say),
    path("heard", heard),
    path("wait", wait),
    path("wait_and_see", wait_and_see),
    path("readonly_wait", session_readonly(wait_and_see)),
    path("await", await_),
    path("exempt_wait", session_lock_exempt(wait)),
    path("once_wait", session_policy(on_conflict="answer")(wait)),
    path("stream", stream),
    path("astream", astream),
    path("broken", broken),
    path("call_self", call_self),
    path("impatient", locks_session(wait=0.05)(quiet)),
    path("change_though_readonly", change_though_readonly),
    path("change_deep_though_readonly", change_deep_though_readonly),
    path("replaced/<kind>", replaced),
    path("exempt_count", session_lock_exempt(count)),
    path("mode", mode),
    path("amode", amode),
    path("locked_mode", locks_session(mode)),
    path("alocked_mode", locks_session(lease=3)(amode)),
    path("readonly_mode", session_readonly(mode)),
    path("exempt_mode", session_lock_exempt(amode)),
    path("class_modes", Modes.as_view()),
    path("class_readonly", ReadOnly.as_view()),
]
