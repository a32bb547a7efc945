"""Django's session interface over sessionlock's records: one field per key, so that deltas and merges work."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase

from .control import Control

__all__ = ["SessionStore"]

Data = MutableMapping[str, Any]
# Names that were attributes of a store once: who still uses one is told where it is.
MOVED = ("incr", "aincr", "mode", "outdated")


class SessionStore(SessionBase):  # type: ignore[misc]
    """A session as Django documents it, with every method in its async form too.

    What the middleware opened follows the request's mode. A store that is made by hand (a management command, a
    test, a websocket consumer), or used on when its request has been answered, uses no lock: what it changed is
    committed by ``save()`` if nobody else changed the same; otherwise it is merged as ``SESSION_LOCK_MERGE`` says.

    Beside Django's names there is one, :attr:`sessionlock`: in a template ``request.session.mode`` is the user's.

    Raises (from all that reads or writes): the errors of :mod:`sessionlock.errors`, besides ``UpdateError`` and
    ``CreateError``.
    """

    _session_key: str | None
    modified: bool
    accessed: bool

    def __init__(self, session_key: str | None = None) -> None:
        self.sessionlock: Control = Control(self)
        """What a session can do besides: ``mode``, ``lease``, ``incr(key)``, ``await aincr(key)``."""
        super().__init__(session_key)

    def __getattr__(self, name: str) -> Any:
        if name in MOVED:
            raise AttributeError(f"a session has no attribute {name!r} (it is session.sessionlock.{name})")
        return object.__getattribute__(self, name)  # raises as ever, also what a property met

    # --- what Django asks of a back end

    def load(self) -> Data:
        control = self.sessionlock
        instead = control.instead()
        return control.run(control.load) if instead is None else instead

    async def aload(self) -> Data:
        control = self.sessionlock
        instead = control.instead()
        return await control.call(control.load) if instead is None else instead

    def exists(self, session_key: str | None) -> bool:
        return self.sessionlock.run(self.sessionlock.exists, session_key)

    async def aexists(self, session_key: str | None) -> bool:
        return await self.sessionlock.call(self.sessionlock.exists, session_key)

    def create(self) -> None:
        self.sessionlock.run(self.sessionlock.create)

    async def acreate(self) -> None:
        await self.sessionlock.call(self.sessionlock.create)

    def save(self, must_create: bool = False) -> None:
        """Save now. Under the middleware's lock the session stays locked and is saved again at the end."""
        self.sessionlock.run(self.sessionlock.save, must_create)

    async def asave(self, must_create: bool = False) -> None:
        await self.sessionlock.call(self.sessionlock.save, must_create)

    def delete(self, session_key: str | None = None) -> None:
        self.sessionlock.run(self.sessionlock.delete, session_key)

    async def adelete(self, session_key: str | None = None) -> None:
        await self.sessionlock.call(self.sessionlock.delete, session_key)

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing to do: Redis lets sessions expire by itself."""

    @classmethod
    async def aclear_expired(cls) -> None:
        """Nothing to do: Redis lets sessions expire by itself."""

    # --- what it does better itself

    def clear(self) -> None:
        self.sessionlock.check_writable()
        super().clear()

    def flush(self) -> None:
        """End the session at once, also for whoever waits for it, and begin an empty one."""
        self.sessionlock.check_writable()
        super().flush()

    async def aflush(self) -> None:
        self.sessionlock.check_writable()
        await super().aflush()

    def cycle_key(self) -> None:
        """Give the session a new key; the data, the lock and those who wait for it stay.

        The old key works on for ``SESSION_LOCK_GRACE`` seconds, for requests in flight. When nobody is logged in yet it
        does so for ``SESSION_LOCK_LOGIN_GRACE`` (0) seconds: somebody may have planted that key to share the login.

        Raises:
            django.contrib.sessions.exceptions.SessionInterrupted: the session was ended meanwhile, or this
                key of it was replaced by another.
        """
        self.sessionlock.check_writable()
        self.sessionlock.run(self.sessionlock.cycle)

    async def acycle_key(self) -> None:
        self.sessionlock.check_writable()
        await self.sessionlock.call(self.sessionlock.cycle)

    def __reduce__(self) -> Any:
        """A copy, or what comes out of a pickle, is a store made by hand with the same key and content."""
        loaded = dict(self._session_cache) if hasattr(self, "_session_cache") else None
        return _twin, (type(self), self.session_key, loaded, self.accessed, self.modified)

    def __deepcopy__(self, memo: dict[int, Any]) -> SessionStore:
        make, parts = self.__reduce__()
        twin: SessionStore = make(*copy.deepcopy(parts, memo))
        return twin


def _twin(
    kind: type[SessionStore], key: str | None, loaded: dict[str, Any] | None, accessed: bool, modified: bool
) -> SessionStore:
    twin = kind(key)
    if loaded is not None:
        twin._session_cache = loaded
    twin.accessed, twin.modified = accessed, modified
    return twin


def _note_login(request: Any, user: Any, **_: Any) -> None:
    """By the key by which Django keeps the user in the session."""
    session = getattr(request, "session", None)
    if isinstance(session, SessionStore):
        session.sessionlock.course.note(user=user._meta.pk.value_to_string(user))


user_logged_in.connect(_note_login, dispatch_uid="sessionlock")
