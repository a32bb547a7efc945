"""Two requests of one visitor at once, of which one logs in: two logins, a logout, an item for the cart; two workers.

Each login that is answered with success is in the session of its own cookie; whoever planted the id that they came with
has nothing; nothing fails that is not told.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.harness.sites import Site, Visitor

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NAMES = ("django-wsgi", "django-asgi", "starlette", "litestar", "flask", "quart", "aiohttp", "aiohttp-session")
ADA, BOB, OUT, MORE = "/login?user=ada", "/login?user=bob", "/logout", "/add?item=more"
PAIRS = ((ADA, BOB), (ADA, ADA), (ADA, OUT), (ADA, MORE), (OUT, ADA), (MORE, ADA))
TOLD = {400, 409}  # by Django, and by the others: the session was replaced or ended by the other request


async def comes_by(site: Site, name: str, sid: str) -> dict[str, object]:
    """Who is logged in for a browser with that cookie, and its cart."""
    async with httpx.AsyncClient(base_url=site.url, cookies={name: sid}, trust_env=False, timeout=30) as browser:
        told: dict[str, object] = (await browser.get("/who")).raise_for_status().json()
    return told


async def at_once(site: Site, visitor: Visitor, paths: tuple[str, str]) -> None:
    for tab in visitor.tabs:
        tab.cookies.clear()
    await visitor.begin()
    ((cookie, planted),) = visitor.tabs[0].cookies.items()
    answers = await asyncio.gather(
        *(tab.post(path) for tab, path in zip(visitor.tabs, paths, strict=False))  # by turns, so one a worker
    )
    told = [(path, answer.status_code) for path, answer in zip(paths, answers, strict=True)]
    assert all(answer.is_success or answer.status_code in TOLD for answer in answers), (told, site.told())
    entered = []
    for path, answer in zip(paths, answers, strict=True):
        if path in (ADA, BOB) and answer.is_success:
            sid = answer.cookies[cookie]
            assert sid != planted, told
            entered.append(await comes_by(site, cookie, sid))
            assert f"/login?user={entered[-1]['user']}" == path, (told, entered)
    assert entered, told
    assert await comes_by(site, cookie, planted) == {"user": None, "cart": []}, told
    kept = [item for login in entered for item in login["cart"]]  # type: ignore[attr-defined]
    assert kept.count("first") <= 1, (told, entered)
    if MORE in paths:
        put = answers[paths.index(MORE)].is_success
        assert kept == (["first", "more"] if put else ["first"]), (told, entered)


@pytest.mark.parametrize("name", NAMES)
async def test_nobody_is_lost_and_no_planted_id_stays(name: str, store: str, tmp_path: Path) -> None:
    with Site(name, store, tmp_path, DEFAULTS="1") as site:
        async with site.ready() as visitor:
            for paths in PAIRS:
                await at_once(site, visitor, paths)
