"""The admin page in headless Chromium: it stays up to date, disturbs nobody, and tells when it is not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from sessionlock.admin import asgi_admin
from sessionlock.blocking import SessionGuard
from sessionlock.protocol.keys import keys_for
from tests.harness.chromium import chromium, console_errors, why_not

pytestmark = pytest.mark.slow
PATIENCE = 30.0  # seconds


class Host:
    """An application with the page below ``/ops``. While ``ill`` it answers 500, as one whose log-in is down."""

    def __init__(self, url: str) -> None:
        self.ill = threading.Event()
        self._app = Starlette(routes=[Mount("/ops", asgi_admin(url, allow=lambda scope: "act"))])
        self._socket = socket.create_server(("127.0.0.1", 0))  # who comes before the server runs waits
        self.url: str = f"http://127.0.0.1:{self._socket.getsockname()[1]}/ops"
        self._server = uvicorn.Server(
            uvicorn.Config(self._answer, interface="asgi3", log_level="critical", lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if self.ill.is_set():
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await self._app(scope, receive, send)

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)


@pytest.fixture
def host(redis_url: str) -> Iterator[Host]:
    with Host(redis_url) as host:
        yield host


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"the admin page was not looked at in a browser: {reason}")
    with chromium(tmp_path) as driver:
        yield driver


class Page:
    def __init__(self, driver: Any, url: str) -> None:
        self._driver = driver
        driver.get(url)

    def does(self, script: str) -> Any:
        return self._driver.execute_script(script)

    def says(self, where: str, text: str) -> None:
        """In the end, each time it looks for news; it is made to look now, and again."""
        self._until(lambda: text in self._looked(where))

    def _looked(self, where: str) -> str:
        self.does("document.dispatchEvent(new Event('visibilitychange'))")
        return str(self.does(f"return document.getElementById('{where}').textContent"))

    def _until(self, true: Callable[[], bool]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._driver, PATIENCE, poll_frequency=0.05).until(lambda _: true())


SELECT = "getSelection().selectAllChildren(document.querySelector('#live td code'))"


def test_it_stays_up_to_date_and_disturbs_nobody(browser: Any, host: Host, redis_url: str) -> None:
    digest = keys_for("sl", "first").digest
    with SessionGuard.from_url(redis_url) as guard, guard.session_lock("first"):
        page = Page(browser, host.url + "/")
        page.does("document.querySelector('#live a').focus()")
        with guard.session_lock("second"):
            page.says("live", "Locks held: 2.")
            assert page.does("return document.activeElement.textContent") == digest
            page.does(SELECT)
            page.says("at", "text is selected")
        page.says("at", "text is selected")
        assert page.does("return getSelection().toString()") == digest
        assert "Locks held: 2." in page.does("return live.textContent")
        page.does("getSelection().removeAllRanges()")
        page.says("live", "Locks held: 1.")
        assert console_errors(browser) == []
        host.ill.set()
        page.says("late", "the answer was 500. It tries on.")
        host.ill.clear()
        page.says("late", "")
        page.says("at", "As of ")
        opened = Page(browser, f"{host.url}/session/{digest}?done=not-held")
        assert "Nothing was taken away" in opened.does("return document.body.textContent")
        assert opened.does("return location.search") == ""
        opened.does("document.querySelector('#live summary').click()")
        opened.says("at", "a form is open")
