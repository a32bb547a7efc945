"""``@session_locked`` on views of every kind, in the frameworks that call them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import flask
import flask.views
import httpx
import pytest
import quart
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import sessionlock
from sessionlock import ConfigurationError, Session, SessionGuard, SessionNotFound, blocking
from sessionlock.decorator import session_locked
from sessionlock.views.session_id import cookie, header
from tests.harness.programs import run_program

if TYPE_CHECKING:
    from http import client as not_imported

    import sessionlock as for_type_checkers

SID = "the-sid"
COOKIES = {"session_id": SID}
locked = session_locked(cookie("session_id"))


class Foreign:
    """Somebody else's class that is called like ours; say SQLAlchemy's."""


@pytest.fixture
async def guard(default_guard: SessionGuard) -> SessionGuard:
    """The session exists and its cart is empty."""
    await default_guard.create({"cart": []}, sid=SID)
    return default_guard


@pytest.fixture
def threads(threads: blocking.SessionGuard) -> blocking.SessionGuard:
    """The same, where no loop runs."""
    threads.create({"cart": []}, sid=SID)
    return threads


def request(cookies: Mapping[str, str] = COOKIES, **headers: str) -> SimpleNamespace:
    return SimpleNamespace(method="GET", cookies=cookies, headers=headers)


async def fetch_twice(app: Any, path: str) -> list[Any]:
    """Two requests with the cookie; the answers' JSON."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", cookies=COOKIES) as client:
        return [(await client.get(path)).raise_for_status().json() for _ in range(2)]


# --- frameworks


@locked
async def starlette_async(request: Request, session: Session) -> JSONResponse:
    session["cart"].append("A")
    return JSONResponse(session["cart"])


@locked
def starlette_sync(request: Request, session: blocking.Session) -> JSONResponse:
    session["cart"].append("A")
    return JSONResponse(session["cart"])


class StarletteEndpoint(HTTPEndpoint):
    @locked
    async def get(self, request: Request, session: Session) -> JSONResponse:
        session["cart"].append("A")
        return JSONResponse(session["cart"])


@pytest.mark.anyio
@pytest.mark.parametrize("view", [starlette_async, starlette_sync, StarletteEndpoint])
async def test_starlette(guard: SessionGuard, view: Any) -> None:
    assert await fetch_twice(Starlette(routes=[Route("/add", view)]), "/add") == [["A"], ["A", "A"]]


fast = FastAPI()


@fast.get("/async/{item}")
@locked
async def fastapi_async(request: Request, session: Session, item: str, count: int = 1) -> list[str]:
    session["cart"] += [item] * count
    return cast("list[str]", session["cart"])


@fast.get("/sync/{item}")
@locked
def fastapi_sync(item: str, session: blocking.Session, request: Request) -> list[str]:
    session["cart"].append(item)
    return cast("list[str]", session["cart"])


@locked
async def the_cart(request: Request, session: Session) -> list[str]:
    return [*session["cart"], "as a dependency"]


@fast.get("/dependency")
async def fastapi_dependency(cart: Annotated[list[str], Depends(the_cart)]) -> list[str]:
    return cart


@pytest.mark.anyio
async def test_fastapi(guard: SessionGuard) -> None:
    assert await fetch_twice(fast, "/async/A?count=2") == [["A"] * 2, ["A"] * 4]
    assert await fetch_twice(fast, "/sync/B") == [["A"] * 4 + ["B"], ["A"] * 4 + ["B"] * 2]
    assert (await fetch_twice(fast, "/dependency"))[0][-1] == "as a dependency"
    paths = fast.openapi()["paths"]
    assert [p["name"] for p in paths["/async/{item}"]["get"]["parameters"]] == ["item", "count"]
    assert [p["name"] for p in paths["/sync/{item}"]["get"]["parameters"]] == ["item"]
    assert "requestBody" not in paths["/sync/{item}"]["get"]


def flask_app() -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/function/<item>")
    @locked
    def add(item: str, session: blocking.Session) -> list[str]:
        session["cart"].append(item)
        return list(session["cart"])

    @locked
    class Cart(flask.views.MethodView):
        def get(self, item: str, session: blocking.Session) -> list[str]:
            session["cart"].append(item)
            return list(session["cart"])

    app.add_url_rule("/class/<item>", view_func=Cart.as_view("cart"))
    return app


