"""Other session middlewares beside ours: each with its own session where that is meant, named where it is a mistake."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import Column, Integer, create_engine
from sqlalchemy.orm import declarative_base
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starsessions import CookieStore
from starsessions import SessionMiddleware as Starsessions

from sessionlock import ConfigurationError, SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.views.cookies import CookieSettings
from tests.harness.asgi_calls import Call, browser

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Using `httpx` with"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(starlette_admin|sqladmin|wtforms|starsessions).*"),
]


async def remember(request: Request) -> Response:
    request.session.update(request.query_params)
    return JSONResponse(dict(request.session))


async def show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


ROUTES = [Route("/", show), Route("/remember", remember, methods=["GET", "POST"])]
THEIRS = Middleware(SessionMiddleware, secret_key="x", session_cookie="theirs")


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What was logged as an error."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler(logging.ERROR)
    logging.getLogger("sessionlock").addHandler(handler)
    yield found
    logging.getLogger("sessionlock").removeHandler(handler)


# --- where it is meant ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "inner",
    [THEIRS, Middleware(Starsessions, store=CookieStore("x"), lifetime=60, rolling=True, cookie_https_only=False)],
)
async def test_a_mounted_application_with_sessions_of_its_own(
    guard: SessionGuard, errors: list[str], method: str, inner: Middleware
) -> None:
    if inner is not THEIRS:
        from starsessions import SessionAutoloadMiddleware

        layers = [inner, Middleware(SessionAutoloadMiddleware)]
    else:
        layers = [inner]
    admin = Starlette(routes=ROUTES, middleware=layers)
    app = Starlette(
        routes=[*ROUTES, Mount("/admin", admin)], middleware=[Middleware(SessionLockMiddleware, guard=guard)]
    )
    async with browser(app) as client:
        assert (await client.request(method, "/remember?cart=a")).json() == {"cart": "a"}
        assert (await client.get("/admin/")).json() == {}
        assert (await client.request(method, "/admin/remember?admin=root")).json() == {"admin": "root"}
        for _ in range(2):
            assert (await client.get("/")).json() == {"cart": "a"}
            assert (await client.get("/admin/")).json() == {"admin": "root"}
        assert await guard.read(client.cookies["session_id"]) == {"cart": "a"}
    assert errors == []


async def test_mounted_below_another_session_middleware(guard: SessionGuard, errors: list[str]) -> None:
    shop = Starlette(routes=ROUTES, middleware=[Middleware(SessionLockMiddleware, guard=guard)])
    app = Starlette(routes=[Mount("/shop", shop), *ROUTES], middleware=[THEIRS])
    async with browser(app) as client:
        await client.post("/remember?admin=root")
        await client.post("/shop/remember?cart=a")
        for _ in range(2):
            assert (await client.get("/shop/")).json() == {"cart": "a"}
            assert (await client.get("/")).json() == {"admin": "root"}
        assert await guard.read(client.cookies["session_id"]) == {"cart": "a"}
    assert errors == []


async def test_two_guarded_sessions(guard: SessionGuard, redis_url: str, errors: list[str]) -> None:
    """A mounted application with another cookie has another session."""
    async with SessionGuard.from_url(redis_url, prefix="inner") as other:
        inner = Starlette(routes=ROUTES, middleware=[Middleware(SessionLockMiddleware, guard=other, cookie="inner")])
        app = Starlette(
            routes=[Mount("/in", inner), *ROUTES], middleware=[Middleware(SessionLockMiddleware, guard=guard)]
        )
        async with browser(app) as client:
            await client.post("/remember?a=1")
            await client.post("/in/remember?b=2")
            assert (await client.get("/in/")).json() == {"b": "2"}
            assert (await client.get("/")).json() == {"a": "1"}
            assert await guard.read(client.cookies["session_id"]) == {"a": "1"}
            assert await other.read(client.cookies["inner"]) == {"b": "2"}
    assert errors == []


def engine() -> Any:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


Base: Any = declarative_base()


class Thing(Base):  # type: ignore[misc]
    __tablename__ = "things"
    id = Column(Integer, primary_key=True)


async def test_sqladmin(guard: SessionGuard, errors: list[str]) -> None:
    """Its panel logs in by a session of its own."""

    class Login(AuthenticationBackend):
        async def login(self, request: Request) -> bool:
            form = await request.form()
            request.session.update({"token": form["username"]})
            return True

        async def logout(self, request: Request) -> bool:
            request.session.clear()
            return True

        async def authenticate(self, request: Request) -> bool:
            return "token" in request.session

    class Things(ModelView, model=Thing):
        pass

    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard)
    app.router.routes.extend(ROUTES)
    base = engine()
    Base.metadata.create_all(base)
    admin = Admin(app, base, authentication_backend=Login("x"))
    admin.add_view(Things)
    async with browser(app) as client:
        await client.post("/remember?cart=a")
        assert (await client.get("/admin/thing/list")).status_code == 302
        login = await client.post("/admin/login", data={"username": "root", "password": "x"})
        assert login.status_code == 302
        assert (await client.get("/admin/thing/list")).status_code == 200
        assert (await client.get("/")).json() == {"cart": "a"}
        assert await guard.read(client.cookies["session_id"]) == {"cart": "a"}
        await client.get("/admin/logout")
        assert (await client.get("/admin/thing/list")).status_code == 302
        assert (await client.get("/")).json() == {"cart": "a"}
    assert errors == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="starlette-admin needs Python 3.11")
async def test_starlette_admin(guard: SessionGuard, errors: list[str]) -> None:
    from starlette_admin.auth import AdminUser, AuthProvider
    from starlette_admin.contrib.sqla import Admin as OtherAdmin

    class Login(AuthProvider):
        async def login(self, username: str, password: str, remember_me: bool, request: Request) -> None:
            request.session.update({"username": username})

        async def authenticate(self, request: Request) -> AdminUser | None:
            return AdminUser(username=request.session["username"]) if "username" in request.session else None

        async def logout(self, request: Request) -> None:
            request.session.clear()

    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionLockMiddleware, guard=guard)])
    OtherAdmin(engine(), auth_provider=Login(), middlewares=[THEIRS], secret_key="x").mount_to(app)
    async with browser(app) as client:
        await client.post("/remember?cart=a")
        assert (await client.get("/admin/")).status_code in (302, 303, 307)
        (token,) = re.findall(r'name="csrftoken" value="([^"]+)"', (await client.get("/admin/login")).text)
        form = {"username": "root", "password": "x", "csrftoken": token}
        answer = await client.post("/admin/login", data=form)
        assert answer.status_code in (302, 303), answer.text
        assert (await client.get("/admin/")).status_code == 200
        assert (await client.get("/")).json() == {"cart": "a"}
        assert await guard.read(client.cookies["session_id"]) == {"cart": "a"}
    assert errors == []


# --- where it is a mistake --------------------------------------------------------------------------------------------


def wrong(guard: Any, *, inside: bool, theirs: Middleware = THEIRS, lifespan: bool = True) -> Starlette:
    ours = Middleware(SessionLockMiddleware, guard=guard)
    return Starlette(routes=ROUTES, middleware=[ours, theirs] if inside else [theirs, ours])


async def started(app: Any) -> list[dict[str, Any]]:
    """What it answers to a server that starts it, and stops it if it can."""
    async with Call(app, type="lifespan") as call:
        call.tell("lifespan.startup")
        with anyio.fail_after(10):
            while not call.sent:
                await anyio.sleep(0.001)
        call.tell("lifespan.shutdown")
        if call.sent[0]["type"] == "lifespan.startup.complete":
            await call.ended()
        return call.sent


STARSESSIONS = Middleware(Starsessions, store=CookieStore("x"), lifetime=60)


class Own(SessionMiddleware):
    pass


@pytest.mark.parametrize("theirs", [THEIRS, STARSESSIONS, Middleware(Own, secret_key="x")])
@pytest.mark.parametrize("where", ["inside", "outside"])
async def test_another_session_middleware_is_named_at_the_start(
    guard: SessionGuard, errors: list[str], theirs: Middleware, where: str
) -> None:
    (message,) = await started(wrong(guard, inside=where == "inside", theirs=theirs))
    assert message["type"] == "lifespan.startup.failed"
    assert f"stands {where} SessionLockMiddleware" in message["message"]
    assert "outermost first" in message["message"]
    assert errors == [message["message"]]


@pytest.mark.parametrize("where", ["inside", "outside"])
async def test_or_at_the_first_request(guard: SessionGuard, errors: list[str], where: str) -> None:
    """Of an application that is not told that it starts. It is never served half guarded."""
    async with browser(wrong(guard, inside=where == "inside")) as client:
        for _ in range(3):
            assert (await client.get("/")).status_code == 500
    (error,) = errors
    assert f"stands {where} SessionLockMiddleware" in error


async def test_wrapped_around_the_application(guard: SessionGuard) -> None:
    app = SessionLockMiddleware(Starlette(routes=ROUTES, middleware=[THEIRS]), guard)
    (message,) = await started(app)
    assert message["type"] == "lifespan.startup.failed"
    assert "stands inside" in message["message"]


async def test_one_that_hides_is_named_when_it_is_met(guard: SessionGuard, errors: list[str]) -> None:
    def hidden(app: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            await SessionMiddleware(app, "x")(scope, receive, send)

        return middleware

    ours, theirs = Middleware(SessionLockMiddleware, guard=guard), Middleware(hidden)
    for layers, found in (([ours, theirs], "has put a"), ([theirs, ours], "begins: another session middleware")):
        async with browser(Starlette(routes=ROUTES, middleware=layers)) as client:
            for number in range(3):
                assert (await client.post(f"/remember?a={number}")).status_code == 200
        (error,) = errors
        assert found in error
        assert "outermost first" in error
        errors.clear()


async def test_ours_twice(guard: SessionGuard, redis_url: str, errors: list[str]) -> None:
    """The same is told and does no harm; with other settings it is refused."""
    ours = Middleware(SessionLockMiddleware, guard=guard)
    async with browser(Starlette(routes=ROUTES, middleware=[ours, ours])) as client:
        for _ in range(2):
            assert (await client.post("/remember?a=1")).status_code == 200
        assert (await guard.inspect(client.cookies["session_id"])).holder is None
    (error,) = errors
    assert "Remove the inner one" in error
    errors.clear()
    async with SessionGuard.from_url(redis_url, prefix="other") as other:
        for again in (
            Middleware(SessionLockMiddleware, guard=other),
            Middleware(SessionLockMiddleware, guard=guard, cookie="b"),
        ):
            app = Starlette(routes=ROUTES, middleware=[ours, again])
            async with browser(app) as client:
                assert (await client.post("/remember?a=1")).status_code == 500
            (message,) = await started(Starlette(routes=ROUTES, middleware=[ours, again]))
            assert message["type"] == "lifespan.startup.failed"
            assert "different settings" in message["message"]


async def test_a_mounted_one_with_the_same_cookie_but_another_store(guard: SessionGuard, redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url, prefix="other") as other:
        inner = Starlette(routes=ROUTES, middleware=[Middleware(SessionLockMiddleware, guard=other)])
        app = Starlette(routes=[Mount("/in", inner)], middleware=[Middleware(SessionLockMiddleware, guard=guard)])
        async with browser(app) as client:
            assert (await client.post("/in/remember?a=1")).status_code == 500


async def test_a_right_order_is_not_complained_of(guard: SessionGuard, errors: list[str]) -> None:
    layers = [Middleware(CORSMiddleware, allow_origins=["*"]), Middleware(SessionLockMiddleware, guard=guard)]
    assert [one["type"] for one in await started(Starlette(routes=ROUTES, middleware=layers))] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert errors == []


# --- a store that is not there ----------------------------------------------------------------------------------------


def test_an_url_that_makes_no_sense() -> None:
    for url in ("http://localhost", "localhost:6379", "reddis://localhost"):
        with pytest.raises(ConfigurationError):
            SessionLockMiddleware(show, url)  # type: ignore[arg-type]


async def test_a_store_that_is_not_there_is_told_at_the_start(errors: list[str]) -> None:
    async with SessionGuard.from_url("redis://127.0.0.1:1/0", retry_for=0.1) as guard:
        app = Starlette(routes=ROUTES, middleware=[Middleware(SessionLockMiddleware, guard=guard)])
        assert (await started(app))[0]["type"] == "lifespan.startup.complete"
        (error,) = errors
        assert "127.0.0.1:1" in error


async def test_or_at_the_first_request_without_a_start(errors: list[str]) -> None:
    """Also if that has no session, and would need no store."""
    async with SessionGuard.from_url("redis://127.0.0.1:1/0", retry_for=0.1) as guard:
        app = Starlette(routes=ROUTES, middleware=[Middleware(SessionLockMiddleware, guard=guard)])
        async with browser(app) as client:
            for _ in range(3):
                assert (await client.get("/")).status_code == 200
        (error,) = errors
        assert "127.0.0.1:1" in error


# --- answers of ours --------------------------------------------------------------------------------------------------

CORS: dict[str, Any] = {
    "allow_origins": ["https://app.test"],
    "allow_credentials": True,
    "expose_headers": ["retry-after"],
}
ASKED = {"origin": "https://app.test"}


@pytest.mark.parametrize("order", ["cors outside", "cors inside"])
async def test_cors_headers_are_on_our_answers(guard: SessionGuard, redis_url: str, order: str) -> None:
    """Else a page's script sees "network error" instead of 503, and cannot try again."""
    layers = [Middleware(CORSMiddleware, **CORS), Middleware(SessionLockMiddleware, guard=guard, wait=0)]
    app = Starlette(routes=ROUTES, middleware=layers if order == "cors outside" else layers[::-1])
    sid = (await guard.create({"a": 1})).sid
    async with SessionGuard.from_url(redis_url) as elsewhere, browser(app, sid) as client:
        async with elsewhere.session_lock(sid):
            answer = await client.post("/remember", headers=ASKED)
            assert answer.status_code == 503
            assert answer.headers["access-control-allow-origin"] == "https://app.test"
            assert answer.headers["access-control-expose-headers"] == "retry-after"
            assert answer.headers.get_list("content-type") == ["application/problem+json"]
        assert (await client.post("/remember", headers=ASKED)).status_code == 200


