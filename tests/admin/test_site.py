"""The admin page, as a browser meets it: mounted in an application, with a real Redis behind it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from sessionlock import ConfigurationError, LeaseLost, SessionGuard
from sessionlock.admin import Access, asgi_admin, wsgi_admin
from tests.harness.deployments import MakeGuard

pytestmark = pytest.mark.anyio

WHO = "who"  # the header in which the tests say who they are; a host asks its own log-in
ACCESS: dict[str, Access] = {"admin": "act", "staff": "look", "visitor": None}
HOSTILE = "<script>alert(1)</script>"


class Browser:
    """Keeps cookies, and sends forms as they stand in the page."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str, who: str = "admin") -> httpx.Response:
        return await self._client.get(f"/ops{path}", headers={WHO: who})

    async def submit(self, page: httpx.Response, action: str, who: str = "admin", **fields: str) -> httpx.Response:
        form = re.search(rf'<form method="post" action="({re.escape(action)})">(.*?)</form>', page.text)
        assert form is not None, f"no form for {action}"
        hidden = dict(re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form[2]))
        return await self.post(action, {**hidden, **fields}, who)

    async def post(self, action: str, fields: dict[str, str], who: str = "admin", **headers: str) -> httpx.Response:
        return await self._client.post(action, data=fields, headers={WHO: who, **headers}, follow_redirects=True)


