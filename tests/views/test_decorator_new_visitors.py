"""``@session_locked(cookie(...))`` where the visitor has no session yet: it begins, and the answer sets the cookie."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import Morsel, SimpleCookie
from typing import Annotated, Any, cast

import flask
import flask.views
import httpx
import litestar
import pytest
import quart
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import Depends, FastAPI, Response
from litestar.testing import AsyncTestClient
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from sessionlock import ConfigurationError, Session, SessionGuard, SessionNotFound, SessionPolicy, blocking
from sessionlock.decorator import session_locked
from sessionlock.views.session_id import cookie
from tests.harness.programs import run_program

locked = session_locked(cookie("session_id"))


@pytest.fixture
def guard(default_guard: SessionGuard) -> SessionGuard:
    return default_guard


async def records(redis_url: str) -> int:
    """How many keys there are."""
    async with Redis.from_url(redis_url) as client:
        return len(await client.keys("*"))


def browser(app: Any, url: str = "http://test", **cookies: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url, cookies=cookies)


def set_by(answer: Any, name: str = "session_id") -> Morsel[str] | None:
    """The one cookie of this name that an answer sets."""
    headers = answer.headers
    lines = headers.get_list("set-cookie") if hasattr(headers, "get_list") else headers.getlist("set-cookie")
    found = [morsel for line in lines for morsel in SimpleCookie(line).values() if morsel.key == name]
    assert len(found) <= 1
    return found[0] if found else None


# --- frameworks


@locked
async def starlette_async(request: Request, session: Session) -> JSONResponse:
    session.setdefault("cart", []).append("A")
    return JSONResponse(session["cart"])


@locked
def starlette_sync(request: Request, session: blocking.Session) -> JSONResponse:
    session["cart"] = [*session.get("cart", []), "A"]
    return JSONResponse(session["cart"])


@locked
async def starlette_streamed(request: Request, session: Session) -> StreamingResponse:
    session.setdefault("cart", []).append("A")
    return StreamingResponse(iter(["[", ",".join('"A"' for _ in session["cart"]), "]"]))


class StarletteEndpoint(HTTPEndpoint):
    @locked
    async def get(self, request: Request, session: Session) -> JSONResponse:
        session.setdefault("cart", []).append("A")
        return JSONResponse(session["cart"])


@pytest.mark.anyio
@pytest.mark.parametrize("view", [starlette_async, starlette_sync, starlette_streamed, StarletteEndpoint])
async def test_starlette(guard: SessionGuard, view: Any) -> None:
    """B17. The second request has the cookie that the first was given, and so the same session."""
    async with browser(Starlette(routes=[Route("/add", view)])) as visitor:
        answer = await visitor.get("/add")
        assert (answer.status_code, answer.json()) == (200, ["A"])
        given = set_by(answer)
        assert given is not None
        assert (await guard.read(given.value))["cart"] == ["A"]
        assert (given["path"], given["httponly"], given["samesite"], given["secure"]) == ("/", True, "Lax", "")
        assert int(given["max-age"]) == guard.session_policy.idle
        assert answer.headers["vary"] == "Cookie"
        assert (await visitor.get("/add")).json() == ["A", "A"]


fast = FastAPI()


@fast.get("/response")
@locked
async def fastapi_response(request: Request, session: Session) -> JSONResponse:
    session.setdefault("cart", []).append("A")
    return JSONResponse(session["cart"])


@fast.get("/parameter")
@locked
async def fastapi_parameter(request: Request, response: Response, session: Session) -> list[str]:
    session.setdefault("cart", []).append("A")
    return cast("list[str]", session["cart"])


@fast.get("/sync")
@locked
def fastapi_sync(request: Request, answer: Response, session: blocking.Session) -> list[str]:
    session["cart"] = [*session.get("cart", []), "A"]
    return cast("list[str]", session["cart"])


@fast.get("/dependency")
async def fastapi_dependency(cart: Annotated[list[str], Depends(fastapi_parameter)]) -> list[str]:
    return cart


@fast.get("/no-response/{product}")
@locked
async def fastapi_no_response(request: Request, product: str, session: Session) -> list[str]:
    if product != "nothing":
        session.setdefault("cart", []).append(product)
    return cast("list[str]", session.get("cart", []))


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/response", "/parameter", "/sync", "/dependency"])
async def test_fastapi(guard: SessionGuard, path: str) -> None:
    async with browser(fast) as visitor:
        assert [(await visitor.get(path)).json() for _ in range(2)] == [["A"], ["A", "A"]]


@pytest.mark.anyio
async def test_an_answer_that_cannot_carry_a_cookie(guard: SessionGuard, redis_url: str) -> None:
    """Nothing is stored that nobody could reach, and the error says what to do. Who only looks gets an answer."""
    async with browser(fast) as visitor:
        with pytest.raises(ConfigurationError, match=r"type list cannot carry one.*`response: Response`"):
            await visitor.get("/no-response/A")
        assert await records(redis_url) == 0
        assert (await visitor.get("/no-response/nothing")).json() == []
        visitor.cookies["session_id"] = (await guard.create({"cart": ["A"]})).sid
        assert (await visitor.get("/no-response/B")).json() == ["A", "B"]


def flask_app() -> flask.Flask:
    app = flask.Flask(__name__)

    def add(session: blocking.Session) -> list[str]:
        session["cart"] = [*session.get("cart", []), "A"]
        return list(session["cart"])

    @app.get("/list")
    @locked
    def a_list(session: blocking.Session) -> list[str]:
        return add(session)

    @app.get("/text")
    @locked
    def text(session: blocking.Session) -> str:
        return flask.json.dumps(add(session))

    @app.get("/tuple")
    @locked
    def a_tuple(session: blocking.Session) -> Any:
        return add(session), 200, {"x-more": "1"}

    @app.get("/response")
    @locked
    def response(session: blocking.Session) -> flask.Response:
        return flask.jsonify(add(session))

    @app.get("/transformed")
    @(lambda view: lambda **kwargs: list(view(**kwargs)))  # as flask-smorest and APIFlask do it: an object comes back
    @locked
    def transformed(session: blocking.Session) -> Any:
        return iter(add(session))

    @app.get("/async")
    @locked
    async def asynchronous(session: Session) -> list[str]:
        session.setdefault("cart", []).append("A")
        return list(session["cart"])

    @locked
    class Cart(flask.views.MethodView):
        def get(self, session: blocking.Session) -> list[str]:
            return add(session)

    app.add_url_rule("/class", view_func=Cart.as_view("cart"))
    return app


@pytest.mark.parametrize("path", ["/list", "/text", "/tuple", "/response", "/transformed", "/class"])
def test_flask(threads: blocking.SessionGuard, path: str) -> None:
    client = flask_app().test_client()
    first = client.get(path)
    assert flask.json.loads(first.data) == ["A"]
    given = set_by(first)
    assert given is not None
    assert (given["httponly"], given["samesite"], given["secure"]) == (True, "Lax", "")
    assert set_by(flask_app().test_client().get(path, base_url="https://test"))["secure"]  # type: ignore[index]
    assert flask.json.loads(client.get(path).data) == ["A", "A"]


def test_flask_async(threads: blocking.SessionGuard) -> None:
    client = flask_app().test_client()
    assert [client.get("/async").json for _ in range(2)] == [["A"], ["A", "A"]]


@pytest.mark.anyio
async def test_quart(guard: SessionGuard) -> None:
    app = quart.Quart(__name__)

    @app.get("/async")
    @locked
    async def asynchronous(session: Session) -> list[str]:
        session.setdefault("cart", []).append("A")
        return list(session["cart"])

    @app.get("/sync")
    @locked
    def sync(session: blocking.Session) -> list[str]:
        session["cart"] = [*session.get("cart", []), "A"]
        return list(session["cart"])

    client = app.test_client()
    for path in ("/async", "/sync"):
        client.cookie_jar.clear()  # type: ignore[union-attr]
        assert [await (await client.get(path)).get_json() for _ in range(2)] == [["A"], ["A", "A"]]


class AiohttpView(web.View):
    @locked
    async def get(self, session: Session) -> web.Response:
        session.setdefault("cart", []).append("A")
        return web.json_response(session["cart"])


@locked
async def aiohttp_function(request: web.Request, session: Session) -> web.Response:
    session.setdefault("cart", []).append("A")
    return web.json_response(session["cart"])


@pytest.mark.anyio
@pytest.mark.parametrize("view", [AiohttpView, aiohttp_function])
async def test_aiohttp(guard: SessionGuard, view: Any) -> None:
    app = web.Application()
    app.router.add_route("GET", "/add", view)
    async with TestClient(TestServer(app)) as client:
        assert [await (await client.get("/add")).json() for _ in range(2)] == [["A"], ["A", "A"]]


@pytest.mark.anyio
async def test_aiohttp_own_cookie(guard: SessionGuard) -> None:
    @locked
    async def view(request: web.Request, session: Session) -> web.Response:
        session["a"] = 1
        answer = web.Response()
        answer.set_cookie("session_id", session.sid, domain="own.test")
        return answer

    app = web.Application()
    app.router.add_get("/", view)
    async with TestClient(TestServer(app)) as client:
        (line,) = (await client.get("/")).headers.getall("Set-Cookie")
    assert "own.test" in line


@pytest.mark.anyio
async def test_aiohttp_answer_that_has_begun(guard: SessionGuard, redis_url: str) -> None:
    refused: list[ConfigurationError] = []

    @locked
    async def view(request: web.Request, session: Session) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        session["a"] = 1
        return answer

    async def watched(request: web.Request) -> web.StreamResponse:
        try:
            return await view(request)
        except ConfigurationError as error:
            refused.append(error)
            raise

    app = web.Application()
    app.router.add_get("/", watched)
    async with TestClient(TestServer(app)) as client:
        await client.get("/")
    assert "has begun already cannot carry" in str(refused[0])
    assert await records(redis_url) == 0


@pytest.mark.anyio
async def test_litestar(guard: SessionGuard) -> None:
    @litestar.get("/add")
    @locked
    async def add(request: litestar.Request[Any, Any, Any], session: Session) -> litestar.Response[list[str]]:
        session.setdefault("cart", []).append("A")
        return litestar.Response(session["cart"])

    @litestar.get("/own")
    @locked
    async def own(request: litestar.Request[Any, Any, Any], session: Session) -> litestar.Response[None]:
        session["a"] = 1
        answer = litestar.Response(None)
        answer.set_cookie("session_id", session.sid, domain="own.test")
        return answer

    async with AsyncTestClient(litestar.Litestar([add, own])) as client:
        first = await client.get("/add")
        given = set_by(first)
        assert given is not None
        assert (given["httponly"], given["samesite"]) == (True, "Lax")
        assert [first.json(), (await client.get("/add")).json()] == [["A"], ["A", "A"]]
        its_own = set_by(await client.get("/own"))
        assert its_own is not None
        assert its_own["domain"] == "own.test"


# Django's settings are the process' own, so it gets a process of its own.
DJANGO = """
import asyncio, sys
import django
from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views import View

