"""examples/shop, started by its own command: over HTTP, and by the buttons of its page in a real browser."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from sessionlock.embedded import EmbeddedServer
from tests.harness.chromium import chromium, console_errors, why_not
from tests.harness.commands import connect, keys_without_ttl
from tests.harness.shop import Shop, all_gone, family, opened

pytestmark = [pytest.mark.slow, pytest.mark.server]

PATIENCE = 30.0  # seconds
MOST_TRIES = 10  # of what nearly always happens at once
SCREENSHOTS = "SHOP_SCREENSHOTS"  # names a directory, to which the browser's tests write what they saw


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """One shop for all tests that do it no harm; in the end it closes as it should."""
    with opened() as shop:
        yield shop
        assert shop.close() == (0, "")


def visitor(shop: Shop, way: str) -> httpx.AsyncClient:
    """A browser's cookies and, other than a browser, as many connections as it needs."""
    return httpx.AsyncClient(base_url=f"{shop.url}/{way}/", timeout=PATIENCE)


# --- over HTTP


async def forty_products(client: httpx.AsyncClient) -> set[str]:
    """All at once, into a cart that exists; the nodes that answered."""
    assert (await client.post("visit")).is_success
    answers = await asyncio.gather(*(client.post(f"cart/{number}") for number in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    return {answer.json()["node"] for answer in answers}


async def products(client: httpx.AsyncClient) -> list[int]:
    return [item["product"] for item in (await client.get("session")).json()["cart"]]


@pytest.mark.anyio
async def test_guarded_loses_nothing(shop: Shop) -> None:
    async with visitor(shop, "guarded") as client:
        assert await forty_products(client) == {"A", "B"}
        assert sorted(await products(client)) == list(range(40))
        assert len((await client.post("messages")).json()["messages"]) == 40
        assert (await client.post("messages")).json()["messages"] == []


@pytest.mark.anyio
async def test_unguarded_loses_some(shop: Shop) -> None:
    async with visitor(shop, "unguarded") as client:
        assert await forty_products(client) == {"A", "B"}
        kept = await products(client)
        assert 0 < len(kept) < 40


@pytest.mark.anyio
async def test_under_the_guard_requests_do_not_overlap(shop: Shop) -> None:
    async with visitor(shop, "guarded") as client:
        await client.post("visit")
        answers = await asyncio.gather(*(client.post("visit") for _ in range(10)))
    stays = sorted((answer.json() for answer in answers), key=lambda stay: stay["loaded"])
    assert all(one["saved"] <= other["loaded"] for one, other in itertools.pairwise(stays))
    fences = [int(stay["fence"]) for stay in stays]
    assert fences == sorted(set(fences))


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["guarded", "unguarded"])
async def test_one_browsers_cookie_is_not_sent_for_another(shop: Shop, way: str) -> None:
    async with visitor(shop, way) as one, visitor(shop, way) as other:
        await one.post("login", params={"user": "Grace"})
        for _ in range(4):
            assert (await other.get("session")).json()["user"] is None
        assert (await one.get("session")).json()["user"] == "Grace"


@pytest.mark.anyio
async def test_the_cookie_is_safe_by_default(shop: Shop) -> None:
    async with visitor(shop, "guarded") as client:
        told = (await client.post("visit")).headers["set-cookie"].lower()
    assert "httponly" in told
    assert "samesite=lax" in told
    assert "secure" not in told  # http on the loopback interface


@pytest.mark.anyio
async def test_the_live_view_shows_holder_and_queue_and_no_session_id(shop: Shop) -> None:
    async with visitor(shop, "guarded") as client:
        await client.post("visit")
        adding = asyncio.gather(*(client.post(f"cart/{number}", params={"takes": 0.3}) for number in range(5)))
        seen = await live_until(client, lambda event: bool(event["holder"] and len(event["queue"]) == 3))
        await adding
        fences = [int(event["fence"]) for event in seen]
        assert fences == sorted(fences)
        assert all(" POST /cart/" in label for label in (seen[-1]["holder"], *seen[-1]["queue"]))
        assert client.cookies["shop_guarded"] not in json.dumps(seen)


@pytest.mark.anyio
async def test_a_node_is_killed_while_it_holds_the_lock() -> None:
    with opened() as shop:
        async with visitor(shop, "guarded") as client:
            await client.post("visit")
            victim = (await client.post("cart/1")).json()
            dying = asyncio.ensure_future(client.post("cart/2", params={"takes": 10}))
            seen = await live_until(client, lambda event: " POST /cart/" in str(event["holder"]))
            holder = seen[-1]["holder"].split()[0].removeprefix("node_")
            os.kill(shop.nodes[holder], signal.SIGKILL)
            assert all_gone([shop.nodes[holder]])
            assert (await dying).status_code == 502
            answers = await asyncio.gather(*(client.post(f"cart/{number}") for number in range(3, 11)))
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.json()["node"] for answer in answers} == {"A", "B"} - {holder}
            assert min(int(answer.json()["fence"]) for answer in answers) > int(victim["fence"])
            assert sorted(await products(client)) == [1, *range(3, 11)]
        assert shop.close() == (0, "")


