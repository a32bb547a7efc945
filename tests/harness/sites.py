"""Server processes as people run them: one shop in any framework, two workers on one port.

::

    with Site("flask", store_url, folder) as site:
        async with site.visitor() as visitor: ...      # a browser with connections to both workers

``NAMES`` are the sites. What the shop answers stands in :mod:`tests.harness.shop_contract`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain, zip_longest
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import anyio
import httpx

from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness import import_path

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BRIEF", "BRIEFLY", "NAMES", "PATIENTLY", "STREAMING", "TABS", "Filled", "Site", "Visitor"]

PATIENTLY = 60.0  # seconds that a request waits for its session
BRIEF = 0.3  # ... at /brief
BRIEFLY = {"/brief": RoutePolicy("lock", wait=BRIEF)}
WITHIN = 30.0  # seconds for a server to start or to end, and for an answer
TABS = 50


def _uvicorn(application: str) -> list[str]:
    served = ["-m", "uvicorn", "--factory", application, "--fd={}"]
    return [*served, "--log-level=warning", "--no-access-log"]


def _gunicorn(application: str) -> list[str]:
    served = ["-m", "gunicorn", f"{application}()", "--bind=fd://{}", "--threads=4"]
    return [*served, "--keep-alive=30", "--log-level=warning"]


def _hypercorn(application: str) -> list[str]:
    return ["-m", "hypercorn", f"{application}()", "--bind=fd://{}", "--log-level=warning"]


ASGI = _uvicorn("tests.harness.asgi_shops:served")
AIOHTTP = ["-m", "tests.harness.aiohttp_shop", "{}"]
_COMMANDS = {
    "starlette": ASGI,
    "fastapi": ASGI,
    "litestar": ASGI,
    "quart": ASGI,
    "quart-hypercorn": _hypercorn("tests.harness.asgi_shops:served"),
    "django-asgi": _uvicorn("tests.harness.django_site.shop:asgi"),
    "django-wsgi": _gunicorn("tests.harness.django_site.shop:wsgi"),
    "project-asgi": _uvicorn("tests.harness.django_site.project:asgi"),
    "project-wsgi": _gunicorn("tests.harness.django_site.project:wsgi"),
    "flask": _gunicorn("tests.harness.flask_shop:served"),
    "quorum": _gunicorn("tests.harness.quorum_app:served"),
    "aiohttp": AIOHTTP,
    "aiohttp-session": AIOHTTP,
}
_BESIDE = ("quorum", "quart-hypercorn", "project-asgi", "project-wsgi")
NAMES = tuple(name for name in _COMMANDS if name not in _BESIDE)
STREAMING = ("starlette", "fastapi", "litestar", "quart", "aiohttp")


class Site:
    """The shop in one framework. ``way``: ``guarded``, ``usual`` (what people store sessions with), or ``cookie``.

    ``more``: further arguments for the server; ``environment``: what else it is told.
    """

    def __init__(
        self,
        name: str,
        store: str,
        folder: Path,
        *more: str,
        way: str = "guarded",
        workers: int = 2,
        **environment: str,
    ) -> None:
        self.name = name
        self.log = folder / "log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._workers = workers
        alone = _COMMANDS[name] is AIOHTTP  # the others make several workers of one process
        self._masters = workers if alone else 1
        self._command = [sys.executable, *_COMMANDS[name], *([] if alone else [f"--workers={workers}"]), *more]
        self.environment = {
            **os.environ,
            "PYTHONPATH": import_path(),
            "HOME": str(folder),  # gunicorn puts a control socket there
            "SHOP": name,
            "STORE": store,
            "WAY": way,
            "GATES": str(folder),
            **environment,
        }

    # --- it runs

    def start(self) -> None:
        """Returns at once; :meth:`visitor` waits for all workers."""
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening, self.log.open("wb") as log:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            number = listening.fileno()
            command = [word.format(number) for word in self._command]
            for _ in range(self._masters):
                self.processes.append(
                    subprocess.Popen(
                        command,
                        env=self.environment,
                        pass_fds=[number],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # so that workers which outlive their master can be ended, too
                    )
                )

    def __enter__(self) -> Self:
        self.start()
        return self

    def stop(self) -> list[int]:
        """Ask it to end as an operator does; the exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(WITHIN) for process in self.processes]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def told(self) -> str:
        """What the server has written."""
        return self.log.read_text()

    def open(self, gate: str) -> None:
        """Whoever waits at that gate may go on."""
        (self._folder / gate).touch()

    def polls(self, gate: str) -> int:
        """How many long polls wait at that gate."""
        return len(list(self._folder.glob(f"{gate}.*.poll")))

    @asynccontextmanager
    async def visitor(self) -> AsyncIterator[Visitor]:
        """A browser whose tabs all workers answer, with a cart."""
        async with self.ready() as visitor:
            await visitor.begin()
            yield visitor

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Visitor]:
        """The same without a session: all workers answer."""
        started = time.monotonic()
        while True:
            async with Visitor(self.url) as visitor:
                if len(await visitor.find_workers()) == self._workers:
                    yield visitor
                    return
            assert all(process.poll() is None for process in self.processes), self.told()
            assert time.monotonic() < started + WITHIN, f"not all workers answer\n{self.told()}"
            await anyio.sleep(0.05)


