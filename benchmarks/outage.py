"""Redis stops for a while under a steady stream of requests: what each of them waits, and what the log says.

A Starlette application under uvicorn and a Flask application under gunicorn (one worker each, all defaults), each once
with a Redis that hangs (SIGSTOP) and once with one that is killed and started again. ``--seconds`` is how long it is
gone (30 is what is claimed; the first request needs about 5), ``--rate`` the requests a second, ``--site`` takes one.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.commands import parser
from benchmarks.report import Claim, Report, median, quantile
from tests.harness.faulty import FaultyServer

VISITORS = 20
REDIS = "SESSIONLOCK_BENCHMARK_REDIS"
ROOT = Path(__file__).resolve().parents[1]
SITES = {
    "starlette": ["uvicorn", "--factory", "benchmarks.outage:starlette_app", "--no-access-log", "--log-level=warning"],
    "flask": ["gunicorn", "benchmarks.outage:flask_app()", "--threads=8", "--log-level=warning"],
}
HOW = ("hangs", "killed")
AFTER = 3.0  # seconds of requests after Redis came back
SOON = 0.5  # seconds for an answer when all is well, on a busy machine


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from sessionlock.integrations.asgi import SessionLockMiddleware

    async def add(request: Any) -> Any:
        request.session["n"] = request.session.get("n", 0) + 1
        return PlainTextResponse(str(request.session["n"]))

    middleware = Middleware(SessionLockMiddleware, guard=os.environ[REDIS])
    return Starlette(routes=[Route("/add", add, methods=["POST"])], middleware=[middleware])


def flask_app() -> Any:
    from flask import Flask, session

    from sessionlock.integrations.flask.extension import SessionLock

    app = Flask(__name__)
    SessionLock(app, os.environ[REDIS])

    @app.post("/add")
    def add() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    return app


@dataclass
class Answer:
    """One request. Times in seconds since the stream began."""

    began: float
    ended: float
    status: int

    @property
    def took(self) -> float:
        return self.ended - self.began


@dataclass
class Seen:
    """What one site did. ``down`` and ``up``: when Redis went and came."""

    site: str
    how: str
    down: float = 0.0
    up: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def first(self) -> Answer:
        """Of those that met the outage, the one that came first."""
        return min(self.failed, key=lambda answer: answer.began)

    @property
    def meanwhile(self) -> list[Answer]:
        """Those that came until it was answered: with it the outage is known."""
        return [answer for answer in self.failed if answer.began <= self.first.ended]

    @property
    def later(self) -> list[Answer]:
        """Those that came while the outage was known."""
        return [answer for answer in self.failed if self.first.ended < answer.began < self.up]

    @property
    def usual(self) -> list[Answer]:
        """Those before it, to compare with."""
        return [answer for answer in self.answers if answer.ended < self.down]

    @property
    def back(self) -> float:
        """Seconds after Redis' return until every request was answered well, and soon."""
        came = [answer for answer in self.answers if answer.began > self.up]
        bad = [answer for answer in came if answer.status != 200 or answer.took > SOON]
        first = min((answer.ended for answer in came if answer.status == 200), default=float("inf"))
        return max([first, *(answer.ended for answer in bad)]) - self.up

    @property
    def odd(self) -> list[int]:
        return sorted({answer.status for answer in self.failed} - {503})


class Site:
    """The application in a process of its own. ``log``: where its standard error goes."""

    def __init__(self, name: str, redis_url: str, log: Path) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        # Of a socket that uvicorn inherits it does not know that it is TCP: each answer would wait 40 ms for an ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = self._socket.fileno()
        bind = f"--fd={fd}" if name == "starlette" else f"--bind=fd://{fd}"
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *SITES[name], bind],
            env={**os.environ, REDIS: redis_url, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stderr=self._log,
            stdout=self._log,
            pass_fds=[fd],
        )

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()
        self._log.close()


def run(*, seconds: float = 30.0, rate: float = 50.0, sites: Sequence[str] = tuple(SITES)) -> Report:
    """Play it; see the module."""
    found = [asyncio.run(played(site, how, seconds, rate)) for site in sites for how in HOW]
    return _report(found, seconds, rate)


