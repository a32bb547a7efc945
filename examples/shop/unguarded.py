"""THE PEER, NOT FOR USE: what session middlewares usually do.

GET the whole session as the request begins, SET the whole of it as the answer begins, and ask nobody in between. Of
two requests at the same time the one that saves last wins, and what the other did is gone. No error is raised.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from redis.asyncio import Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessionlock.views.cookies import CookieSettings


class UnguardedSession(dict[str, Any]):
    sid: str

    async def regenerate(self) -> None:
        """A new id; the data stays."""
        self.sid = secrets.token_urlsafe(32)


class UnguardedMiddleware:
    def __init__(self, app: ASGIApp, client: Redis, cookie: CookieSettings) -> None:
        self._app = app
        self._client = client
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sid = self._cookie.find(dict(scope["headers"]).get(b"cookie", b"").decode("latin-1"))
        before = await self._client.get(_key(sid)) if sid else None
        session = scope["session"] = UnguardedSession(json.loads(before or b"{}"))
        session.sid = sid if sid and before else secrets.token_urlsafe(32)

        async def saving(message: Message) -> None:
            if message["type"] == "http.response.start":
                after = json.dumps(session).encode()
                if after != (before or b"{}"):  # only what changed anything is saved; as the better ones do
                    await self._client.set(_key(session.sid), after, ex=self._cookie.kwargs()["max_age"])
                    if sid and before and sid != session.sid:
                        await self._client.delete(_key(sid))
                    value = self._cookie.render(session.sid, https=scope["scheme"] == "https")
                    message["headers"] = [*message["headers"], (b"set-cookie", value.encode("latin-1"))]
            await send(message)

        await self._app(scope, receive, saving)


def _key(sid: str) -> str:
    return f"shop-unguarded:{sid}"