from tests.harness.programs import run_program
import sessionlock
from sessionlock import blocking
from sessionlock.decorator import cookie, session_locked

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=True,
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []})
django.setup()
from rest_framework.decorators import api_view
from rest_framework.response import Response
from rest_framework.views import APIView
locked = session_locked(cookie("session_id", samesite="strict", max_age=60))

def put_in(session):
    session["cart"] = [*session.get("cart", []), "A"]
    return session["cart"]

@locked
def function(request, session):
    return JsonResponse(put_in(session), safe=False)

@locked
async def asynchronous(request, session):
    return JsonResponse(put_in(session), safe=False)

class Method(View):
    @locked
    def get(self, request, session):
        return JsonResponse(put_in(session), safe=False)

class Rest(APIView):
    @locked
    def get(self, request, session):
        return Response(put_in(session))

@api_view(["GET"])
@locked
def rest(request, session):
    return Response(put_in(session))

@locked
def own(request, session):
    session["a"] = 1
    answer = HttpResponse()
    answer.set_cookie("session_id", session.sid, domain="example.org")
    return answer

@locked
def logout(request, session):
    session.destroy()
    return HttpResponse()

VIEWS = {"function": function, "asynchronous": asynchronous, "method": Method.as_view(), "rest": Rest.as_view(),
    "drf": rest, "own": own, "logout": logout}
