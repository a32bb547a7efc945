"""Old sessions that stand in a Redis under the id in their cookie, as the usual packages keep them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib
import json
import math
import pickle
import re
import time
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from redis.asyncio import BlockingConnectionPool, Redis

from ...errors import CodecError, ConfigurationError
from .taking import Old

__all__ = ["AiohttpSession", "ConnectRedis", "FlaskSession", "Starsessions"]

CONNECTIONS = 20  # to the old sessions' Redis, for each event loop
_USABLE = re.compile(r"[!-~]{1,512}")


class _InRedis:
    """``url``: of the Redis that holds the old sessions. ``cookie``: the old cookie's name, None if it is the new
    one's. ``prefix``: what its keys begin with. ``write_back``: old nodes still run, exchange changes with them.
    """

    def __init__(self, url: str, *, cookie: str | None = None, prefix: str, write_back: bool = False) -> None:
        if not isinstance(url, str) or "://" not in url:
            raise ConfigurationError(f"{type(self).__name__} wants the URL of the old sessions' Redis")
        self._url = url
        self.cookie = cookie
        self._prefix = prefix
        self.write_back = write_back
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = weakref.WeakKeyDictionary()

    @property
    def _client(self) -> Redis:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            pool = BlockingConnectionPool.from_url(self._url, max_connections=CONNECTIONS, timeout=5)
            client = self._clients[loop] = Redis.from_pool(pool)
        return client

    async def load(self, value: str) -> Old | None:
        sid = self._sid_of(value)
        if sid is None:
            return None
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.get(self._prefix + sid)
            pipe.pttl(self._prefix + sid)
            raw, left = await pipe.execute()
        if raw is None:
            return None
        data = self._unpacked(raw)
        return Old(value, data, left / 1000 if left > 0 else None)

    async def store(self, sid: str, data: Mapping[str, Any], seconds: float) -> None:
        await self._client.set(self._prefix + sid, self._packed(data, seconds), px=math.ceil(seconds * 1000))

    async def end(self, value: str) -> None:
        sid = self._sid_of(value)
        if sid is not None:
            await self._client.delete(self._prefix + sid)

    async def aclose(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
            await client.connection_pool.aclose()

    def _sid_of(self, value: str) -> str | None:
        return value if _USABLE.fullmatch(value) else None

    def _unpacked(self, raw: bytes) -> dict[str, Any]:
        try:
            data = self._loads(raw)
        except ValueError as error:
            raise CodecError(f"an old session cannot be read by {type(self).__name__}: {error}") from error
        if not isinstance(data, dict):
            raise CodecError(f"an old session is a {type(data).__name__}; {type(self).__name__} expects an object")
        return data

    def _loads(self, raw: bytes) -> Any:
        return json.loads(raw)

    def _packed(self, data: Mapping[str, Any], seconds: float) -> bytes:
        return json.dumps(dict(data)).encode()


class Starsessions(_InRedis):
    """The package starsessions, ``RedisStore``. Its ``__metadata__`` stays in the session, for nodes that run it."""

    def __init__(
        self, url: str, *, cookie: str = "session", prefix: str = "starsessions.", write_back: bool = False
    ) -> None:
        super().__init__(url, cookie=cookie, prefix=prefix, write_back=write_back)

    def _packed(self, data: Mapping[str, Any], seconds: float) -> bytes:
        now = time.time()
        metadata = {"lifetime": math.ceil(seconds), "created": now, "last_access": now}
        return super()._packed({"__metadata__": metadata, **data}, seconds)


class FlaskSession(_InRedis):
    """The package Flask-Session, ``SESSION_TYPE = "redis"``: msgpack (``msgspec`` is needed) or JSON.

    ``pickle``: read also what versions before 0.7 pickled. Only where nobody else can write to that Redis: unpickling
    runs what is written there. Signed ids (``SESSION_USE_SIGNER``) need ``secret_key``.
    """

    def __init__(
        self,
        url: str,
        *,
        cookie: str | None = None,
        prefix: str = "session:",
        secret_key: str | None = None,
        pickle: bool = False,
        write_back: bool = False,
    ) -> None:
        super().__init__(url, cookie=cookie, prefix=prefix, write_back=write_back)
        if write_back and secret_key is not None:
            raise ConfigurationError("write_back is not possible with signed ids (SESSION_USE_SIGNER)")
        self._secret_key = secret_key
        self._pickle = pickle
        self._msgspec: Any = importlib.import_module("msgspec")

    def _sid_of(self, value: str) -> str | None:
        sid = super()._sid_of(value)
        if sid is None or self._secret_key is None:
            return sid
        itsdangerous: Any = importlib.import_module("itsdangerous")
        try:
            signer = itsdangerous.Signer(self._secret_key, salt="flask-session", key_derivation="hmac")
            return str(signer.unsign(sid), "utf-8")
        except itsdangerous.BadSignature:
            return None

    def _loads(self, raw: bytes) -> Any:
        for decode in (self._msgspec.msgpack.decode, self._msgspec.json.decode):
            try:
                return decode(raw)
            except self._msgspec.DecodeError:
                continue
        if self._pickle:
            try:
                return pickle.loads(raw)
            except Exception as error:
                raise ValueError(f"neither msgpack, JSON nor pickle ({type(error).__name__})") from error
        raise ValueError("neither msgpack nor JSON; if it was pickled, say pickle=True")

    def _packed(self, data: Mapping[str, Any], seconds: float) -> bytes:
        packed: bytes = self._msgspec.msgpack.encode(dict(data))
        return packed


class AiohttpSession(_InRedis):
    """The package aiohttp-session, ``RedisStorage``."""

    def __init__(self, url: str, *, cookie: str = "AIOHTTP_SESSION", write_back: bool = False) -> None:
        super().__init__(url, cookie=cookie, prefix=f"{cookie}_", write_back=write_back)

    def _unpacked(self, raw: bytes) -> dict[str, Any]:
        data = super()._unpacked(raw)
        content = data.get("session")
        return content if isinstance(content, dict) else {}

    def _packed(self, data: Mapping[str, Any], seconds: float) -> bytes:
        return super()._packed({"created": int(time.time()), "session": dict(data)}, seconds)


class ConnectRedis(_InRedis):
    """express-session with connect-redis (Node.js): JSON, and an id that ``secret`` signs (``s:<id>.<signature>``).

    Its ``cookie`` object, which says how long the session lives, is left behind.
    """

    def __init__(
        self, url: str, *, secret: str | list[str], cookie: str = "connect.sid", prefix: str = "sess:"
    ) -> None:
        super().__init__(url, cookie=cookie, prefix=prefix)
        self._secrets = [secret] if isinstance(secret, str) else list(secret)

    def _sid_of(self, value: str) -> str | None:
        signed = unquote(value)
        if not signed.startswith("s:"):
            return None
        sid, _, signature = signed[2:].rpartition(".")
        for secret in self._secrets:
            digest = hmac.new(secret.encode(), sid.encode(), hashlib.sha256).digest()
            if hmac.compare_digest(base64.b64encode(digest).decode().rstrip("="), signature):
                return super()._sid_of(sid)
        return None

    def _unpacked(self, raw: bytes) -> dict[str, Any]:
        data = super()._unpacked(raw)
        data.pop("cookie", None)
        return data