async def live_until(client: httpx.AsyncClient, enough: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """What the live view tells, up to the event that is looked for."""
    seen: list[dict[str, Any]] = []
    with anyio.fail_after(PATIENCE):
        async with client.stream("GET", "live") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
                    if enough(seen[-1]):
                        return seen
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_closes_at_once_with_streams_open_and_leaves_nothing(
    how: signal.Signals, own_server: Callable[..., EmbeddedServer]
) -> None:
    server = own_server()
    with opened("--redis", server.unix_url) as shop:
        started = family(shop.process.pid)
        assert set(shop.nodes.values()) <= set(started)
        with httpx.Client(base_url=f"{shop.url}/guarded/") as client:
            client.post("visit")
            with client.stream("GET", "live") as stream:
                assert next(stream.iter_lines())
                assert shop.close(how) == (0, "")
    assert all_gone(started)
    assert keys_without_ttl(server.unix_url) == []
    with connect(server.unix_url) as redis:
        assert all(key.startswith(b"shop:") for key in redis.scan_iter())


def test_killed_it_leaves_no_process() -> None:
    with opened() as shop:
        started = family(shop.process.pid)
        assert len(started) >= 3  # two nodes and a server
        shop.process.kill()
        assert all_gone(started)


# --- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"the shop's page was not clicked through: {reason}")
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Page:
    """The shop's page, by what a visitor sees and clicks."""

    def __init__(self, driver: Any, url: str) -> None:
        self._driver = driver
        driver.get(url)
        self._settled()

    def choose(self, way: str) -> None:
        self._driver.find_element("css selector", f"label:has(#{way})").click()
        self._settled()

    def press(self, button: str) -> None:
        self._driver.find_element("id", button).click()
        self._settled()

    def score(self, name: str) -> str:
        return " ".join(self.texts(f"#score-{name} p, #score-{name} em")).strip()

    def texts(self, selector: str) -> list[str]:
        return self._read(selector, "innerText")

    def tiles(self, state: str) -> set[int]:
        return set(map(int, self._read(f"#cart li.{state}", "dataset.product")))

    def _read(self, selector: str, what: str) -> list[str]:
        """All in one look: the page draws itself anew whenever the lock changes hands."""
        script = f"return Array.from(document.querySelectorAll(arguments[0]), found => found.{what})"
        read: list[str] = self._driver.execute_script(script, selector)
        return read

    def answering(self) -> set[str]:
        return set(self.texts("#requests .node"))

    def save(self, name: str) -> None:
        """A screenshot of the whole page, where somebody wants one."""
        if folder := os.environ.get(SCREENSHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._driver.find_element("tag name", "body").screenshot(str(Path(folder) / f"shop-{name}.png"))

    def wait_until(self, selector: str, text: str) -> None:
        self._until(lambda: self.texts(selector) == [text])

    def _settled(self) -> None:
        """Until all that the last click asked for was answered, and drawn."""
        self._until(lambda: self._read("body", "dataset.drawn") == ["true"])

    def _until(self, true: Callable[[], bool]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._driver, PATIENCE, poll_frequency=0.05).until(lambda _: true())


def fresh(browser: Any, shop: Shop) -> Page:
    """For a visitor who has never been there."""
    browser.delete_all_cookies()
    return Page(browser, shop.url)


def test_in_a_browser_the_guarded_shop_keeps_everything(browser: Any, shop: Shop) -> None:
    page = fresh(browser, shop)
    page.press("login")
    page.press("add")
    page.press("visits")
    assert page.tiles("kept") == set(range(1, 21))
    assert page.tiles("lost") == set()
    assert page.score("cart") == "20 of 20 none lost"
    assert page.score("messages") == "21 of 21 none lost"
    assert page.score("visits") == "11 of 11 none lost"
    assert page.answering() == {"A", "B"}
    page.press("race")
    assert page.tiles("kept") == set(range(1, 25))
    assert page.score("user") == "nobody logged out"
    assert "longest seen: 0" not in page.texts("#queue")[0]
    page.press("visit")
    assert page.score("visits") == "12 of 12 none lost"
    page = Page(browser, shop.url)  # loaded again: the same session
    assert page.score("cart") == "24 of 24 none lost"
    assert page.score("visits") == "13 of 13 none lost"
    assert console_errors(browser) == []


def test_in_a_browser_the_unguarded_shop_loses_things(browser: Any, shop: Shop) -> None:
    page = fresh(browser, shop)
    page.choose("unguarded")
    page.press("login")
    page.press("add")
    kept, lost = page.tiles("kept"), page.tiles("lost")
    assert kept | lost == set(range(1, 21))
    assert lost
    assert page.score("cart") == f"{len(kept)} of 20 {len(lost)} lost"
    assert page.answering() == {"A", "B"}
    for _ in range(MOST_TRIES):
        page.press("race")
        if page.score("user") == "Ada the logout was undone":
            break
        page.press("login")
    else:
        pytest.fail("no request that was under way brought the user back")
    assert console_errors(browser) == []


def test_in_a_browser_the_modes_are_shops_of_their_own(browser: Any, shop: Shop) -> None:
    page = fresh(browser, shop)
    page.press("login")
    page.choose("unguarded")
    assert page.score("user") == "nobody"
    page.choose("guarded")
    assert page.score("user") == "Ada"
    page.press("logout")
    assert page.score("user") == "nobody logged out"
    assert console_errors(browser) == []


def test_the_screenshots(browser: Any, shop: Shop) -> None:
    """The same clicks in both; SHOP_SCREENSHOTS=docs/images takes the pictures anew."""
    for way in ("guarded", "unguarded"):
        browser.delete_all_cookies()
        page = Page(browser, shop.url)
        page.choose(way)
        for button in ("login", "visits", "add"):
            page.press(button)
        if way == "guarded":
            page.wait_until("#holder", "nobody")  # the live view has caught up
        page.save(way)
        assert bool(page.tiles("lost")) == (way == "unguarded")
    assert console_errors(browser) == []
