"""The shop of every framework answers as the one table says, behind the server that people run it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from sessionlock import SessionGuard
from tests.harness.shop_contract import A_PID, ALL_SHOPS, STREAMING_SHOPS, Row
from tests.harness.sites import NAMES, STREAMING, Site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def guard(guard_at_store: SessionGuard) -> SessionGuard:
    return guard_at_store


@pytest.mark.parametrize("name", NAMES)
async def test_every_shop(name: str, store: str, guard: SessionGuard, tmp_path: Path) -> None:
    await visit(name, store, guard, tmp_path, ALL_SHOPS)


@pytest.mark.parametrize("name", STREAMING)
async def test_shops_that_stream(name: str, store: str, guard: SessionGuard, tmp_path: Path) -> None:
    await visit(name, store, guard, tmp_path, STREAMING_SHOPS)


async def visit(name: str, store: str, guard: SessionGuard, folder: Path, rows: tuple[Row, ...]) -> None:
    with Site(name, store, folder, workers=1) as site:
        async with site.ready(), httpx.AsyncClient(base_url=site.url, timeout=30, trust_env=False) as browser:
            for row in rows:
                if row.gate:
                    site.open(row.gate)
                answer = await browser.request(*row.ask.split(" "))
                status = 200 if answer.status_code == 201 else answer.status_code  # Litestar's for every POST
                assert status == row.status, (row, answer.text)
                assert fits(answer, row.body), (row, answer.text)
                await holds(guard, browser, row)


def fits(answer: httpx.Response, body: Any) -> bool:
    if body is None or isinstance(body, str):
        return body is None or body in answer.text
    said = answer.json()
    if body is A_PID:
        return isinstance(said, int) or isinstance(said["pid"], int)
    if isinstance(body, dict):
        return all(said[name] == value for name, value in body.items())
    return bool(said == body)


async def holds(guard: SessionGuard, browser: httpx.AsyncClient, row: Row) -> None:
    cookies = list(browser.cookies.values())
    if row.stored is None:
        assert cookies == [], row
        return
    (sid,) = cookies
    assert dict(await guard.read(sid)) == row.stored, row
    assert (await guard.inspect(sid)).holder is None, row
