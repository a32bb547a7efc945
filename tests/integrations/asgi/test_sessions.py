"""What Starlette and FastAPI applications do with a session, and the packages that people install beside them."""

from __future__ import annotations

import asyncio
import copy
import enum
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from fastapi.encoders import jsonable_encoder
from fastapi.responses import ORJSONResponse
from jinja2 import DictLoader, Environment
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.templating import Jinja2Templates
from typing_extensions import TypedDict

from sessionlock import SessionGuard, SessionNotFound, SessionPolicy
from sessionlock.views.cookies import CookieSettings
from tests.harness.asgi_calls import FAST_API_WARNS, app_of, browser, fastapi
from tests.harness.commands import aged
from tests.harness.stored import Stored

pytestmark = [pytest.mark.anyio, *FAST_API_WARNS]


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"cart": ["a"]})).sid


# --- a dict -----------------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Any], Any]] = {
    "json": json.dumps,
    "json, indented": lambda session: json.dumps(session, indent=1, sort_keys=True),
    "orjson": lambda session: orjson.dumps(session).decode(),
    "copy": lambda session: json.dumps(session.copy()),
    "copy.copy": lambda session: json.dumps(copy.copy(session)),
    "deepcopy": lambda session: json.dumps(copy.deepcopy(session)),
    "or": lambda session: json.dumps(session | {}),
    "ror": lambda session: json.dumps({} | session),
    "unpacked": lambda session: json.dumps({**session}),
    "keywords": lambda session: json.dumps(dict(**session)),
    "dict": lambda session: json.dumps(dict(session)),
    "jsonable": lambda session: json.dumps(jsonable_encoder(session)),
}


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_what_people_treat_it_as(guard: SessionGuard, sid: str, way: str) -> None:
    async def view(request: Request) -> Response:
        request.session["cart"].append("b")
        request.session["n"] = 1
        return PlainTextResponse(WAYS[way](request.session))

    async with browser(app_of(guard, view), sid) as client:
        for _ in range(2):
            answer = (await client.post("/")).json()
            assert answer["n"] == 1
        assert answer == {"cart": ["a", "b", "b"], "n": 1}
    assert await guard.read(sid) == answer


class Shown(TypedDict):
    cart: list[str]


async def test_returned_from_a_view(guard: SessionGuard, sid: str) -> None:
    app = fastapi(guard)

    @app.get("/session")
    async def session(request: Request) -> Any:
        return request.session

    @app.get("/typed")
    async def typed(request: Request) -> dict[str, Any]:
        return request.session

    @app.get("/model", response_model=Shown)
    def model(request: Request) -> Any:
        return request.session

    @app.get("/json")
    async def as_json(request: Request) -> Response:
        return JSONResponse(request.session)

    @app.get("/orjson", response_class=ORJSONResponse)
    async def as_orjson(request: Request) -> Any:
        return ORJSONResponse(request.session)

    async with browser(app, sid) as client:
        for path in ("session", "typed", "model", "json", "orjson"):
            answer = await client.get(f"/{path}")
            assert (answer.status_code, answer.json()) == (200, {"cart": ["a"]}), path


async def test_its_names_are_the_users(guard: SessionGuard, sid: str) -> None:
    """A template finds keys, never attributes of ours."""
    names = ["name", "sid", "new", "saved", "version", "created", "lease", "modified", "flash", "regenerate", "destroy"]
    text = " ".join(f"{{% if session.{name} %}}{name}={{{{ session.{name} }}}}{{% endif %}}" for name in names)
    templates = Jinja2Templates(env=Environment(loader=DictLoader({"page": text}), autoescape=True))

    async def view(request: Request) -> Response:
        request.session.update(request.query_params)
        return templates.TemplateResponse(request, "page", {"session": request.session})

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.get("/")).text.split() == []
        answer = await client.post("/", params={name: "x" for name in names})
        assert answer.text.split() == [f"{name}=x" for name in names]
    async with browser(app_of(guard, view)) as client:
        assert (await client.get("/")).text.split() == []


