"""Packages that people install beside Django, in a project with a database: two workers, all defaults."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import websockets

from sessionlock import SessionGuard
from sessionlock.protocol.keys import keys_for
from tests.harness.sites import Site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PASSWORD = "a-long-one-7"  # tests.harness.django_site.project.PASSWORD


@pytest.fixture(scope="module", params=["project-wsgi", "project-asgi"])
def site(request: pytest.FixtureRequest, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(request.param, store, tmp_path_factory.mktemp("site"))
    made = "from tests.harness.django_site.project import prepare; prepare()"
    subprocess.run([sys.executable, "-c", made], env=site.environment, check=True)
    with site:
        yield site
        site.stop()
        assert "Traceback" not in site.told()


@pytest.fixture
def guard(guard_at_store: SessionGuard) -> SessionGuard:
    return guard_at_store


@pytest.fixture
async def browser(site: Site) -> AsyncIterator[Browser]:
    async with site.ready(), Browser(site.url) as browser:
        yield browser


class Browser:
    """Cookies in one jar; each request on a connection of its own, so both workers answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies = httpx.Cookies()

    async def __aenter__(self) -> Browser:
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.AsyncClient(base_url=self.url, limits=limits, timeout=30, trust_env=False)
        self.client.cookies = self.cookies
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.client.get(path, **more)

    async def post(self, path: str, data: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
        headers = {"x-csrftoken": self.client.cookies.get("csrftoken") or "", "referer": self.url}
        return await self.client.post(path, data=data, headers=headers, **more)

    async def log_in(self, name: str, password: str = PASSWORD) -> None:
        await self.get("/accounts/login/")
        answer = await self.post("/accounts/login/", {"login": name, "password": password})
        assert (answer.status_code, answer.headers["location"]) == (302, "/who")

    async def user(self) -> Any:
        return (await self.get("/who")).json()["user"]

    @property
    def sid(self) -> str:
        return str(self.client.cookies["sessionid"])


async def test_the_admin(browser: Browser) -> None:
    assert "csrftoken" in (await browser.get("/admin/login/")).cookies
    answer = await browser.post("/admin/login/?next=/admin/", {"username": "ada", "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
    pages = ["/admin/", "/admin/auth/user/", "/admin/auth/group/", "/admin/auth/user/1/change/"] * 3
    answers = await asyncio.gather(*map(browser.get, pages))
    assert {answer.status_code for answer in answers} == {200}
    answer = await browser.post("/admin/auth/group/add/", {"name": f"group {browser.sid[:6]}"})
    assert answer.status_code == 302
    assert "was added successfully" in (await browser.get("/admin/auth/group/")).text
    assert "was added successfully" not in (await browser.get("/admin/auth/group/")).text
    assert (await browser.post("/admin/logout/")).status_code == 200
    assert await browser.user() == ""


async def test_allauth(browser: Browser, guard: SessionGuard) -> None:
    await browser.get("/accounts/signup/")
    name = f"new{id(browser)}"
    form = {"username": name, "email": f"{name}@example.com", "password1": PASSWORD, "password2": PASSWORD}
    assert (await browser.post("/accounts/signup/", form)).status_code == 302
    assert await browser.user() == name
    signed_up = browser.sid
    await browser.post("/accounts/logout/")
    assert await browser.user() == ""
    assert (await guard.inspect(signed_up)).destroyed
    await browser.get("/add?item=before")
    stranger = browser.sid
    await browser.log_in(name)
    assert browser.sid != stranger
    assert (await browser.get("/who")).json() == {"user": name, "cart": ["before"]}
    answers = await asyncio.gather(*(browser.get("/accounts/email/") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_new_password(browser: Browser, site: Site) -> None:
    """Whoever changed it stays logged in, with a new key; another browser of that user does not."""
    name = f"changing{id(browser)}"
    async with Browser(site.url) as other:
        await browser.get("/accounts/signup/")
        form = {"username": name, "email": f"{name}@example.com", "password1": PASSWORD, "password2": PASSWORD}
        await browser.post("/accounts/signup/", form)
        await other.log_in(name)
        before = browser.sid
        await browser.get("/password")
        form = {"old_password": PASSWORD, "new_password1": "another-one-8", "new_password2": "another-one-8"}
        assert (await browser.post("/password", form)).status_code == 302
        assert browser.sid != before
        assert await browser.user() == name
        assert await other.user() == ""


async def test_last_activity_on_every_request(browser: Browser, guard: SessionGuard) -> None:
    """django-session-security writes on each: eight tabs at once, five times; none is refused, nothing is lost."""
    await browser.log_in("bob")
    for _ in range(5):
        pages = ["/", "/who", "/told", "/session_security/ping/?idleFor=1", "/add?item=a", "/add?item=b", "/", "/who"]
        answers = await asyncio.gather(*map(browser.get, pages))
        assert [answer.status_code for answer in answers] == [200] * 8
    stored = await guard.read(browser.sid)
    assert sorted(stored["cart"]) == ["a"] * 5 + ["b"] * 5
    for _ in range(5):
        asked = [*(browser.get(page) for page in pages[:6]), *(browser.post(f"/add?item={n}") for n in range(3))]
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200] * 9
    assert "_session_security" in stored


async def test_messages(browser: Browser) -> None:
    """Django's default storage, a cookie first: what was said by several at once is heard once."""
    await browser.get("/add?item=1")
    assert (await browser.get("/told")).json() == ["added 1"]
    assert (await browser.get("/told")).json() == []


async def test_rest_framework(browser: Browser) -> None:
    assert (await browser.get("/api/cart")).status_code == 403
    await browser.log_in("ada")
    answers = await asyncio.gather(*(browser.post("/api/cart", {"item": str(n)}) for n in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted((await browser.get("/api/cart")).json()["items"]) == sorted(map(str, range(10)))
    refused = await browser.client.post("/api/cart", data={"item": "x"})
    assert (refused.status_code, "CSRF" in refused.text) == (403, True)


async def test_a_wizard(browser: Browser) -> None:
    """django-formtools changes a dict deep in the session."""
    await browser.get("/accounts/login/")  # a CSRF token
    assert (await browser.get("/wizard")).json() == {"step": "name", "errors": {}}
    form = {"wizard-current_step": "name", "name-name": "Ada"}
    assert (await browser.post("/wizard", form)).json()["step"] == "age"
    form = {"wizard-current_step": "age", "age-age": "36"}
    assert (await browser.post("/wizard", form)).json() == {"done": {"name": "Ada", "age": 36}}


async def test_in_the_skin_of_another(browser: Browser, guard: SessionGuard) -> None:
    """django-hijack logs in as somebody else, and back."""
    await browser.log_in("ada")
    before = browser.sid
    answer = await browser.post("/hijack/acquire/", {"user_pk": "2"})
    assert answer.status_code == 302
    assert await browser.user() == "bob"
    assert browser.sid != before
    await browser.post("/hijack/release/", {})
    assert await browser.user() == "ada"


async def test_channels(browser: Browser, site: Site, guard: SessionGuard) -> None:
    if "asgi" not in site.name:
        pytest.skip("websockets need ASGI")
    await browser.log_in("ada")
    await browser.get("/add?item=x")
    address = f"{site.url.replace('http', 'ws')}/socket"
    cookie = f"sessionid={browser.sid}"
    async with websockets.connect(address, additional_headers={"cookie": cookie}, proxy=None) as socket:
        assert json.loads(await socket.recv()) == {"user": "ada", "cart": ["x"]}
        await browser.get("/add?item=y")
        await socket.send(json.dumps({"say": "hello"}))
        assert json.loads(await socket.recv()) == {"saved": True}
    stored = await guard.read(browser.sid)
    assert (stored["said"], stored["cart"]) == ("hello", ["x", "y"])


async def test_the_sessions_page_of_the_admin(site: Site, browser: Browser) -> None:
    """By user name; what was done is in the admin's own log. Staff without permissions see no values."""
    await browser.log_in("ada")
    async with Browser(site.url) as other, Browser(site.url) as clerk:
        await other.log_in("bob")
        await clerk.log_in("cleo")
        session = f"/admin/sessions/session/{keys_for('sl', other.sid).digest}"
        seen = await clerk.get(session)
        assert "_auth_user_id" in seen.text
        assert (await clerk.post(f"{session}/value", {"key": "_auth_user_id"})).status_code == 403
        assert (await clerk.post(f"{session}/destroy")).status_code == 403
        assert (await other.get("/admin/sessions/")).status_code == 302
        page = await browser.get("/admin/sessions/")
        assert 'href="/admin/">Administration' in page.text
        for name in ("bob", "2"):
            found = await browser.post("/admin/sessions/user", {"user": name})
            assert found.status_code == 303, found.text
            account = await browser.get(found.headers["location"])
            assert session in account.text
        ended = await browser.post(f"{found.headers['location']}/destroy")
        assert "of this user ended." in (await browser.get(ended.headers["location"])).text
        assert await other.user() == ""
        assert await clerk.user() == "cleo"
        recent = (await browser.get("/admin/")).text  # of the log
        assert f"user {found.headers['location'].rpartition('/')[2]}" in recent


async def test_the_command_logs_a_user_out_by_name(site: Site, browser: Browser) -> None:
    await browser.log_in("bob")
    said = "from tests.harness.django_site.project import configured; configured()\n"
    said += "from django.core.management import call_command, load_command_class\n"
    said += "command = load_command_class('sessionlock.integrations.django', 'sessionlock')\n"
    said += "call_command(command, 'logout', '--user', 'bob', '--yes')"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", said], env=site.environment, check=True)
    assert await browser.user() == ""
