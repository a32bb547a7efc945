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
from .taking import Old

__all__ = ["StarletteCookie", "sid_for"]

_ALPHABET = string.digits + string.ascii_lowercase


def sid_for(cookie: str) -> str:
    """An id for what stands in a cookie, always the same: so all nodes take it over as one session. Only who has the
    cookie can know it.
    """
    number = int.from_bytes(hashlib.sha256(b"sessionlock takes over " + cookie.encode()).digest(), "big")
    letters = []
    for _ in range(32):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


class StarletteCookie:
    """Starlette's and FastAPI's ``SessionMiddleware``: ``secret_key``, ``cookie`` and ``max_age`` as given to it.

    ``itsdangerous`` is needed, as there. A cookie cannot be called back: one that was taken over once is not taken
    again, but old nodes would still honour it.
    """

    write_back = False

    def __init__(self, secret_key: str, *, cookie: str = "session", max_age: int | None = 14 * 86_400) -> None:
        if not secret_key:
            raise ConfigurationError("StarletteCookie needs the secret_key that signed the old cookies")
        self._itsdangerous: Any = importlib.import_module("itsdangerous")
        self._signer = self._itsdangerous.TimestampSigner(str(secret_key))
        self._max_age = max_age
        self.cookie: str | None = cookie

    async def load(self, value: str) -> Old | None:
        try:
            signed = self._signer.unsign(value.encode(), max_age=self._max_age)
            data = json.loads(base64.b64decode(signed))
        except (self._itsdangerous.BadSignature, ValueError):
            return None
        return Old(sid_for(value), data, self._max_age) if isinstance(data, dict) and data else None

    async def store(self, sid: str, data: Mapping[str, Any], seconds: float) -> None:
        raise NotImplementedError("what stands in a cookie cannot be written back")

    async def end(self, value: str) -> None:
        """It cannot be called back; the mark that it was taken over keeps it from coming back here."""

    async def aclose(self) -> None:
        """There is nothing to close."""