async def played(name: str, how: str, seconds: float, rate: float) -> Seen:
    seen = Seen(name, how)
    with tempfile.TemporaryDirectory() as folder, FaultyServer(tcp=True) as server:
        log = Path(folder) / "log"
        site = Site(name, server.tcp_url, log)
        try:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
            async with httpx.AsyncClient(base_url=site.url, limits=limits, timeout=60.0) as client:
                await _stream(seen, client, server, seconds, rate)
        finally:
            site.close()
        seen.lines = [line for line in log.read_text(errors="replace").splitlines() if "Redis at" in line]
    return seen


async def _stream(seen: Seen, client: httpx.AsyncClient, server: FaultyServer, seconds: float, rate: float) -> None:
    cookies = [await _visitor(client) for _ in range(VISITORS)]
    go, come = _ways(seen.how, server)
    zero = time.monotonic()

    async def one(cookie: str) -> None:
        began = time.monotonic() - zero
        answer = await client.post("/add", headers={"cookie": cookie})
        seen.answers.append(Answer(began, time.monotonic() - zero, answer.status_code))

    async def outage() -> None:
        await asyncio.sleep(1)
        await asyncio.to_thread(go)
        seen.down = time.monotonic() - zero
        await asyncio.sleep(seconds)
        await asyncio.to_thread(come)
        seen.up = time.monotonic() - zero
        await asyncio.sleep(AFTER)

    playing, requests, number = asyncio.ensure_future(outage()), [], 0
    while not playing.done():
        requests.append(asyncio.ensure_future(one(cookies[number % VISITORS])))
        number += 1
        await asyncio.sleep(max(0.0, zero + number / rate - time.monotonic()))
    await asyncio.gather(playing, *requests)


def _ways(how: str, server: FaultyServer) -> tuple[Callable[[], object], Callable[[], object]]:
    return (server.pause, server.resume) if how == "hangs" else (server.kill, server.restart)


async def _visitor(client: httpx.AsyncClient) -> str:
    """A session of its own; its cookie."""
    for _ in range(200):
        with suppress(httpx.TransportError):
            answer = await client.post("/add")
            client.cookies.clear()
            return answer.headers["set-cookie"].split(";")[0]
        await asyncio.sleep(0.05)
    raise RuntimeError("the site did not start")


def _report(found: list[Seen], seconds: float, rate: float) -> Report:
    rows, claims = [], []
    for seen in found:
        name, later = f"{seen.site}, Redis {seen.how}", [answer.took for answer in seen.later]
        rows.append(
            [
                name,
                f"{seen.first.took:.2f} s",
                f"{len(seen.meanwhile)}, at most {max(answer.took for answer in seen.meanwhile):.2f} s",
                f"{median(answer.took for answer in seen.usual) * 1000:.1f} ms",
                f"{len(later)}",
                f"{median(later) * 1000:.1f} ms",
                f"{quantile(later, 0.99) * 1000:.1f} ms",
                f"{max(later, default=float('nan')) * 1000:.1f} ms",
                f"{seen.back:.2f} s",
                f"{len(seen.lines)}",
            ]
        )
        claims += [
            Claim(f"{name}: the first request, s", "<= 5", seen.first.took),
            Claim(f"{name}: 99 % of the later ones, ms", "<= 50", quantile(later, 0.99) * 1000),
            Claim(f"{name}: back after Redis, s", "<= 1", seen.back),
            Claim(f"{name}: lines in the log", "= 2", len(seen.lines)),
            Claim(f"{name}: other answers than 200 and 503", "= 0", len(seen.odd)),
        ]
    return Report(
        "outage",
        f"Redis is gone for {seconds:g} s under {rate:g} requests/s.",
        "Later: those that came after the first had failed. Meanwhile: those that came before. By HTTP, one worker",
        ["site", "first", "meanwhile", "median before", "later", "median", "99 %", "max", "back after", "log lines"],
        rows,
        claims,
        notes=[line for seen in found for line in seen.lines],
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments_for = parser(__doc__)
    arguments_for.set_defaults(seconds=30.0)
    arguments_for.add_argument("--rate", type=float, default=50.0, help="requests a second (default 50)")
    arguments_for.add_argument("--site", action="append", choices=tuple(SITES), help="only this one")
    arguments = arguments_for.parse_args(argv)
    report = run(seconds=arguments.seconds, rate=arguments.rate, sites=arguments.site or tuple(SITES))
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else report.text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
