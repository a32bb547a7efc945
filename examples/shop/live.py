"""Who has the session now, who waits, the fences: as server-sent events, from ``guard.inspect``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from sessionlock import SessionGuard
from sessionlock.views.cookies import CookieSettings

LOOK_EVERY = 0.03  # seconds
TELL_EVERY = 1.0  # seconds, if nothing has changed: so that everybody on the way sees whether the other is still there


def live(guard: SessionGuard, cookie: CookieSettings, going: Callable[[], bool]) -> APIRouter:
    router = APIRouter()

    @router.get("/live")
    async def stream(request: Request) -> StreamingResponse:
        sid = cookie.find(request.headers.get("cookie", ""))
        events = _events(guard, sid, going) if sid else _nothing()
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


async def _events(guard: SessionGuard, sid: str, going: Callable[[], bool]) -> AsyncIterator[str]:
    told, told_at = None, 0.0
    while going():
        seen = await _seen(guard, sid)
        if seen != told or time.monotonic() - told_at > TELL_EVERY:
            told, told_at = seen, time.monotonic()
            yield f"retry: 300\ndata: {json.dumps(seen)}\n\n"
        await asyncio.sleep(LOOK_EVERY)


async def _nothing() -> AsyncIterator[str]:
    """No session yet: the page asks again after its first visit."""
    yield "retry: 300\n\n"


async def _seen(guard: SessionGuard, sid: str) -> dict[str, Any]:
    """``name`` is the digest under which Redis has the session; nobody can make the id of it."""
    info = await guard.inspect(sid)
    return {
        "name": info.name,
        "holder": info.holder.label if info.holder else None,
        "queue": info.waiters,
        "fence": str(info.fencing_token),  # more digits than some JSON readers take for a number
        "version": info.version,
    }