@pytest.mark.parametrize("order", ["cors outside", "cors inside"])
async def test_what_the_application_has_added_stays(guard: SessionGuard, order: str) -> None:
    """Where the save is refused as the answer begins: headers and cookies of the application and its middlewares."""

    async def view(request: Request) -> Response:
        request.session["n"] = request.session.get("n", 0) + 1
        async with guard.session_lock(request.session.sessionlock.sid) as other:  # type: ignore[attr-defined]
            other["n"] = 7
        answer = JSONResponse(
            {},
            headers={
                "x-request-id": "42",
                "etag": '"x"',
                "cache-control": "public",
                "content-security-policy": "default-src none",
            },
        )
        answer.set_cookie("theme", "dark")
        return answer

    layers = [Middleware(CORSMiddleware, **CORS), Middleware(SessionLockMiddleware, guard=guard, mode="optimistic")]
    routes = [Route("/", view, methods=["POST"])]
    app = Starlette(routes=routes, middleware=layers if order == "cors outside" else layers[::-1])
    sid = (await guard.create({"n": 1})).sid
    async with browser(app, sid) as client:
        answer = await client.post("/", headers=ASKED)
        assert answer.status_code == 409
        assert answer.headers["x-request-id"] == "42"
        assert client.cookies["theme"] == "dark"
        assert answer.headers.get_list("access-control-allow-origin") == ["https://app.test"]
        assert answer.headers.get_list("content-type") == ["application/problem+json"]
        assert answer.headers.get_list("cache-control") == ["no-store"]
        assert answer.headers.get_list("content-length") == [str(len(answer.content))]
        assert "etag" not in answer.headers
        assert answer.headers["content-security-policy"] == "default-src none"
        assert answer.json()["status"] == 409


def test_a_cookie_lives_as_long_as_its_session() -> None:
    cookie = CookieSettings().lasting(90.5)
    assert "Max-Age=91;" in cookie.render("x")
    assert cookie.kwargs()["max_age"] == 91
    assert CookieSettings(max_age=5).lasting(90).max_age == 5
    assert CookieSettings(max_age=None).lasting(90).max_age is None