class Visitor:
    """A browser: one session, many tabs, each with a connection of its own that stays with the worker that took it."""

    def __init__(self, url: str) -> None:
        self.url = url
        limits = httpx.Limits(max_connections=1, keepalive_expiry=WITHIN)
        self.tabs = [
            httpx.AsyncClient(base_url=url, limits=limits, timeout=WITHIN, verify=False, trust_env=False)
            for _ in range(TABS)
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.gather(*(tab.aclose() for tab in self.tabs))

    async def find_workers(self) -> set[int]:
        """Open the tabs; the pids of the workers that answer them."""
        try:
            answers = await asyncio.gather(*(tab.get("/pid") for tab in self.tabs))
        except httpx.TransportError:
            return set()
        tabs_of: dict[int, list[httpx.AsyncClient]] = {}
        for tab, answer in zip(self.tabs, answers, strict=True):
            tabs_of.setdefault(answer.raise_for_status().json(), []).append(tab)
        # By turns, so that a few tabs are served by both, too.
        by_turns = chain.from_iterable(zip_longest(*tabs_of.values()))
        self.tabs = [tab for tab in by_turns if tab is not None]
        return set(tabs_of)

    async def begin(self) -> None:
        """Put the first item into the cart, whereby the session begins."""
        first = (await self.tabs[0].post("/add?item=first")).raise_for_status()
        for tab in self.tabs:
            tab.cookies.update(first.cookies)

    @property
    def sid(self) -> str:
        (sid,) = self.tabs[0].cookies.values()
        return sid

    async def ask(self, method: str, path: str) -> httpx.Response:
        return await self.tabs[0].request(method, path)

    async def together(self, method: str, paths: Sequence[str]) -> list[httpx.Response]:
        """All at the same time, each in a tab of its own, from the second on: the first one may be busy."""
        tabs = self.tabs[1:] + self.tabs[:1]
        return await asyncio.gather(*(tab.request(method, path) for tab, path in zip(tabs, paths, strict=False)))

    async def fill_more(self) -> list[httpx.Response]:
        return await self.together("POST", [f"/add?item={number}" for number in range(TABS)])

    async def fill_the_cart(self) -> Filled:
        """As many requests at once as there are tabs."""
        answers = await self.fill_more()
        first, *cart = (await self.ask("GET", "/cart")).json()
        assert first == "first"
        pids = {answer.json()["pid"] for answer in answers if answer.is_success}
        return Filled({answer.status_code for answer in answers}, cart, pids)


class Filled(NamedTuple):
    statuses: set[int]
    cart: list[str]
    pids: set[int]

    @property
    def lost(self) -> int:
        """Of :data:`TABS` items."""
        return TABS - len(self.cart)