async def test_an_old_spelling_says_where_it_went(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        try:
            getattr(request.session, request.url.path[1:])
        except AttributeError as error:
            return PlainTextResponse(str(error))
        return PlainTextResponse("")

    async with browser(app_of(guard, view), sid) as client:
        for name in ("destroy", "regenerate", "sid", "save", "lease"):
            assert f"session.sessionlock.{name}" in (await client.get(f"/{name}")).text
        assert "sessionlock." not in (await client.get("/nothing")).text


# --- values -----------------------------------------------------------------------------------------------------------


class Token(dict[str, Any]):
    """As OAuth libraries have them."""


class Colour(str, enum.Enum):
    RED = "red"


class Name(str):
    pass


VALUES: dict[str, Any] = {
    "dict subclass": Token(access_token="x", scope=["a"]),
    "ordered": OrderedDict(b=1, a=2),
    "list subclass": type("Items", (list,), {})([1, 2]),
    "markup": Markup("<b>x</b>"),
    "str subclass": Name("x"),
    "enum": Colour.RED,
    "int enum": enum.IntEnum("Level", "LOW HIGH").HIGH,  # type: ignore[attr-defined]
    "int keys": {1: "a", 2: {3: "b"}},
    "None key": {None: 1, True: 2},
    "tuple": (1, (2, 3)),
    "NaN": {"x": math.nan, "y": math.inf},
    "large": 2**70,
    "deep": [Token(a=[Name("b")])],
}


@pytest.mark.parametrize("name", VALUES)
async def test_values_come_back_as_starlette_would_give_them(guard: SessionGuard, name: str) -> None:
    value = VALUES[name]

    async def view(request: Request) -> Response:
        if request.method == "POST":
            request.session["value"] = value
            assert request.session["value"] is value
        return PlainTextResponse(json.dumps(request.session["value"]))

    async with browser(app_of(guard, view)) as client:
        answer = await client.post("/")
        assert answer.status_code == 200, answer.text
        theirs = json.dumps(json.loads(json.dumps(value)))
        assert (await client.get("/")).text == theirs


async def test_what_starlette_refuses_is_refused(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["value"] = object()
        return Response()

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.post("/")).status_code == 500
    assert await guard.read(sid) == {"cart": ["a"]}


# --- emptied, ended, somebody else ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["get", "post"])
async def test_a_last_message_taken_while_something_is_stored(
    guard: SessionGuard, elsewhere: SessionGuard, first: str
) -> None:
    """Emptied as one request sees it is not ended: another has put something in."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def view(request: Request) -> Response:
        if request.method == "GET":
            message = request.session.pop("msg", None)
            slow = first == "get"
        else:
            message, request.session["cart"] = "", ["a"]
            slow = first == "post"
        if slow and not inside.is_set():
            inside.set()
            await go_on.wait()
        return JSONResponse(message)

    sid = (await guard.create({"msg": "hello"})).sid
    async with browser(app_of(guard, view), sid) as client:
        slow, fast = ("GET", "POST") if first == "get" else ("POST", "GET")
        slowly = asyncio.create_task(client.request(slow, "/"))
        await asyncio.wait_for(inside.wait(), 5)
        quickly = asyncio.create_task(client.request(fast, "/"))
        if fast == "POST":
            await quickly  # the other holds no lock
        go_on.set()
        assert (await quickly).status_code == 200
        assert (await slowly).status_code == 200
        assert client.cookies["session_id"] == sid
    assert await guard.read(sid) == {"cart": ["a"]}


async def test_a_logout_in_a_thread(guard: SessionGuard, sid: str) -> None:
    """``def`` endpoints run in threads; what they ask for happens."""
    app = fastapi(guard)

    @app.post("/logout")
    def logout(request: Request) -> str:
        request.session.sessionlock.destroy()  # type: ignore[attr-defined]
        return "bye"

    @app.post("/login")
    def login(request: Request) -> str:
        request.session.sessionlock.regenerate()  # type: ignore[attr-defined]
        request.session["who"] = "ada"
        return "hello"

    @app.post("/clear")
    def clear(request: Request) -> None:
        request.session.clear()

    @app.post("/old")
    def old(request: Request) -> None:
        request.session.destroy()  # type: ignore[attr-defined]

    async with browser(app, sid) as client:
        assert (await client.post("/login")).json() == "hello"
        new = client.cookies["session_id"]
        assert new != sid
        assert (await guard.read(new))["who"] == "ada"
        assert (await client.post("/old")).status_code == 500
        assert (await client.post("/logout")).json() == "bye"
        assert not client.cookies
    assert (await guard.inspect(new)).destroyed
    other = (await guard.create({"a": 1})).sid
    async with browser(app, other) as client:
        await client.post("/clear")
    assert (await guard.inspect(other)).destroyed


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("wait", [True, False])
async def test_a_logout_that_nobody_awaited(guard: SessionGuard, sid: str, method: str, wait: bool) -> None:
    async def view(request: Request) -> Response:
        ended = request.session.sessionlock.destroy()  # type: ignore[attr-defined]
        if wait:
            await ended
        return Response()

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.request(method, "/")).status_code == 200
        assert not client.cookies
    assert (await guard.inspect(sid)).destroyed


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("key", ["user_id", "user", "_user_id", "username"])
@pytest.mark.parametrize("how", ["assigned", "cleared before"])
async def test_a_login_gives_a_new_id(guard: SessionGuard, sid: str, method: str, key: str, how: str) -> None:
    """By itself: an attacker may have planted the id that he knows."""

    async def view(request: Request) -> Response:
        if how == "cleared before":
            request.session.clear()
        request.session[key] = 7
        return Response()

    app = app_of(guard, view)
    async with browser(app, sid) as victim:
        assert (await victim.request(method, "/")).status_code == 200
        new = victim.cookies["session_id"]
        assert new != sid
        assert (await guard.read(new))[key] == 7
        assert ("cart" in await guard.read(new)) == (how == "assigned")
        await victim.request(method, "/")
        if how == "assigned":
            assert victim.cookies["session_id"] == new  # nobody else has logged in
    with pytest.raises(SessionNotFound):
        await guard.read(sid)


async def test_keys_of_ones_own_that_tell_who_it_is(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["member"] = request.query_params["member"]
        return Response()

    async with browser(app_of(guard, view, identity=("member",)), sid) as client:
        await client.post("/?member=1")
        first = client.cookies["session_id"]
        await client.post("/?member=2")
        assert len({sid, first, client.cookies["session_id"]}) == 3


# --- lifetimes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_cookie_and_record_live_on_together(redis_url: str, method: str) -> None:
    """Whoever only follows links stays logged in as long as who posts."""

    async def view(request: Request) -> Response:
        return JSONResponse(request.session.get("n"))

    async with SessionGuard.from_url(redis_url, session=SessionPolicy(idle=100)) as guard:
        sid = (await guard.create({"n": 1})).sid
        async with browser(app_of(guard, view), sid) as client:
            with Stored(redis_url, sid) as record:
                aged(record.client, record.keys.session, 40_000)
                answer = await client.request(method, "/")
                assert "Max-Age=100;" in answer.headers["set-cookie"]
                assert record.client.pttl(record.keys.session) > 90_000
        async with browser(app_of(guard, view, cookie=CookieSettings(rolling=False)), sid) as client:
            assert "set-cookie" not in (await client.request(method, "/")).headers


async def test_who_does_not_look_gets_no_cookie(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        return Response()

    async with browser(app_of(guard, view), sid) as client:
        assert "set-cookie" not in (await client.get("/")).headers


async def test_an_outage_does_not_touch_who_uses_no_session(sid: str) -> None:
    """A health probe, a static file. Who does use it gets 503, whatever the application makes of the error."""

    async def page(request: Request) -> Response:
        if request.url.path == "/health":
            return PlainTextResponse("alive")
        if request.url.path == "/caught":
            try:
                request.session["a"] = 1
            except Exception:
                return PlainTextResponse("sorry", 500)
        return JSONResponse(dict(request.session))

    gone = SessionGuard.from_url("redis://127.0.0.1:1/0", retry_for=0.2)
    async with gone, browser(app_of(gone, page), sid) as client:
        for method in ("GET", "POST"):
            answers = [await client.request(method, path) for path in ("/health", "/caught", "/")]
            assert [answer.status_code for answer in answers] == [200, 503, 503]
            assert answers[0].text == "alive"
            assert "set-cookie" not in answers[0].headers
            assert answers[2].headers["retry-after"]
