"""Extensions that people install beside Quart, over our sessions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from quart import Quart, render_template_string, session, websocket
from quart.typing import ResponseReturnValue

from sessionlock import ConfigurationError, SessionGuard
from sessionlock.integrations.quart.extension import SessionLock

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(guard: SessionGuard) -> Quart:
    app = Quart(__name__)
    app.secret_key = "for tests only, and long enough for that"
    SessionLock(app, guard)

    @app.post("/begin")
    async def begin() -> str:
        session["cart"] = ["a"]
        return ""

    return app


async def test_the_forms_of_eight_tabs(app: Quart) -> None:
    """Quart-WTF: each page that shows a form puts a token into the session, which a moment ago had none."""
    from quart_wtf import CSRFProtect

    CSRFProtect(app)

    @app.get("/form")
    async def form() -> str:
        session.get("cart")
        await asyncio.sleep(0.002)
        return await render_template_string("{{ csrf_token() }}")

    @app.post("/send")
    async def send() -> str:
        session["sent"] = session.get("sent", 0) + 1
        return "sent"

    client = app.test_client()
    async with client.session_transaction() as inner:
        inner["cart"] = []
    pages = await asyncio.gather(*(client.get("/form") for _ in range(8)))
    assert {page.status_code for page in pages} == {200}
    tokens = [await page.get_data(as_text=True) for page in pages]
    answers = await asyncio.gather(*(client.post("/send", form={"csrf_token": token}) for token in tokens))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert (await client.post("/send", form={"csrf_token": "forged"})).status_code == 400
    async with client.session_transaction() as inner:
        assert inner["sent"] == 8


async def test_quart_auth(app: Quart) -> None:
    """It has a cookie of its own, beside the session's, and hooks after requests and websockets."""
    from quart_auth import AuthUser, QuartAuth, current_user, login_required, login_user, logout_user

    app.config["QUART_AUTH_COOKIE_SECURE"] = False
    QuartAuth(app)

    @app.post("/login")
    async def login() -> str:
        login_user(AuthUser("7"), remember=True)
        session["visits"] = session.get("visits", 0) + 1
        return ""

    @app.post("/logout")
    async def logout() -> str:
        logout_user()
        session.clear()
        return ""

    @app.get("/me")
    @login_required
    async def me() -> list[Any]:
        return [current_user.auth_id, dict(session)]

    @app.websocket("/socket")
    async def socket() -> None:
        await websocket.send_json([current_user.auth_id, session["visits"]])

    client = app.test_client()
    assert (await client.get("/me")).status_code == 401
    await client.post("/begin")
    await client.post("/login")
    assert await (await client.get("/me")).get_json() == ["7", {"cart": ["a"], "visits": 1}]
    async with client.websocket("/socket") as connected:
        assert await connected.receive_json() == ["7", 1]
    await client.post("/logout")
    assert (await client.get("/me")).status_code == 401
    assert client.cookie_jar is not None
    assert "session" not in {cookie.name for cookie in client.cookie_jar}


async def test_quart_rate_limiter(app: Quart) -> None:
    """Whose key is kept in the session: a write in a hook before each request, of safe ones, too."""
    from quart_rate_limiter import RateLimiter, rate_limit

    RateLimiter(app)

    async def visitor() -> str:
        session["visitor"] = session.get("visitor") or uuid4().hex
        return str(session["visitor"])

    @app.get("/page")
    @rate_limit(3, timedelta(hours=1), key_function=visitor)
    async def page() -> str:
        return ""

    client = app.test_client()
    await client.post("/begin")
    answers = await asyncio.gather(*(client.get("/page") for _ in range(6)))
    # A run that is abandoned has been counted, too.
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) <= 3
    assert (await app.test_client().get("/page")).status_code == 200


async def test_another_session_extension_is_named(guard: SessionGuard) -> None:
    from quart_session import Session

    app = Quart(__name__)
    app.config["SESSION_TYPE"] = "null"
    Session(app)
    with pytest.raises(ConfigurationError, match=r"quart_session|quart\.sessions"):
        SessionLock(app, guard)


FLASKS = """
import quart_flask_patch  # must come first: it makes Flask's names those of Quart
import asyncio, sys
from flask_principal import AnonymousIdentity, Identity, Principal, identity_changed
from quart import Quart, g, session
from sessionlock.integrations.quart import SessionLock

app = Quart("shop")
app.secret_key = "for tests only"
SessionLock(app, sys.argv[1])
Principal(app)

@app.post("/add")
async def add():
    session.setdefault("cart", []).append("a")
    return ""

@app.post("/login")
async def login():
    identity_changed.send(app, identity=Identity("7"))
    return ""

@app.post("/logout")
async def logout():
    session.pop("identity.id"), session.pop("identity.auth_type")
    identity_changed.send(app, identity=AnonymousIdentity())
    return ""

@app.get("/me")
async def me():
    return [g.identity.id, session["cart"]]

async def main():
    client = app.test_client()
    def sid():
        return {cookie.name: cookie.value for cookie in client.cookie_jar}["session"]
    await client.post("/add")
    before = sid()
    await client.post("/login")
    assert sid() != before, "a login gives a new id"
    answers = await asyncio.gather(*(client.get("/me") for _ in range(5)))
    assert [await answer.get_json() for answer in answers] == [["7", ["a"]]] * 5
    await client.post("/logout")
    assert await (await client.get("/me")).get_json() == [None, ["a"]]
    await app.session_interface.guard(app).aclose()
    print("all went well")

asyncio.run(main())
"""


async def test_an_extension_of_flasks_through_quart_flask_patch(redis_url: str) -> None:
    """In a process of its own: the patch changes asyncio and Flask for good."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FLASKS, redis_url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complained = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, said.decode().strip()) == (0, "all went well"), complained.decode()


async def test_an_oauth_login_in_three_tabs(app: Quart) -> None:
    """As Authlib keeps it: a state for each login that begins, a token (a dict of its own kind) when it ends."""
    from authlib.oauth2.rfc6749 import OAuth2Token

    @app.get("/login/<state>")
    async def login(state: str) -> ResponseReturnValue:
        session[f"_state_idp_{state}"] = {"data": {"redirect_uri": "/done", "nonce": state}, "exp": 4102444800}
        await asyncio.sleep(0.002)
        return "", 302, {"Location": f"https://idp.test/?state={state}"}

    @app.get("/done/<state>")
    async def done(state: str) -> Any:
        found = session.pop(f"_state_idp_{state}")
        session["token"] = OAuth2Token({"access_token": found["data"]["nonce"], "expires_in": 60})
        return session["token"]

    @app.get("/token")
    async def token() -> Any:
        return session["token"]

    client = app.test_client()
    await client.post("/begin")
    tabs = await asyncio.gather(*(client.get(f"/login/{n}") for n in range(3)))
    assert [tab.status_code for tab in tabs] == [302] * 3
    for n in range(3):
        assert (await (await client.get(f"/done/{n}")).get_json())["access_token"] == str(n)
    assert (await (await client.get("/token")).get_json())["access_token"] == "2"