@pytest.mark.parametrize("path", ["/function/A", "/class/A"])
def test_flask(threads: blocking.SessionGuard, path: str) -> None:
    client = flask_app().test_client()
    client.set_cookie("session_id", SID)
    assert [client.get(path).json for _ in range(2)] == [["A"], ["A", "A"]]


@pytest.mark.anyio
async def test_quart(guard: SessionGuard) -> None:
    app = quart.Quart(__name__)

    @app.get("/add/<item>")
    @locked
    async def add(item: str, session: Session) -> list[str]:
        session["cart"].append(item)
        return list(session["cart"])

    @app.websocket("/look")
    @session_locked(cookie("session_id"), mode="read")
    async def look(session: Session) -> None:
        await quart.websocket.send_json(session["cart"])

    client = app.test_client()
    client.set_cookie("localhost", "session_id", SID)
    assert [await (await client.get("/add/A")).get_json() for _ in range(2)] == [["A"], ["A", "A"]]
    async with client.websocket("/look", headers={"cookie": f"session_id={SID}"}) as socket:
        assert await socket.receive_json() == ["A", "A"]


class AiohttpView(web.View):
    @locked
    async def get(self, session: Session) -> web.Response:
        session["cart"].append("A")
        return web.json_response(session["cart"])


@locked
async def aiohttp_function(request: web.Request, session: Session) -> web.Response:
    session["cart"].append("A")
    return web.json_response(session["cart"])


@pytest.mark.anyio
@pytest.mark.parametrize("view", [AiohttpView, aiohttp_function])
async def test_aiohttp(guard: SessionGuard, view: Any) -> None:
    app = web.Application()
    app.router.add_route("GET", "/add", view)
    async with TestClient(TestServer(app), cookies=COOKIES) as client:
        assert [await (await client.get("/add")).json() for _ in range(2)] == [["A"], ["A", "A"]]


# Django's settings are the process' own, so it gets a process of its own.
DJANGO = """
import asyncio, sys
import django
from django.conf import settings
from django.http import JsonResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from tests.harness.programs import run_program
import sessionlock
from sessionlock import blocking
from sessionlock.decorator import cookie, header, session_locked

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=True)
django.setup()
locked = session_locked(cookie("session_id"))

def add(session):
    session["cart"].append("A")
    return JsonResponse(session["cart"], safe=False)

@locked
def function(request, session):
    return add(session)

@session_locked(header("x-session"))
async def asynchronous(request, session):
    return add(session)

class Method(View):
    @locked
    def get(self, request, session):
        return add(session)

class Decorated(View):
    @method_decorator(locked)
    def get(self, request, session):
        return add(session)

@locked
class Whole(View):
    async def get(self, request, session):
        return add(session)

urlpatterns = [
    path("function", function),
    path("asynchronous", asynchronous),
    path("method", Method.as_view()),
    path("decorated", Decorated.as_view()),
    path("whole", Whole.as_view()),
]

from django.test import AsyncClient, Client

guard = blocking.configure(sys.argv[1])
sid = guard.create({"cart": []}).sid
count = 0
client = Client()
client.cookies["session_id"] = sid
for name in ("function", "method", "decorated"):
    count += 1
    answer = client.get(f"/{name}")
    assert answer.json() == ["A"] * count, answer.content

async def main():
    count = 3
    client = AsyncClient()
    client.cookies["session_id"] = sid
    for name in ("function", "asynchronous", "method", "decorated", "whole"):
        count += 1
        answer = await client.get(f"/{name}", headers={"x-session": sid})
        assert answer.json() == ["A"] * count, answer.content
    await sessionlock.default_guard().aclose()

asyncio.run(main())
print("fine")
"""


def test_django(redis_url: str) -> None:
    done = run_program("-c", DJANGO, redis_url)
    assert (done.stdout.strip(), done.returncode) == ("fine", 0), done.stderr


# --- where the id comes from


