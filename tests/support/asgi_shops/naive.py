"""What session middlewares usually do: load before, save the whole as the answer begins, without asking anybody."""

from __future__ import annotations

import json
import secrets
from typing import Any

import redis.asyncio


class NaiveMiddleware:
    def __init__(self, app: Any, url: str) -> None:
        self._app = app
        self._client = redis.asyncio.Redis.from_url(url)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cookie = dict(scope["headers"]).get(b"cookie", b"").decode()
        sid = cookie.removeprefix("session_id=") or secrets.token_urlsafe(32)
        session = scope["session"] = json.loads(await self._client.get(f"naive:{sid}") or "{}")

        async def saving(message: Any) -> None:
            if message["type"] == "http.response.start":
                await self._client.set(f"naive:{sid}", json.dumps(session), ex=600)
                message["headers"] = [*message["headers"], (b"set-cookie", f"session_id={sid}; Path=/".encode())]
            await send(message)

        await self._app(scope, receive, saving)
