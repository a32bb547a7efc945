"""Fifty requests of one session at once, over two workers: what the sessions lose that people usually have.

One shop, the same handler in every framework: read the cart, take 5 ms, write it with one item more. Each site runs as
people run it (uvicorn or gunicorn with two workers, aiohttp twice on one port), once with the framework's usual session
back end and once with sessionlock. ``--framework`` (several times) takes only some. From a checkout only: the sites are
those of the tests.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.commands import Options, options_from, parser
from benchmarks.report import Claim, Report
from benchmarks.stage import server_url

TIMES = 3  # how often a cart is filled in each site
MISSING = "not installed"


@dataclass(frozen=True)
class Row:
    """One framework with one usual back end. ``needs``: modules beside sessionlock's own."""

    site: str
    back_end: str
    guarded: str
    needs: tuple[str, ...]
    way: str = "usual"


ASGI = "SessionLockMiddleware"
DJANGO = "sessionlock.integrations.django"
ROWS = (
    Row("starlette", "starsessions, RedisStore", ASGI, ("starlette", "uvicorn", "starsessions")),
    Row("fastapi", "starsessions, RedisStore", ASGI, ("fastapi", "uvicorn", "starsessions")),
    Row("litestar", "ServerSideSessionConfig, RedisStore", ASGI, ("litestar", "uvicorn")),
    Row("quart", "Quart-Session, redis", ASGI, ("quart", "uvicorn", "quart_session")),
    Row("quart", "its signed cookie", ASGI, ("quart", "uvicorn"), "cookie"),
    Row("django-asgi", "backends.cache, RedisCache", DJANGO, ("django", "uvicorn")),
    Row("django-wsgi", "backends.cache, RedisCache", DJANGO, ("django", "gunicorn")),
    Row("flask", "Flask-Session, redis", "SessionLock(app)", ("flask", "gunicorn", "flask_session")),
    Row("flask", "its signed cookie", "SessionLock(app)", ("flask", "gunicorn"), "cookie"),
    Row("aiohttp", "aiohttp-session, RedisStorage", "setup(app)", ("aiohttp", "aiohttp_session")),
    Row("aiohttp-session", "RedisStorage", "SessionLockStorage", ("aiohttp", "aiohttp_session")),
)
FRAMEWORKS = tuple(dict.fromkeys(row.site for row in ROWS))
PACKAGES = {name: name.replace("_", "-") for name in ("flask_session", "quart_session", "aiohttp_session")}


def run(options: Options, frameworks: Sequence[str] = FRAMEWORKS) -> Report:
    """Play it; see the module."""
    rows: list[list[str]] = []
    lost: dict[str, list[int]] = {}
    notes = ["a signed cookie is kept by the browser: of answers to parallel requests the last one stays"]
    chosen = [row for row in ROWS if row.site in frameworks]
    with server_url() as (url, where):
        for row in chosen:
            missing = [name for name in ("httpx", *row.needs) if find_spec(name) is None]
            if missing:
                notes.append(f"{row.site} with {row.back_end}: {_how_to_get(missing)}")
                rows.append([row.site, row.back_end, MISSING, row.guarded, MISSING])
                continue
            usual = _lost(row.site, url, row.way)
            if row.site not in lost:
                lost[row.site] = _lost(row.site, url, "guarded")
            rows.append([row.site, row.back_end, _told(usual), row.guarded, _told(lost[row.site])])
    guarded = sum(map(sum, lost.values()))
    return Report(
        "frameworks",
        "Fifty requests of one session at once, over two workers",
        f"{TIMES} times per site, the fewest and the most items lost; {where}",
        ["framework", "usual back end", "lost of 50", "with sessionlock", "lost of 50"],
        rows,
        [Claim("items that sites with sessionlock lost", "= 0", guarded)] if lost else [],
        guarded,
        notes,
    )


def _lost(site: str, url: str, way: str) -> list[int]:
    return asyncio.run(_lost_of(site, url, way))


async def _lost_of(name: str, url: str, way: str) -> list[int]:
    """How many items each of several carts lost.

    Raises:
        RuntimeError: a request failed, which is something else than a loss.
    """
    from tests.harness.sites import Site

    lost = []
    with tempfile.TemporaryDirectory() as folder, Site(name, url, Path(folder), way=way) as site:
        for _ in range(TIMES):
            async with site.visitor() as visitor:
                filled = await visitor.fill_the_cart()
            if max(filled.statuses) >= 300:
                raise RuntimeError(f"{name} ({way}) answered {sorted(filled.statuses)}\n{site.told()}")
            lost.append(filled.lost)
        site.stop()
    return lost


def _told(lost: list[int]) -> str:
    fewest, most = min(lost), max(lost)
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def _how_to_get(missing: Sequence[str]) -> str:
    return f"needs {', '.join(PACKAGES.get(name, name) for name in missing)}: pip install 'sessionlock[benchmarks]'"


def main(argv: Sequence[str] | None = None) -> int:
    """The status is 1 only when sessionlock lost an item."""
    arguments_for = parser(__doc__)
    arguments_for.add_argument("--framework", action="append", choices=FRAMEWORKS, help="this one (default: all)")
    arguments = arguments_for.parse_args(argv)
    report = run(options_from(arguments), arguments.framework or FRAMEWORKS)
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else report.text())
    return 1 if report.lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