@pytest.fixture
async def browser(redis_url: str) -> AsyncIterator[Browser]:
    def allow(scope: Any) -> Access:
        return ACCESS.get(dict(scope["headers"]).get(WHO.encode(), b"").decode())

    app = Starlette(routes=[Mount("/ops", asgi_admin(redis_url, allow=allow))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield Browser(client)


async def test_held_locks_and_queues(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    digest = guard.keys_of("s").digest
    assert "Locks held: 0." in (await browser.get("/")).text
    async with guard.session_lock("s", label=HOSTILE):
        page = await browser.get("/", who="staff")
    assert page.status_code == 200
    assert "Locks held: 1." in page.text
    assert f'href="/ops/session/{digest}"' in page.text
    assert HOSTILE not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


async def test_a_session_and_a_value_on_demand(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    session = await guard.create({"cart": ["apple", HOSTILE], "user": "ann"})
    digest = guard.keys_of(session.sid).digest
    page = await browser.get(f"/session/{digest}", who="staff")
    assert "<code>cart</code>" in page.text
    assert "apple" not in page.text
    shown = await browser.submit(page, f"/ops/session/{digest}/value", who="staff", key="cart")
    assert "apple" in shown.text
    assert HOSTILE not in shown.text
    assert shown.headers["cache-control"] == "no-store"
    gone = await browser.submit(page, f"/ops/session/{digest}/value", key="basket")
    assert "no key" in gone.text


async def test_found_by_its_id_which_is_in_no_address(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    session = await guard.create({"n": 1})
    digest = guard.keys_of(session.sid).digest
    for named in (session.sid, digest, f"sl:{{{digest}}}:session"):
        found = await browser.submit(await browser.get("/"), "/ops/find", session=named)
        assert str(found.url) == f"http://test/ops/session/{digest}"
        assert session.sid not in found.text
    wrong = await browser.submit(await browser.get("/"), "/ops/find", session="\x00")
    assert wrong.status_code == 400


async def test_a_lock_is_taken_away(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    digest = guard.keys_of("s").digest
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s") as session:
            session["n"] = 1
            page = await browser.get(f"/session/{digest}")
            after = await browser.submit(page, f"/ops/session/{digest}/release")
            assert "Nobody holds it." in after.text
            again = await browser.submit(page, f"/ops/session/{digest}/release")  # nobody else's is taken by that
            assert again.status_code == 200


async def test_logged_out(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    sids = [(await guard.create({"n": n})).sid for n in range(3)]
    for sid in sids:
        await guard.bind(sid, "ann")
    one = guard.keys_of(sids[0]).digest
    await browser.submit(await browser.get(f"/session/{one}"), f"/ops/session/{one}/destroy")
    assert not await _exist(guard, sids[:1])
    account = await browser.submit(await browser.get("/"), "/ops/user", user="ann")
    assert account.text.count("/ops/session/") == 2
    user = str(account.url).rpartition("/")[2]
    assert user != "ann"
    nobody = await browser.submit(account, f"/ops/user/{user}/destroy")
    assert "None." in nobody.text
    assert not await _exist(guard, sids)


async def _exist(guard: SessionGuard, sids: list[str]) -> list[str]:
    return [sid for sid in sids if (await guard.inspect(sid)).exists]


@pytest.mark.parametrize("who", ["visitor", "", "nobody"])
async def test_who_may_not_look(node: MakeGuard, browser: Browser, who: str) -> None:
    digest = node().keys_of("s").digest
    for path in ("/", f"/session/{digest}", "/nothing"):
        page = await browser.get(path, who=who)
        assert page.status_code == 403
        assert "Locks held" not in page.text


async def test_who_may_only_look(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    sid = (await guard.create({"n": 1})).sid
    digest = guard.keys_of(sid).digest
    await guard.bind(sid, "ann")
    page = await browser.get(f"/session/{digest}", who="staff")
    assert "/destroy" not in page.text
    token = _token(page)
    for action in (f"/ops/session/{digest}/destroy", f"/ops/session/{digest}/release"):
        refused = await browser.post(action, {"token": token}, who="staff")
        assert refused.status_code == 403
    assert await _exist(guard, [sid]) == [sid]


def _token(page: httpx.Response) -> str:
    match = re.search(r'name="token" value="([^"]+)"', page.text)
    assert match is not None
    return match[1]


async def test_forms_of_other_sites(node: MakeGuard, browser: Browser) -> None:
    """Without this page's token, with a wrong one, or sent by another site: nothing is changed."""
    guard = node()
    sid = (await guard.create({"n": 1})).sid
    digest = guard.keys_of(sid).digest
    action = f"/ops/session/{digest}/destroy"
    assert (await browser.post(action, {})).status_code == 403
    page = await browser.get(f"/session/{digest}")
    assert (await browser.post(action, {"token": "guessed"})).status_code == 403
    cross = await browser.post(action, {"token": _token(page)}, **{"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403
    assert (await browser.post(action, {"token": "x" * 20_000})).status_code == 413
    assert (await browser.get(f"/session/{digest}/destroy")).status_code == 404
    assert await _exist(guard, [sid]) == [sid]


async def test_what_the_browser_is_told(browser: Browser) -> None:
    page = await browser.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/ops" in cookie


async def test_redis_is_gone() -> None:
    app = asgi_admin("redis://127.0.0.1:1/0", allow=lambda scope: True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        page = await client.get("/")
    assert page.status_code == 503
    assert 'role="alert"' in page.text


def test_a_url_that_is_none() -> None:
    with pytest.raises(ConfigurationError):
        asgi_admin("localhost:6379", allow=lambda scope: True)


def test_wsgi(redis_url: str) -> None:
    app = wsgi_admin(redis_url, allow=lambda environ: environ["QUERY_STRING"] == "" and "act")
    status, cookies, page = _call(app, "GET", "/")
    assert status == "200 OK"
    assert "Locks held: 0." in page
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token is not None
    status, _, _ = _call(app, "POST", "/find", {"session": "abc", "token": token[1]}, cookies)
    assert status == "303 See Other"
    status, _, _ = _call(app, "POST", "/find", {"session": "abc", "token": "guessed"}, cookies)
    assert status == "403 Forbidden"


def _call(
    app: Any, method: str, path: str, fields: dict[str, str] | None = None, cookie: str = ""
) -> tuple[str, str, str]:
    import io

    body = urlencode(fields or {}).encode()
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "/ops", "QUERY_STRING": ""}
    environ.update({"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "HTTP_COOKIE": cookie})
    setup_testing_defaults(environ)
    told: list[Any] = []
    page = b"".join(app(environ, lambda *given: told.extend(given)))
    status, headers = told
    cookies = [value.partition(";")[0] for name, value in headers if name == "set-cookie"]
    return status, "; ".join(cookies), page.decode()
