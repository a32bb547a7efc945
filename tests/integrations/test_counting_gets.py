"""Safe requests that change the session, many at once, with all defaults: each of them counts, none is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sessionlock import SessionGuard
from tests.harness.sites import Site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COUNTING = (
    "django-wsgi",
    "django-asgi",
    "starlette",
    "fastapi",
    "flask",
    "quart",
    "quart-hypercorn",
    "aiohttp",
    "aiohttp-session",
)
AT_ONCE = 20


@pytest.mark.parametrize("name", COUNTING)
async def test_each_of_twenty_counts(name: str, store: str, tmp_path: Path) -> None:
    """They read a number and write one more; they read a list and write a longer one. By two workers."""
    with Site(name, store, tmp_path, DEFAULTS="1") as site:
        async with site.visitor() as visitor, SessionGuard.from_url(store) as guard:
            tabs = visitor.tabs[:AT_ONCE]
            counting = await asyncio.gather(*(tab.get("/count") for tab in tabs))
            assert [answer.status_code for answer in counting] == [200] * AT_ONCE
            assert len({answer.json()["pid"] for answer in counting}) == 2
            assert (await guard.read(visitor.sid))["number"] == AT_ONCE
            adding = await asyncio.gather(*(tab.get(f"/add?item={number}") for number, tab in enumerate(tabs)))
            assert [answer.status_code for answer in adding] == [200] * AT_ONCE
            assert sorted((await guard.read(visitor.sid))["cart"]) == sorted(["first", *map(str, range(AT_ONCE))])
            assert (await guard.inspect(visitor.sid)).holder is None
        site.stop()
        assert "Traceback" not in site.told()