@pytest.mark.anyio
async def test_an_unknown_id_is_not_adopted(guard: SessionGuard) -> None:
    """Session fixation: an id that a browser brings begins no session, whatever the application says."""

    async def view(request: SimpleNamespace, session: Session) -> None:
        session["a"] = 1

    rejecting = session_locked(cookie("session_id"), missing="reject")(view)
    with pytest.raises(SessionNotFound):
        await rejecting(request({"session_id": "the-intruders"}))
    with pytest.raises(SessionNotFound, match="cookie 'session_id' is missing"):
        await rejecting(request({}))
    for decorator in (locked, session_locked(cookie("session_id"), missing="create")):
        with pytest.raises(ConfigurationError, match="told its id"):
            await decorator(view)(request({"session_id": "the-intruders"}))
    assert not (await guard.inspect("the-intruders")).exists

    @session_locked(lambda user: f"user-{user}", missing="create")
    async def of_the_applications_own(user: int, session: Session) -> None:
        session["a"] = 1

    await of_the_applications_own(7)
    assert (await guard.read("user-7"))["a"] == 1


@pytest.mark.anyio
async def test_own_callables(guard: SessionGuard) -> None:
    async def looked_up(*args: Any, **kwargs: Any) -> str:
        await anyio.lowlevel.checkpoint()
        return SID

    @session_locked(looked_up)
    async def view(session: Session) -> list[str]:
        return cast("list[str]", session["cart"])

    assert await view() == []

    @session_locked(looked_up)
    def sync_view(session: blocking.Session) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="cannot be"):
        await anyio.to_thread.run_sync(sync_view)
    with pytest.raises(ConfigurationError, match=r"cookie\('session_id'\)"):
        session_locked("session_id")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_where_the_request_is(guard: SessionGuard) -> None:
    """Among the arguments wherever it stands, in ``self.request``; cookies or COOKIES; headers of any case."""

    @session_locked(header("X-Session"))
    async def by_header(number: int, *, request: SimpleNamespace, session: Session) -> int:
        return number + len(session["cart"])

    assert await cast(Any, by_header)(1, request=request({}, **{"X-Session": SID})) == 1
    with pytest.raises(SessionNotFound, match="header 'X-Session'"):
        await cast(Any, by_header)(1, request=request())

    @locked
    async def view(first: object, session: Session) -> bool:
        return session.sid == SID

    assert await view(SimpleNamespace(method="GET", COOKIES=COOKIES, headers={}))
    assert await view(SimpleNamespace(scope={}, cookies=COOKIES, headers={}))  # a websocket
    assert await view(SimpleNamespace(request=request()))
    for not_a_request in (7, "text", None, SimpleNamespace(cookies=COOKIES, headers={})):
        with pytest.raises(ConfigurationError, match="no request was found"):
            await view(not_a_request)


# --- what is decorated


class Views:
    def __init__(self, name: str) -> None:
        self.name = name

    @locked
    async def method(self, request: SimpleNamespace, session: Session) -> tuple[str, str]:
        return self.name, session.sid

    @locked
    @staticmethod
    async def static_below(request: SimpleNamespace, session: Session) -> str:
        return session.sid

    @staticmethod
    @locked
    async def static_above(request: SimpleNamespace, session: Session) -> str:
        return session.sid

    @locked
    @classmethod
    async def class_below(cls, request: SimpleNamespace, session: Session) -> Any:
        return cls.__name__, session.sid

    @classmethod
    @locked
    async def class_above(cls, request: SimpleNamespace, session: Session) -> Any:
        return cls.__name__, session.sid

    @locked
    async def __call__(self, request: SimpleNamespace, session: Session) -> tuple[str, str]:
        return self.name, session.sid


@pytest.mark.anyio
async def test_methods(guard: SessionGuard) -> None:
    views = Views("mine")
    assert await views.method(request()) == ("mine", SID)
    assert await views(request()) == ("mine", SID)
    for static in (views.static_below, views.static_above, Views.static_below, Views.static_above):
        assert await static(request()) == SID
    for of_class in (views.class_below, Views.class_above):
        assert await cast(Any, of_class)(request()) == ("Views", SID)


