"""Old sessions of Django: of any session engine, read and written by that engine itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...errors import ConfigurationError
from .cookies import sid_for
from .taking import Old

__all__ = ["DjangoEngine"]

T = TypeVar("T")
SIGNED_COOKIES = "django.contrib.sessions.backends.signed_cookies"


class DjangoEngine:
    """``engine``: what ``SESSION_ENGINE`` was, ``"django.contrib.sessions.backends.db"``, ``cache``, ``cached_db``,
    ``file`` or ``signed_cookies``, or another with a ``SessionStore``. Sessions keep their keys, so old nodes that
    still run know them; those in signed cookies get one. ``SESSION_SERIALIZER`` and the other settings of that engine
    must stay.

    ``write_back``: old nodes still run, exchange changes with them (not with signed cookies).
    """

    cookie: str | None = None

    def __init__(self, engine: str, *, write_back: bool = False) -> None:
        if not isinstance(engine, str) or "." not in engine:
            raise ConfigurationError(f"DjangoEngine wants the dotted path of a session engine, not {engine!r}")
        if write_back and engine == SIGNED_COOKIES:
            raise ConfigurationError("what stands in signed cookies cannot be written back")
        self._engine = engine
        self.write_back = write_back

    def check(self) -> None:
        """Raises :class:`~sessionlock.errors.ConfigurationError` where there is no such engine."""
        try:
            self._store("x" * 8)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"{self._engine!r} is no session engine: {error}") from None

    def _store(self, key: str | None) -> Any:
        return importlib.import_module(self._engine).SessionStore(key)

    async def load(self, value: str) -> Old | None:
        return await _in_a_thread(lambda: self._load(value))

    def _load(self, value: str) -> Old | None:
        store = self._store(value)
        data = store.load()
        if not data or store.session_key != value:
            return None
        age = store.get_expiry_age(expiry=data.get("_session_expiry"))
        return Old(sid_for(value, data) if self._engine == SIGNED_COOKIES else value, data, float(max(age, 1)))

    async def store(self, sid: str, data: Mapping[str, Any], seconds: float) -> None:
        await _in_a_thread(lambda: self._save(sid, data))

    def _save(self, sid: str, data: Mapping[str, Any]) -> None:
        from django.contrib.sessions.backends.base import UpdateError

        store = self._store(sid)
        store._session_cache = dict(data)
        try:
            store.save()
        except UpdateError:
            store = self._store(sid)  # it forgets its key when there is no such session
            store._session_cache = dict(data)
            store.save(must_create=True)

    async def end(self, value: str) -> None:
        await _in_a_thread(lambda: self._store(value).delete(value))

    async def aclose(self) -> None:
        """There is nothing to close."""


async def _in_a_thread(work: Callable[[], T]) -> T:
    """Django's database API is synchronous. Its connection is that thread's, and nobody would close it later."""
    from asgiref.sync import sync_to_async
    from django.db import connections

    def alone() -> T:
        try:
            return work()
        finally:
            for connection in connections.all(initialized_only=True):
                if not connection.in_atomic_block:
                    connection.close()

    return await sync_to_async(alone, thread_sensitive=True)()
