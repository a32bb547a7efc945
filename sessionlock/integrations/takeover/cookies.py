"""Old sessions that travel whole in a signed cookie."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import string
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigurationError
from ...session.block import new_sid
from ..web.identity import tells_a_person
from .taking import Old

__all__ = ["FlaskCookie", "StarletteCookie", "sid_for"]

_ALPHABET = string.digits + string.ascii_lowercase


def sid_for(cookie: str, content: Mapping[str, Any]) -> str:
    """An id for what stands in a cookie: always the same where it tells who is logged in, so that all nodes take it
    over as one session, and only who has the cookie can know it. What was signed for two strangers in one second may
    be equal to the last byte, so there each request begins a session of its own.
    """
    if not tells_a_person(content):
        return new_sid()
    number = int.from_bytes(hashlib.sha256(b"sessionlock takes over " + cookie.encode()).digest(), "big")
    letters = []
    for _ in range(32):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


class _Cookie:
    """What the signed cookies have in common. ``itsdangerous`` is needed, as there.

    A cookie cannot be called back: what was taken over once is not taken again, but old nodes would still honour it.
    """

    write_back = False

    def __init__(self, secret_key: str | bytes, cookie: str, max_age: int | None) -> None:
        if not secret_key:
            raise ConfigurationError(f"{type(self).__name__} needs the secret_key that signed the old cookies")
        self._itsdangerous: Any = importlib.import_module("itsdangerous")
        self._max_age = max_age
        self.cookie: str | None = cookie

    def _content(self, value: str) -> Any:
        """Raises itsdangerous' BadSignature, or ValueError."""
        raise NotImplementedError

    async def load(self, value: str) -> Old | None:
        try:
            data = self._content(value)
        except (self._itsdangerous.BadData, ValueError):
            return None
        return Old(sid_for(value, data), data, self._max_age) if isinstance(data, dict) and data else None

    async def store(self, sid: str, data: Mapping[str, Any], seconds: float) -> None:
        raise NotImplementedError("what stands in a cookie cannot be written back")

    async def end(self, value: str) -> None:
        """It cannot be called back; the mark that it was taken over keeps it from coming back here."""

    async def aclose(self) -> None:
        """There is nothing to close."""


class StarletteCookie(_Cookie):
    """Starlette's and FastAPI's ``SessionMiddleware``: ``secret_key``, ``cookie`` and ``max_age`` as given to it."""

    def __init__(self, secret_key: str, *, cookie: str = "session", max_age: int | None = 14 * 86_400) -> None:
        super().__init__(secret_key, cookie, max_age)
        self._signer = self._itsdangerous.TimestampSigner(str(secret_key))

    def _content(self, value: str) -> Any:
        return json.loads(base64.b64decode(self._signer.unsign(value.encode(), max_age=self._max_age)))


class FlaskCookie(_Cookie):
    """Flask's and Quart's own sessions: ``secret_key``, ``SESSION_COOKIE_NAME`` and ``PERMANENT_SESSION_LIFETIME`` in
    seconds, as there.
    """

    def __init__(self, secret_key: str | bytes, *, cookie: str = "session", max_age: int = 31 * 86_400) -> None:
        super().__init__(secret_key, cookie, max_age)
        self._serializer = self._itsdangerous.URLSafeTimedSerializer(
            secret_key,
            salt="cookie-session",
            serializer=importlib.import_module("flask.json.tag").TaggedJSONSerializer(),
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
        )

    def _content(self, value: str) -> Any:
        return self._serializer.loads(value, max_age=self._max_age)