@pytest.mark.anyio
async def test_callable_things(guard: SessionGuard) -> None:
    class Callable_:
        async def __call__(self, request: SimpleNamespace, session: Session) -> str:
            return session.sid

    async def function(prefix: str, request: SimpleNamespace, session: Session) -> str:
        return prefix + session.sid

    assert await cast(Any, locked(Callable_()))(request()) == SID
    bound = cast(Any, locked(functools.partial(function, "a ")))
    assert inspect.iscoroutinefunction(bound)
    assert await bound(request()) == f"a {SID}"


def test_generators_are_refused() -> None:
    async def asynchronous(request: SimpleNamespace, session: Session) -> AsyncIterator[int]:
        yield 1

    def synchronous(request: SimpleNamespace, session: Session) -> Iterator[int]:
        yield 1

    class View:
        async def get(self, request: SimpleNamespace, session: Session) -> AsyncIterator[int]:
            yield 1

    for view in (asynchronous, synchronous, View, functools.partial(asynchronous, request())):
        with pytest.raises(ConfigurationError, match="is a generator"):
            locked(view)


def test_what_is_no_view_is_refused() -> None:
    class Nothing:
        def fetch(self) -> None: ...

    with pytest.raises(ConfigurationError, match="no method of its own"):
        locked(Nothing)
    with pytest.raises(ConfigurationError, match="int objects"):
        locked(7)


@pytest.mark.anyio
async def test_sync_views_in_the_loop_and_async_ones_in_disguise(guard: SessionGuard) -> None:
    async def body(request: SimpleNamespace, session: Any) -> None: ...

    @locked
    def in_disguise(request: SimpleNamespace, session: Any) -> Any:
        return body(request, session)

    with pytest.raises(ConfigurationError, match="runs an event loop"):
        cast(Any, in_disguise)(request())
    with pytest.raises(ConfigurationError, match="not declared `async def`"):
        await anyio.to_thread.run_sync(in_disguise, request())
    assert (await guard.inspect(SID)).holder is None


# --- the parameter


async def only_name(request: SimpleNamespace, session): ...  # type: ignore[no-untyped-def]
async def only_annotation(request: SimpleNamespace, basket: Session) -> None: ...
async def optional(request: SimpleNamespace, basket: Optional[Session] = None) -> None: ...  # noqa: UP045
async def annotated(request: SimpleNamespace, basket: Annotated[Session, "ours"]) -> None: ...
async def mapping(request: SimpleNamespace, session: dict[str, Any]) -> None: ...
async def unresolved(request: SimpleNamespace, session: for_type_checkers.Session) -> None: ...
async def unresolved_foreign(request: SimpleNamespace, session: not_imported.HTTPConnection) -> None: ...
async def of_threads(request: SimpleNamespace, basket: blocking.Session) -> None: ...
async def by_keyword(request: SimpleNamespace, *, session: Session) -> None: ...
async def first(session: Session, request: SimpleNamespace) -> None: ...
async def both(request: SimpleNamespace, basket: Session, session: Foreign) -> None: ...
async def none(request: SimpleNamespace, session: Foreign) -> None: ...
async def none_at_all(request: SimpleNamespace) -> None: ...


@pytest.mark.parametrize(
    ("view", "left"),
    [
        (only_name, ["request"]),
        (only_annotation, ["request"]),
        (optional, ["request"]),
        (annotated, ["request"]),
        (mapping, ["request"]),
        (unresolved, ["request"]),
        (unresolved_foreign, ["request", "session"]),
        (of_threads, ["request"]),
        (by_keyword, ["request"]),
        (first, ["request"]),
        (both, ["request", "session"]),
        (none, ["request", "session"]),
        (none_at_all, ["request"]),
    ],
)
def test_the_parameter_disappears(view: Callable[..., Any], left: list[str]) -> None:
    decorated = cast(Any, locked(view))
    assert list(inspect.signature(decorated).parameters) == left
    assert set(decorated.__annotations__) - {"return"} == set(left)
    assert decorated.__annotations__["request"] is SimpleNamespace
    assert decorated.__name__ == view.__name__


def test_a_session_of_many_is_refused() -> None:
    async def view(request: SimpleNamespace, *session: Session) -> None: ...

    with pytest.raises(ConfigurationError, match="one parameter"):
        locked(view)


