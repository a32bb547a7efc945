"""What ``docs/cli.md`` shows is what the commands print: ``python -m tests.cli.pages docs/cli.md`` writes it there.

Each block behind ``<!-- shown: COMMAND -->`` is the output of that command in one scene, and the pictures of ``top``
are drawn of the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from sessionlock import SessionGuard
from sessionlock.cli import main
from sessionlock.cli.address import FILE_VARIABLE, URL_VARIABLE
from sessionlock.cli.operators.top import page_of
from sessionlock.cli.tables import rich_page
from sessionlock.embedded import EmbeddedServer
from sessionlock.observe import Event, LockQueued
from sessionlock.operate import Board, Operator
from sessionlock.protocol.keys import keys_for

__all__ = ["BLOCK", "rewritten", "scene", "shape", "shown"]

BLOCK = re.compile(r"(<!-- shown: (?P<command>.+?) -->\n```console\n)(?P<text>.*?)(```\n)", re.DOTALL)
SHOWN_AS = "localhost:6379"
HELD = {"visitor-1": "POST /cart", "visitor-2": "POST /checkout", "visitor-3": "GET /feed", "visitor-4": "agent turn"}
WAITING = {"visitor-1": ("GET /cart", "POST /cart", "GET /cart"), "visitor-2": ("GET /orders",)}
TOKEN = re.compile(r"[A-Za-z0-9_-]{12}\d{16}\.[A-Za-z0-9_-]{8}")
# What differs from run to run: numbers, with their units.
VARIABLE = re.compile(r"\d[\d.,:]*(?: ?(?:s|min|h|d|B|KiB|MiB)\b)?")
# All of a name: the digests of the scene stay the same, its tokens do not.
DIGESTS = {keys_for("sl", sid).digest: f"digest-of-{sid}" for sid in (*HELD, "ada-phone", "ada-laptop")}


@asynccontextmanager
async def scene(url: str) -> AsyncIterator[SessionGuard]:
    """Some sessions held, some waited for, two of one user."""
    hear, queued = _heard(sum(map(len, WAITING.values())))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(SessionGuard.from_url(url, label="web-1"))
        second = await stack.enter_async_context(SessionGuard.from_url(url, label="web-2", observer=hear, wait=60))
        for sid in HELD:
            await first.create({"cart": ["A", "B"], "theme": "dark"}, sid=sid)
        for sid in ("ada-phone", "ada-laptop"):
            await first.create({"cart": ["book"], "user_id": 7}, sid=sid)
            await first.bind(sid, "ada")
        for sid, route in HELD.items():
            await stack.enter_async_context(first.session_lock(sid, label=route))

        async def wait(sid: str, route: str) -> None:
            async with second.session_lock(sid, label=route):
                pass

        waiters = [asyncio.ensure_future(wait(sid, route)) for sid, routes in WAITING.items() for route in routes]
        await queued.wait()
        try:
            yield first
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait(waiters)


def _heard(number: int) -> tuple[Callable[[Event], None], asyncio.Event]:
    seen, all_there = [], asyncio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, LockQueued):
            seen.append(event)
            if len(seen) == number:
                all_there.set()

    return hear, all_there


def ran(command: str, url: str) -> str:
    """What the command prints, as docs show it."""
    environment = {name: value for name, value in os.environ.items() if name not in (FILE_VARIABLE, "FORCE_COLOR")}
    out = io.StringIO()
    with (
        patch.dict(os.environ, {**environment, URL_VARIABLE: url}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        main(command.split()[1:])
    where = url.removeprefix("redis://").partition("/")[0]
    return out.getvalue().replace(where, SHOWN_AS)


async def shown(commands: list[str], url: str) -> dict[str, str]:
    async with scene(url):
        return {command: await asyncio.to_thread(ran, command, url) for command in commands}


def rewritten(text: str, outputs: Mapping[str, str]) -> str:
    """``text`` with these outputs in their blocks."""
    return BLOCK.sub(lambda match: f"{match[1]}$ {match['command']}\n{outputs[match['command']]}{match[4]}", text)


def shape(text: str) -> str:
    """An output without what differs from run to run."""
    text = TOKEN.sub("TOKEN", text)
    for digest, name in DIGESTS.items():
        text = text.replace(digest, name)
    return re.sub(r"[ ]+", " ", VARIABLE.sub("N", text))


def commands_in(text: str) -> list[str]:
    return list(dict.fromkeys(match["command"] for match in BLOCK.finditer(text)))


async def draw(url: str, folder: Path) -> Iterator[Path]:
    """Pictures of ``top``: wide, narrow, and on a light ground."""
    from rich.console import Console
    from rich.terminal_theme import DIMMED_MONOKAI

    async with scene(url) as guard, Operator.from_url(url) as operator:
        board = Board(operator)
        await board.look()
        async with guard.session_lock("visitor-5", label="POST /vote") as session:
            await board.look()
            for number in range(50):
                session["n"] = number
                await session.save()
            await asyncio.sleep(3)
            view = await board.look()
        await board.aclose()
    drawn = []
    for name, width in (("top-wide", 100), ("top-narrow", 60)):
        console = Console(record=True, width=width, file=io.StringIO(), highlight=False, force_terminal=True)
        console.print(rich_page(page_of(view, SHOWN_AS, 10), width))
        path = folder / f"{name}.svg"
        path.write_text(console.export_svg(title="sessionlock top", theme=DIMMED_MONOKAI), encoding="utf-8")
        drawn.append(path)
    return iter(drawn)


def rewrite(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    with EmbeddedServer(tcp=True) as server:
        path.write_text(rewritten(text, asyncio.run(shown(commands_in(text), server.url))), encoding="utf-8")
    with EmbeddedServer(tcp=True) as server:
        for picture in asyncio.run(draw(server.url, path.parent / "images")):
            print(picture)


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
