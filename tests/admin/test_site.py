"""The admin page, as a browser meets it: mounted in an application, with a real Redis behind it."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlencode
from wsgiref.util import setup_testing_defaults

import httpx
import pytest
from cryptography.fernet import Fernet
from starlette.applications import Starlette
from starlette.routing import Mount

from sessionlock import ConfigurationError, LeaseLost, SessionGuard
from sessionlock.admin import Access, Done, asgi_admin, wsgi_admin
from sessionlock.admin.html import Frame, overview
from sessionlock.codecs.base import default_codec
from sessionlock.codecs.fernet import FernetCodec
from sessionlock.operate import LocksSeen
from sessionlock.protocol.keys import user_digest
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard

pytestmark = pytest.mark.anyio

WHO = "who"  # the header in which the tests say who they are; a host asks its own log-in
ACCESS: dict[str, Access] = {"admin": "act", "staff": "look", "clerk": "locks", "visitor": None}
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
            assert "The lock was taken away." in after.text
            again = await browser.submit(page, f"/ops/session/{digest}/release")  # nobody else's is taken by that
            assert "Nothing was taken away" in again.text


async def test_logged_out(node: MakeGuard, browser: Browser) -> None:
    guard = node()
    sids = [(await guard.create({"n": n})).sid for n in range(3)]
    for sid in sids:
        await guard.bind(sid, "ann")
    one = guard.keys_of(sids[0]).digest
    page = await browser.get(f"/session/{one}")
    assert "The session has ended." in (await browser.submit(page, f"/ops/session/{one}/destroy")).text
    none = await browser.post("/ops/session/00000000000000/destroy", {"token": _token(page)})
    assert "Nothing was ended" in none.text
    assert not await _exist(guard, sids[:1])
    account = await browser.submit(await browser.get("/"), "/ops/user", user="ann")
    assert account.text.count("/ops/session/") == 2
    user = str(account.url).rpartition("/")[2]
    assert user != "ann"
    nobody = await browser.submit(account, f"/ops/user/{user}/destroy")
    assert "2 sessions of this user ended." in nobody.text
    assert "No live session is bound to this user." in nobody.text
    assert "guard.bind(sid, user)" in nobody.text
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
    for foreign in ("https://evil.example", "http://test:8080", "null", "http://[", "http://a.test"):
        for said in ("origin", "referer"):
            sent = await browser.post(action, {"token": _token(page)}, **{said: foreign})
            assert (sent.status_code, sent.url.path) == (403, action), foreign
    assert (await browser.post(action, {"token": "x" * 200_000})).status_code == 413
    assert (await browser.get(f"/session/{digest}/destroy")).status_code == 404
    assert await _exist(guard, [sid]) == [sid]
    by_a_proxy = {"origin": "https://ops.example", "x-forwarded-host": "ops.example"}
    await browser.post(action, {"token": _token(page)}, **by_a_proxy)
    assert not await _exist(guard, [sid])


OTHERS = ('prefs={"a": 1}', "flag", "n=Müller", "path=/x", "a=b=c", "=", "", "sid=ä; ;", 'x="un closed', "a,b=1")
TOKEN = "t" * 32
OURS, FIND = f"sessionlock_admin={TOKEN}", {"token": TOKEN, "session": "abc"}


@pytest.mark.parametrize("others", OTHERS)
async def test_other_cookies_of_the_host(redis_url: str, others: str) -> None:
    """Whatever they look like, and in however many parts they come."""
    app = asgi_admin(redis_url, allow=lambda scope: True)
    for parts in ([f"{others}; {OURS}"], [f"{OURS};{others}"], [others, OURS], [OURS, others]):
        assert (await _post(app, FIND, parts)).status_code == 303


@pytest.mark.parametrize("others", OTHERS)
def test_other_cookies_of_a_wsgi_host(redis_url: str, others: str) -> None:
    app = wsgi_admin(redis_url, allow=lambda environ: True)
    for header in (f"{others}; {OURS}", f"{OURS};{others}"):
        assert _call(app, "POST", "/find", FIND, header)[0] == "303 See Other"


async def _post(app: Any, fields: dict[str, str], cookies: list[str]) -> httpx.Response:
    headers = [(b"cookie", cookie.encode()) for cookie in cookies]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.post("/find", data=fields, headers=headers)


async def test_who_may_see_no_values(node: MakeGuard, browser: Browser) -> None:
    session = await node().create({"cart": ["apple"]})
    page = await browser.get(f"/session/{session.digest}", who="clerk")
    assert "<code>cart</code>" in page.text
    assert "/value" not in page.text
    fields = {"token": _token(await browser.get("/", who="clerk")), "key": "cart"}
    for action in ("value", "destroy"):
        refused = await browser.post(f"/ops/session/{session.digest}/{action}", fields, who="clerk")
        assert refused.status_code == 403
        assert "apple" not in refused.text


async def test_who_did_what_is_told(redis_url: str, node: MakeGuard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sessionlock.admin")
    session, told = await node().create({"n": 1}), list[Done]()

    async def on_done(scope: Any, done: Done) -> None:
        told.append(done)

    page = asgi_admin(redis_url, allow=lambda scope: "act", who=lambda scope: "ann", on_done=on_done)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(Starlette(routes=[Mount("/ops", page)])), base_url="http://test"
    ) as client:
        browser = Browser(client)
        look = await browser.get(f"/session/{session.digest}")
        await browser.submit(look, f"/ops/session/{session.digest}/value", key="n")
        await browser.submit(look, f"/ops/session/{session.digest}/destroy")
        user = user_digest("bob")
        await browser.post(f"/ops/user/{user}/destroy", {"token": _token(look)})
    assert told == [
        Done("show", session.digest, 1, "n", "ann"),
        Done("destroy", session.digest, 1, "", "ann"),
        Done("destroy_all", user, 0, "", "ann"),
    ]
    assert [record.getMessage() for record in caplog.records if record.name == "sessionlock.admin"] == [
        f"ann: show the value of 'n', session {session.digest}: 1",
        f"ann: destroy, session {session.digest}: 1",
        f"ann: destroy_all, user {user}: 0",
    ]


async def test_any_key_can_be_asked_for(node: MakeGuard, browser: Browser) -> None:
    """A form carries it unchanged, whatever browsers do to line ends; and no page is too large."""
    keys = ["a\nb", "a\r\nb", "nul\x00", "%41", 'ä+ &="<', "k" * 12_000, "x" * 40_000, *map(str, range(300))]
    digest = (await node().create({key: f"value of {key}" for key in keys})).digest
    address, shown = f"/session/{digest}", set[str]()
    while address:
        page = await browser.get(address)
        shown |= {html.unescape(carried) for carried in re.findall(r'name="key" value="([^"]*)"', page.text)}
        assert page.text.count("<tr>") <= 201
        following = re.search(r'href="/ops([^"]*)">The next ones', page.text)
        address = following[1] if following else ""
    assert all(carried.isascii() and carried.isprintable() for carried in shown)
    assert {unquote(carried) for carried in shown} == {key for key in keys if len(key) < 40_000}
    for carried in sorted(shown, key=len)[-6:]:
        value = await browser.post(f"/ops/session/{digest}/value", {"token": _token(page), "key": carried})
        assert "value of" in value.text


async def test_looking_fetches_no_values(redis_url: str, node: MakeGuard, browser: Browser) -> None:
    large = 300_000
    digest = (await node().create({"large": "x" * large, "small": 1})).digest
    with connect(redis_url) as client:
        sent = [client.info("stats")["total_net_output_bytes"]]
        page = await browser.get(f"/session/{digest}")
        sent.append(client.info("stats")["total_net_output_bytes"])
    assert "293.0 kB" in page.text
    assert sent[1] - sent[0] < large / 10


async def test_more_locks_and_waiters_than_a_page_shows(redis_url: str, browser: Browser) -> None:
    """Those that are left out are counted, and whether it stopped for time or for number is said."""
    with connect(redis_url) as client:
        pipe = client.pipeline()
        for number in range(1300):
            pipe.set(f"sl:{{{number:014d}}}:lock", "token", px=60_000)
        pipe.zadd("sl:{00000000000000}:queue", {f"w{number}": number for number in range(200)})
        pipe.execute()
    page = await browser.get("/")
    assert "Locks held: 1,300." in page.text
    assert "And 1,200 more." in page.text
    assert "Not all" not in page.text
    assert "And 136 more." in (await browser.get("/session/00000000000000")).text
    frame = Frame("", "", "", False, False, False, "")
    for full, why in ((True, "are enough for a page"), (False, "the time that there is")):
        cut = overview(frame, "here", LocksSeen((), 0.4, 10, full), 100)
        assert "at least 0" in cut
        assert why in cut


async def test_a_codec_or_prefix_that_is_not_the_guards(redis_url: str, node: MakeGuard, browser: Browser) -> None:
    guard = node(codec=FernetCodec(default_codec(), Fernet.generate_key()), prefix="shop")
    digest = (await guard.create({"n": 1})).digest
    assert "prefix sl" in (await browser.get("/")).text
    assert "nothing of this session under the prefix <code>sl" in (await browser.get(f"/session/{digest}")).text
    page = asgi_admin(redis_url, allow=lambda scope: True, prefix="shop")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(Starlette(routes=[Mount("/ops", page)])), base_url="http://test"
    ) as client:
        shop = Browser(client)
        shown = await shop.submit(await shop.get(f"/session/{digest}"), f"/ops/session/{digest}/value")
    assert "codec= the one of the guard" in shown.text


def test_an_allow_that_nobody_awaits(redis_url: str) -> None:
    async def allow(environ: Any) -> Access:
        return "act"

    class Allow:
        async def __call__(self, environ: Any) -> Access:
            return "act"

    for wrong in (allow, Allow()):
        with pytest.raises(ConfigurationError, match="plain function"):
            wsgi_admin(redis_url, allow=wrong)  # type: ignore[arg-type]


async def test_an_access_that_is_none(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    app = asgi_admin(redis_url, allow=lambda scope: "Act")  # type: ignore[arg-type,return-value]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).status_code == 403
    assert "'Act', which is none of" in caplog.text


async def test_a_method_that_is_not_understood(redis_url: str) -> None:
    app = asgi_admin(redis_url, allow=lambda scope: True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.put("/")).headers["allow"] == "GET, HEAD, POST"


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
    status, _, _ = _call(app, "PUT", "/")
    assert status == "405 Method Not Allowed"


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