@pytest.mark.anyio
async def test_arguments_arrive_where_they_belong(guard: SessionGuard) -> None:
    @locked
    async def middle(
        request: SimpleNamespace, session: Session, a: int, b: int = 2, *rest: int, c: int = 3, **more: int
    ) -> Any:
        assert session.sid == SID
        return a, b, rest, c, more

    view = cast(Any, middle)
    assert await view(request(), 1) == (1, 2, (), 3, {})
    assert await view(request(), 1, 5, 6, 7, c=8, d=9) == (1, 5, (6, 7), 8, {"d": 9})
    assert await view(request(), b=5, a=1) == (1, 5, (), 3, {})
    assert await view(a=1, request=request()) == (1, 2, (), 3, {})

    @locked
    async def positional(session: Session, request: SimpleNamespace, /, a: int = 1) -> Any:
        return session.sid, a

    assert await cast(Any, positional)(request(), 2) == (SID, 2)


@pytest.mark.anyio
async def test_a_session_that_is_held_is_passed_on(guard: SessionGuard) -> None:
    @locked
    async def inner(request: SimpleNamespace, session: Session) -> None:
        session["cart"].append("inner")

    @locked
    async def outer(request: SimpleNamespace, session: Session) -> None:
        with pytest.raises(sessionlock.ReentrantLock, match="Pass the session on"):
            await inner(request)
        await cast(Any, inner)(request, session=session)

    await outer(request())
    assert (await guard.read(SID))["cart"] == ["inner"]


# --- options


@pytest.mark.anyio
async def test_options(guard: SessionGuard, redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url, prefix="another") as another:
        await another.create({"a": 1}, sid=SID)

        @session_locked(cookie("session_id"), guard=another, mode="read")
        async def reads(request: SimpleNamespace, session: Session) -> None:
            assert session["a"] == 1
            session["a"] = 2

        with pytest.raises(sessionlock.ReadOnlySession):
            await reads(request())

        @session_locked(cookie("session_id"), guard=another, wait=0, label="GET /cart", save_on_error=True)
        async def waits(request: SimpleNamespace, session: Session) -> None:
            holder = (await another.inspect(SID)).holder
            assert holder is not None
            assert holder.label.endswith("GET /cart")
            session["a"] = 2
            raise KeyError("mine")

        async with another.session_lock(SID):
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(refused, waits)
        with pytest.raises(KeyError):
            await waits(request())
        assert (await another.read(SID))["a"] == 2


async def refused(view: Callable[..., Any]) -> None:
    with pytest.raises(sessionlock.WaitTimedOut):
        await view(request())


def of_a_thread(request: SimpleNamespace, session: blocking.Session) -> str:
    return session.sid


def test_guards_of_both_faces(threads: blocking.SessionGuard) -> None:
    @session_locked(cookie("session_id"), guard=threads)
    def view(request: SimpleNamespace, session: blocking.Session) -> str:
        return session.sid

    @blocking.session_locked(cookie("session_id"))
    def of_the_blocking_face(request: SimpleNamespace, session: blocking.Session) -> str:
        return session.sid

    @session_locked(cookie("session_id"), guard=threads)
    async def asynchronous(request: SimpleNamespace, session: Session) -> None: ...

    assert view(request()) == of_the_blocking_face(request()) == SID
    assert of_the_blocking_face(request({"session_id": "unknown"})) not in (SID, "unknown")
    with pytest.raises(SessionNotFound):
        blocking.session_locked(cookie("session_id"), missing="reject")(of_a_thread)(request({}))
    with pytest.raises(ConfigurationError, match="not the one for threads"):
        anyio.run(asynchronous, request())
    with pytest.raises(ConfigurationError, match="is async"):
        blocking.session_locked(cookie("session_id"))(refused)


def test_no_framework_is_imported() -> None:
    done = run_program(
        "-c",
        "import sys, sessionlock.decorator, sessionlock.blocking, threading\n"
        "known = {'flask', 'quart', 'django', 'starlette', 'fastapi', 'aiohttp', 'sanic', 'litestar'}\n"
        "print(known & set(sys.modules), threading.active_count())",
    )
    assert (done.returncode, done.stdout) == (0, "set() 1\n"), done.stderr
