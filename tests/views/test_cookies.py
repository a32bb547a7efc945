"""When the browser is given a cookie, which one, and when it is taken away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sessionlock import ConfigurationError, InvalidSessionId, SessionGuard
from sessionlock.views.cookies import CookieSettings
from tests.harness.asgi_calls import app_of, browser, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"user": "ada"})).sid


async def put(request: Request) -> Response:
    """Puts the query into the session; shows it."""
    request.session.update(request.query_params)
    return JSONResponse(dict(request.session))


def parts(answer: Any) -> list[str]:
    """The Set-Cookie header without the id."""
    first, *attributes = answer.headers["set-cookie"].split("; ")
    return [first.partition("=")[0], *attributes]


# --- given ------------------------------------------------------------------------------------------------------------


async def test_a_new_session_gets_an_id_of_its_own(guard: SessionGuard) -> None:
    async with browser(app_of(guard, put)) as client:
        answer = await client.get("/?a=1")
        assert parts(answer) == ["session_id", "Max-Age=1209600", "Path=/", "HttpOnly", "SameSite=Lax"]
        sid = client.cookies["session_id"]
        assert dict(await guard.read(sid)) == {"a": "1"}
        assert (await client.post("/?b=2")).json() == {"a": "1", "b": "2"}
        assert client.cookies["session_id"] == sid


async def test_by_https_it_is_secure(guard: SessionGuard) -> None:
    async with browser(app_of(guard, put), base="https://shop.test") as client:
        assert "Secure" in parts(await client.post("/?a=1"))


async def test_settings(guard: SessionGuard) -> None:
    cookie = CookieSettings(
        "id", max_age=None, path="/shop", domain="shop.test", secure=True, httponly=False, samesite="strict"
    )
    async with browser(app_of(guard, put, cookie=cookie)) as client:
        answer = await client.post("/shop?a=1")
        assert parts(answer) == ["id", "Path=/shop", "Domain=shop.test", "Secure", "SameSite=Strict"]


async def test_an_unknown_id_is_not_adopted(guard: SessionGuard) -> None:
    """Session fixation: an id that somebody else chose never becomes a session."""
    for chosen in ("chosen-by-a-stranger", "x" * 600, "sl" + "x" * 38, "\x7f", '""'):
        async with browser(app_of(guard, put)) as client:
            header = {"cookie": f"session_id={chosen}"}
            for method in ("GET", "POST"):
                answer = await client.request(method, "/?a=1", headers=header)
                assert answer.json() == {"a": "1"}
                assert client.cookies["session_id"] != chosen
                client.cookies.clear()
            read = await client.request("POST", "/", headers=header)
            assert read.json() == {}
            assert "set-cookie" not in read.headers


async def test_only_who_held_the_lock_prolongs_the_cookie(guard: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard, put), sid) as client:
        assert "set-cookie" not in (await client.get("/")).headers
        assert "set-cookie" not in (await client.get("/?a=1")).headers
        assert parts(await client.post("/"))[1] == "Max-Age=1209600"
    async with browser(app_of(guard, put, cookie=CookieSettings(rolling=False)), sid) as client:
        assert "set-cookie" not in (await client.post("/?a=2")).headers
    async with browser(app_of(guard, put, cookie=CookieSettings(max_age=None)), sid) as client:
        assert "set-cookie" not in (await client.post("/?a=3")).headers


async def login(request: Request) -> Response:
    if request.url.path == "/login":
        await request.session.sessionlock.regenerate()  # type: ignore[attr-defined]
        request.session["user"] = "ada"
    return JSONResponse(dict(request.session))


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_new_id_at_login(guard: SessionGuard, sid: str, method: str) -> None:
    async with browser(app_of(guard, login), sid) as client:
        assert (await client.request(method, "/login")).json() == {"user": "ada"}
        assert client.cookies["session_id"] != sid
        assert (await client.get("/")).json() == {"user": "ada"}


async def test_a_late_request_does_not_bring_the_old_id_back(guard: SessionGuard, sid: str) -> None:
    """It waited while another one logged in. With the old id the browser would be logged out after its grace."""
    async with browser(app_of(guard, login), sid) as client:
        assert "set-cookie" in (await client.post("/login")).headers
        late = await client.post("/", headers={"cookie": f"session_id={sid}"})
        assert late.json() == {"user": "ada"}
        assert "set-cookie" not in late.headers


async def test_a_login_without_a_session_before(guard: SessionGuard) -> None:
    async with browser(app_of(guard, login)) as client:
        assert (await client.post("/login")).status_code == 200
        assert dict(await guard.read(client.cookies["session_id"])) == {"user": "ada"}


async def test_a_new_id_is_told_also_when_the_request_failed(guard: SessionGuard, sid: str) -> None:
    """The id was exchanged at once; whatever became of the rest, the browser must know it."""

    async def view(request: Request) -> Response:
        await request.session.sessionlock.regenerate()  # type: ignore[attr-defined]
        request.session["user"] = "eve"
        if request.url.path == "/conflict":
            async with guard.session_lock(request.session.sessionlock.sid) as other:  # type: ignore[attr-defined]
                other["user"] = "bob"
        return Response(status_code=503)

    async with browser(app_of(guard, view, mode="optimistic", save_on_error=True), sid) as client:
        assert (await client.post("/conflict")).status_code == 409
        second = client.cookies["session_id"]
        assert second != sid
    async with browser(app_of(guard, view), second) as client:
        assert (await client.post("/")).status_code == 503
        third = client.cookies["session_id"]
        assert third != second
    assert dict(await guard.read(third)) == {"user": "bob"}


async def test_moments_of_a_session_that_begins(guard: SessionGuard) -> None:
    async def view(request: Request) -> Response:
        session: Any = request.session
        lock = session.sessionlock
        match request.url.path:
            case "/save":
                session["a"] = 1
                await lock.save()
                assert dict(await guard.read(lock.sid)) == {"a": 1}
            case "/incr":
                assert await lock.incr("n", 5) == 5
            case "/release":
                session["a"] = 1
                await lock.release()
            case "/destroy":
                session["a"] = 1
                await lock.destroy()
            case "/both":
                session["a"] = 1
                await lock.save()
                await lock.destroy()
        return Response()

    for path, stored in {"/save": {"a": 1}, "/incr": {"n": 5}, "/release": {"a": 1}}.items():
        async with browser(app_of(guard, view)) as client:
            assert (await client.post(path)).status_code == 200
            assert dict(await guard.read(client.cookies["session_id"])) == stored
    for path in ("/destroy", "/both"):
        async with browser(app_of(guard, view)) as client:
            answer = await client.post(path)
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers


# --- taken away -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("how", ["destroyed", "emptied"])
async def test_logging_out(guard: SessionGuard, sid: str, method: str, how: str) -> None:
    async def view(request: Request) -> Response:
        if how == "destroyed":
            await request.session.sessionlock.destroy()  # type: ignore[attr-defined]
        else:
            request.session.clear()
        return Response(status_code=303, headers={"location": "/"})

    async with browser(app_of(guard, view), sid) as client:
        answer = await client.request(method, "/logout")
        assert answer.status_code == 303
        assert parts(answer)[1:3] == ["Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"]
        assert not client.cookies
    info = await guard.inspect(sid)
    assert (info.destroyed, info.holder) == (True, None)


async def test_deleted_meanwhile(guard: SessionGuard, sid: str) -> None:
    """What it changed is refused, not dropped with a kept answer; the cookie is cleared."""

    async def view(request: Request) -> Response:
        request.session["cart"] = ["a"]
        await guard.destroy(sid)
        return Response("bought")

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.post("/")).status_code == 409
        assert not client.cookies
    assert (await guard.inspect(sid)).destroyed


async def test_deleted_while_a_safe_request_ran(guard: SessionGuard, sid: str) -> None:
    """It runs again, for a visitor without a session."""
    runs = 0

    async def view(request: Request) -> Response:
        nonlocal runs
        runs += 1
        request.session["seen"] = [*request.session.get("seen", []), runs]
        if runs == 1:
            await guard.destroy(sid)
        return Response("shown")

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.get("/")).status_code == 200
        assert client.cookies["session_id"] != sid
        assert await guard.read(client.cookies["session_id"]) == {"seen": [2]}
    assert (await guard.inspect(sid)).destroyed


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_deleted_while_a_request_only_looked(guard: SessionGuard, sid: str, method: str) -> None:
    async def view(request: Request) -> Response:
        request.session.get("cart")
        await guard.destroy(sid)
        return Response("shown")

    async with browser(app_of(guard, view), sid) as client:
        answer = await client.request(method, "/")
        assert (answer.status_code, answer.text) == (200, "shown")


async def test_deleted_while_it_waited(guard: SessionGuard, redis_url: str, sid: str) -> None:
    async with browser(app_of(guard, put), sid) as client, SessionGuard.from_url(redis_url) as elsewhere:
        async with elsewhere.session_lock(sid) as session:
            waiter = asyncio.create_task(client.post("/?a=1"))
            await eventually(lambda: waited_for(guard, sid))
            await session.destroy()
        assert (await waiter).json() == {"a": "1"}
        assert client.cookies["session_id"] != sid


async def waited_for(guard: SessionGuard, sid: str) -> bool:
    return bool((await guard.inspect(sid)).waiters)


# --- Vary -------------------------------------------------------------------------------------------------------------


async def test_caches_are_told(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        if request.url.path != "/public":
            request.session.get("user")
        return Response(headers={"vary": request.query_params.get("vary", "")})

    async with browser(app_of(guard, view), sid) as client:
        assert "Cookie" not in (await client.get("/public")).headers["vary"]
        assert (await client.get("/")).headers.get_list("vary") == ["", "Cookie"]
        assert (await client.get("/?vary=cookie,accept")).headers.get_list("vary") == ["cookie,accept"]
        assert (await client.get("/?vary=*")).headers.get_list("vary") == ["*"]


async def test_caches_are_told_also_for_visitors_without_a_session(guard: SessionGuard) -> None:
    """A page says "log in" because there is no user: somebody else's cache must not show it to those who have one."""
    ways = {
        "/get": lambda session: session.get("user"),
        "/in": lambda session: "user" in session,
        "/len": len,
        "/iter": list,
    }

    async def view(request: Request) -> Response:
        ways[request.url.path](request.session)
        return Response()

    async with browser(app_of(guard, view)) as client:
        for path in ways:
            assert (await client.get(path)).headers.get("vary") == "Cookie", path


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a=b"},
        {"name": "__Host-id", "path": "/shop"},
        {"name": "__Host-id", "domain": "shop.test"},
        {"name": "__host-id", "secure": False},
        {"name": "__Secure-id", "secure": False},
        {"samesite": "none"},
        {"samesite": "sometimes"},
        {"partitioned": True},
        {"secure": "yes"},
        {"path": "shop"},
        {"path": "/;x"},
        {"domain": "a;b"},
        {"domain": ""},
        {"max_age": 0},
        {"max_age": True},
        {"max_age": 1.5},
    ],
)
def test_settings_that_browsers_would_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CookieSettings(**wrong)


def test_prefixes_are_secure() -> None:
    assert CookieSettings("__Host-id").render("x") == (
        "__Host-id=x; Max-Age=1209600; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    assert CookieSettings("__Secure-id", domain="shop.test").is_secure(https=False)


def test_rendering() -> None:
    cookie = CookieSettings(samesite=None, secure=True, partitioned=True, max_age=60)
    assert cookie.render("x") == "session_id=x; Max-Age=60; Path=/; Secure; HttpOnly; Partitioned"
    for sid in ("a;b", "a b", 'a"b', "a,b", "ä", "a\\b", "a\n"):
        with pytest.raises(InvalidSessionId):
            cookie.render(sid)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", None),
        ("session_id", None),
        ("session_id=", None),
        ("session_id=a", "a"),
        ("a=b; session_id = a ;c=d", "a"),
        ('session_id="a"', "a"),
        ("session_id=a=b", "a=b"),
        ("session_id=first; session_id=second", "first"),
        ("xsession_id=a", None),
        ("session_id=\udc80", None),
        ("session_id=" + "x" * 513, None),
    ],
)
def test_finding(header: str, found: str | None) -> None:
    assert CookieSettings().find(header) == found