urlpatterns = [path(name, view) for name, view in VIEWS.items()]

from django.test import AsyncClient, Client

blocking.configure(sys.argv[1])
for name in ("function", "method", "rest", "drf"):
    client = Client()
    answer = client.get(f"/{name}", secure=name == "method")
    assert answer.json() == ["A"], answer.content
    given = answer.cookies["session_id"]
    assert (given["max-age"], given["samesite"], given["httponly"]) == (60, "Strict", True), given
    assert bool(given["secure"]) == (name == "method"), given
    assert "Cookie" in answer["Vary"], answer["Vary"]
    assert client.get(f"/{name}").json() == ["A", "A"]
client.get("/logout")
assert client.cookies["session_id"].value == "", client.cookies
assert client.get("/drf").json() == ["A"]
assert Client().get("/own").cookies["session_id"]["domain"] == "example.org"

async def main():
    client = AsyncClient()
    for count in (1, 2):
        answer = await client.get("/asynchronous")
        assert answer.json() == ["A"] * count, answer.content
    await sessionlock.default_guard().aclose()

asyncio.run(main())
print("fine")
"""


def test_django(redis_url: str) -> None:
    done = run_program("-c", DJANGO, redis_url)
    assert (done.stdout.strip(), done.returncode) == ("fine", 0), done.stderr


# --- what the cookie does


def app_of(view: Callable[..., Any], **options: Any) -> Starlette:
    decorate = session_locked(cookie("session_id", **options.pop("cookie", {})), **options)
    return Starlette(routes=[Route("/", decorate(view), methods=["GET", "POST"])])


@pytest.mark.anyio
async def test_who_puts_nothing_in(guard: SessionGuard, redis_url: str) -> None:
    async def look(request: Request, session: Session) -> JSONResponse:
        assert session.new
        return JSONResponse(session.get("cart"))

    for mode in ("lock", "read", "optimistic"):
        async with browser(app_of(look, mode=mode)) as visitor:
            answer = await visitor.get("/")
            assert (answer.json(), set_by(answer)) == (None, None)
    assert await records(redis_url) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("missing", [None, "create"])
async def test_an_unknown_id_is_never_adopted(guard: SessionGuard, missing: Any) -> None:
    """Session fixation. Neither is one that a cookie cannot mean."""

    async def add(request: Request, session: Session) -> JSONResponse:
        session["a"] = 1
        return JSONResponse(session.sid)

    ended = (await guard.create()).sid
    await guard.destroy(ended)
    for planted in ("the-intruders", ended, "x" * 600):
        async with browser(app_of(add, missing=missing), session_id=planted) as visitor:
            answer = await visitor.get("/")
        given = set_by(answer)
        assert given is not None
        assert given.value == answer.json() != planted
    assert not (await guard.inspect("the-intruders")).exists


@pytest.mark.anyio
async def test_an_id_that_was_replaced(guard: SessionGuard) -> None:
    """The browser has a newer one, or will in a moment: no cookie takes its place."""

    async def add(request: Request, session: Session) -> JSONResponse:
        raise AssertionError

    old = (await guard.create({"a": 1})).sid
    await guard.regenerate(old, grace=0)
    async with browser(app_of(add), session_id=old) as visitor:
        with pytest.raises(SessionNotFound) as caught:
            await visitor.get("/")
    assert caught.value.replaced


@pytest.mark.anyio
async def test_login_and_logout(guard: SessionGuard) -> None:
    async def view(request: Request, session: Session) -> JSONResponse:
        if request.method == "POST":
            session["user"] = "me"
            await session.regenerate(grace=0)
        elif "out" in request.query_params:
            await session.destroy()
        return JSONResponse(session.get("user"))

    async with browser(app_of(view)) as visitor:
        first = set_by(await visitor.post("/"))  # a new visitor's id is new already
        second = set_by(await visitor.post("/"))
        assert first is not None
        assert second is not None
        assert first.value != second.value
        assert (await visitor.get("/")).json() == "me"
        cleared = set_by(await visitor.get("/?out"))
        assert cleared is not None
        assert (cleared.value, cleared["max-age"], cleared["path"]) == ("", "0", "/")
        assert "session_id" not in visitor.cookies
        assert (await visitor.get("/")).json() is None


@pytest.mark.anyio
async def test_a_new_id_that_cannot_be_told(guard: SessionGuard) -> None:
    async def view(request: Request, session: Session) -> dict[str, str]:
        await session.regenerate()
        session["user"] = "me"
        return {}

    sid = (await guard.create({"a": 1})).sid
    async with browser(app_of(view), session_id=sid) as visitor:
        with pytest.raises(ConfigurationError, match=r"regenerate\(\) gave.*type dict"):
            await visitor.get("/")
    assert "user" not in await guard.read(sid)


@pytest.mark.anyio
async def test_the_cookie_lives_as_long_as_the_session(guard: SessionGuard) -> None:
    """Whoever comes back within the idle time keeps both. An id that was replaced is not given out again."""

    async def view(request: Request, session: Session) -> JSONResponse:
        return JSONResponse(session["a"])

    life = SessionPolicy(idle=100)
    sid = (await guard.create({"a": 1}, session=life)).sid
    async with browser(app_of(view, session=life), session_id=sid) as visitor:
        again = set_by(await visitor.get("/"))
        assert again is not None
        assert (again.value, again["max-age"]) == (sid, "100")
        new = await guard.regenerate(sid)
        assert set_by(await visitor.get("/", headers={"cookie": f"session_id={sid}"})) is None
    async with browser(app_of(view, session=life, mode="read"), session_id=new) as visitor:
        assert set_by(await visitor.get("/")) is None
    async with browser(app_of(view, cookie={"max_age": None}), session_id=new) as visitor:
        assert set_by(await visitor.get("/")) is None


@pytest.mark.anyio
async def test_options(guard: SessionGuard) -> None:
    async def view(request: Request, session: Session) -> JSONResponse:
        session["a"] = 1
        answer = JSONResponse(None, headers={"vary": "Accept"})
        if "own" in request.query_params:
            answer.set_cookie("session_id", session.sid, domain="own.test")
        return answer

    options = {"max_age": 7, "path": "/here", "domain": "test", "httponly": False, "samesite": None}
    async with browser(app_of(view, cookie=options), "https://test") as visitor:
        answer = await visitor.get("/")
        given = set_by(answer)
        assert given is not None
        assert [given[name] for name in ("max-age", "path", "domain")] == ["7", "/here", "test"]
        assert [given[name] for name in ("httponly", "samesite", "secure")] == ["", "", True]
        assert answer.headers["vary"] == "Accept, Cookie"
        own = set_by(await visitor.get("/?own"))
        assert own is not None
        assert own["domain"] == "own.test"
    for wrong in ({"max_age": 0}, {"samesite": "none"}, {"path": "here"}, {"secure": "yes"}):
        with pytest.raises(ConfigurationError):
            cookie("session_id", **cast(Any, wrong))
    with pytest.raises(ConfigurationError, match="name of a cookie"):
        cookie("session id")


@pytest.mark.anyio
async def test_a_view_that_fails(guard: SessionGuard, redis_url: str) -> None:
    async def view(request: Request, session: Session) -> JSONResponse:
        session["a"] = 1
        raise KeyError("mine")

    async with browser(app_of(view)) as visitor:
        with pytest.raises(KeyError):
            await visitor.get("/")
    assert await records(redis_url) == 0


def test_the_blocking_face(threads: blocking.SessionGuard) -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    @blocking.session_locked(cookie("session_id"))
    def view(session: blocking.Session) -> str:
        session["user"] = "me"
        if "out" in flask.request.args:
            session.destroy()
        return session.regenerate() if "in" in flask.request.args else session.sid

    client = app.test_client()
    for path in ("/", "/", "/?in", "/"):
        answer = client.get(path)
        given = set_by(answer)
        assert given is not None
        assert given.value == answer.text
        assert threads.read(answer.text)["user"] == "me"
    client.get("/?out")
    assert client.get_cookie("session_id") is None
