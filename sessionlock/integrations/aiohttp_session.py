"""A storage for the package ``aiohttp-session``: its sessions, locked, loaded and saved by sessionlock.

::

    from sessionlock.integrations.aiohttp_session import SessionLockStorage, setup

    setup(app, SessionLockStorage(max_age=3600), "redis://localhost:6379/0")

    session = await aiohttp_session.get_session(request)      # as ever

aiohttp-session by itself saves only what its own session object noticed, and not at all when a handler fails or
streams; so the save and the release are those of :func:`sessionlock.integrations.aiohttp.setup`, which this ``setup``
calls, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import aiohttp_session
from aiohttp import web

from ..errors import ConfigurationError
from ..guard import SessionGuard
from ..views.cookies import CookieSettings
from .aiohttp import middleware as aiohttp
from .aiohttp.request import SessionOfRequest, of_request
from .aiohttp.settings import Life, Settings
from .web.mapping import WebSession
from .web.values import for_framework

__all__ = ["SessionLockStorage", "setup"]

MAX_AGE = "sessionlock:max_age"  # where a record keeps a lifetime of its own; the application does not see it


def setup(
    app: web.Application, storage: SessionLockStorage, guard: SessionGuard | str | None = None, **more: Any
) -> None:
    """All that an application needs: :func:`.aiohttp.setup`, which takes ``guard`` and ``more``, and then
    ``aiohttp_session.setup(app, storage)``.

    Raises:
        ConfigurationError: as :func:`.aiohttp.setup`, or the storage and ``cookie`` say different things.
    """
    aiohttp.setup(app, guard, **more)
    storage.meet(app[aiohttp.SETTINGS])
    aiohttp_session.setup(app, storage)


class SessionLockStorage(aiohttp_session.AbstractStorage):
    """The options are those of aiohttp-session's own storages. Without one for the cookie it is the cookie of
    :func:`.aiohttp.setup`; where both say something, they must say the same.

    ``max_age``: seconds for which record and cookie live without a request; None: the cookie until the browser is
    closed, the record as the guard's ``SessionPolicy`` says. ``secure`` None: when the request came by https.
    ``encoder`` and ``decoder`` are asked for the values that the guard's codec cannot keep exactly.

    ``session.max_age = 10`` gives one session a lifetime of its own, which stays with it. ``invalidate()`` ends the
    session; ``new_session(request)``, once something is put in, ends the old one and begins one with another id.

    Raises:
        ConfigurationError: a value that makes no sense.
    """

    def __init__(
        self,
        *,
        cookie_name: str | None = None,
        domain: str | None = None,
        max_age: int | None = None,
        path: str = "/",
        secure: bool | None = None,
        httponly: bool = True,
        samesite: str | None = "Lax",
        encoder: Callable[[object], str] = json.dumps,
        decoder: Callable[[str], Any] = json.loads,
    ) -> None:
        if max_age is not None and max_age <= 0:
            raise ConfigurationError(f"max_age must be a number of seconds above 0, or None, not {max_age!r}")
        super().__init__(
            cookie_name=cookie_name or "AIOHTTP_SESSION",
            domain=domain,
            max_age=max_age,
            path=path,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
            encoder=encoder,
            decoder=decoder,
        )
        told = (domain, max_age, path, secure, httponly, samesite) != (None, None, "/", None, True, "Lax")
        self._cookie = self._as_settings() if told or cookie_name is not None else None
        self._met: Settings | None = None

    def _as_settings(self) -> CookieSettings:
        told = self.cookie_params
        same: Any = told["samesite"].lower() if told["samesite"] else None
        secure: bool | Literal["auto"] = "auto" if told["secure"] is None else bool(told["secure"])
        return CookieSettings(
            self.cookie_name,
            max_age=self.max_age,
            path=told["path"],
            domain=told["domain"],
            secure=secure,
            httponly=told["httponly"],
            samesite=same,
        )

    def meet(self, how: Settings) -> None:
        """For :func:`.aiohttp.setup`: what it has to know of this storage."""
        if how is self._met:
            return
        other = how.storage
        if isinstance(other, SessionLockStorage) and other._options() != self._options():
            raise ConfigurationError(
                "two SessionLockStorages with different options in one application: give all of it the same one"
            )
        cookie = self._cookie or how.cookie
        if how.cookie_is_told and how.cookie != cookie:
            raise ConfigurationError(
                f"SessionLockStorage and setup(cookie=...) say different things about the cookie: {cookie} and"
                f" {how.cookie}. Say it in one place"
            )
        self._cookie_name = cookie.name
        how.keep_by(
            self,
            cookie,
            codec=for_framework(how.guard.codec, self._encoder, self._decoder),
            lifetime=None if self.max_age is None else replace(how.guard.session_policy, idle=float(self.max_age)),
            before_saving=self._before_saving,
        )
        self._met = how

    def _options(self) -> tuple[Any, ...]:
        return self._cookie, self.max_age, self._encoder, self._decoder

    # --- for aiohttp-session

    async def load_session(self, request: web.Request) -> aiohttp_session.Session:
        own = of_request(request)
        if own is None:
            raise ConfigurationError(
                "SessionLockStorage needs sessionlock's middleware around aiohttp_session's: call"
                " sessionlock.integrations.aiohttp_session.setup(app, storage, guard) on the outermost application"
            )
        self.meet(own.how)
        return _Locked(await own.session(), self.max_age)

    async def new_session(self) -> aiohttp_session.Session:
        return _New(None, data=None, new=True, max_age=self.max_age)

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: aiohttp_session.Session
    ) -> None:
        """Nothing: everything is saved as the answer begins, streams too."""

    async def _before_saving(self, request: web.Request, own: SessionOfRequest) -> Life | None:
        """Of all that may stand in the request only what this storage has made is ours: an application that is mounted
        inside may keep another kind of session there.
        """
        session = request.get(aiohttp_session.SESSION_KEY)
        if isinstance(session, _New) and session.is_filled:
            mapping = await own.session()
            assert own.visit is not None
            own.visit.replace(dict(session))
            return _life(mapping, session.max_age, session.max_age != self.max_age)
        if isinstance(session, _Locked) and own.visit is not None and session._mapping is own.visit.mapping:
            return _life(own.visit.mapping, session.max_age, session.has_own_age)
        return None


def _life(mapping: WebSession, max_age: int | None, is_own: bool) -> Life | None:
    """Note a lifetime of the session's own in its record. By the package's convention a session that is saved lives for
    its ``max_age`` from then on; one of its own counts for who only looks, too. None: as the guard's policy says.
    """
    core = mapping.sessionlock
    noted = core.peek(MAX_AGE)
    if all(key == MAX_AGE for key, _ in core.data.items()):
        if noted is not None and core.is_open:
            mapping.clear()  # nothing of the application's is left
        return None
    if is_own and core.is_open and (noted != max_age or MAX_AGE not in dict.keys(mapping)):
        mapping[MAX_AGE] = max_age
    if is_own or (max_age is not None and core.is_open and core.changed_keys()):
        return Life(max_age)
    return None


class _New(aiohttp_session.Session):
    """Takes the place of the session that was there, if something is put in."""

    @property
    def is_filled(self) -> bool:
        return self._changed


class _Locked(aiohttp_session.Session):
    """aiohttp-session's interface over a locked session; ``session.sessionlock`` is that one."""

    def __init__(self, mapping: WebSession, max_age: int | None) -> None:
        core = mapping.sessionlock
        super().__init__(None if core.new else core.sid, data=None, new=core.new, max_age=max_age)
        self._mapping: WebSession = mapping
        self.has_own_age = dict.__contains__(mapping, MAX_AGE)
        if self.has_own_age:
            self._max_age = core.peek(MAX_AGE)
        if core.created.isdigit():
            self._created = int(core.created) // 1_000_000

    @property
    def sessionlock(self) -> Any:
        return self._mapping.sessionlock

    @property
    def max_age(self) -> int | None:
        return self._max_age

    @max_age.setter
    def max_age(self, seconds: int | None) -> None:
        if seconds is not None and (not math.isfinite(seconds) or seconds <= 0):
            raise ValueError(f"max_age must be a number of seconds above 0, or None, not {seconds!r}")
        self._max_age = seconds
        self.has_own_age = True

    def set_new_identity(self, identity: Any) -> None:
        """An id that somebody else may know is no secret.

        Raises:
            RuntimeError: the session is not new.
            ConfigurationError: it is.
        """
        if not self._new:
            super().set_new_identity(identity)
        raise ConfigurationError(
            "sessionlock makes the ids of its sessions. A session under an id of your own:"
            " `await guard.create(data, sid=...)`; another id for this one: `await session.sessionlock.regenerate()`"
        )

    @property
    def empty(self) -> bool:
        return len(self) == 0

    def invalidate(self) -> None:
        self._mapping.clear()
        self.changed()

    def clear(self) -> None:
        self.invalidate()

    def __len__(self) -> int:
        return len(self._mapping) - dict.__contains__(self._mapping, MAX_AGE)

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._mapping if key != MAX_AGE)

    def __contains__(self, key: object) -> bool:
        return key != MAX_AGE and key in self._mapping

    def __getitem__(self, key: str) -> Any:
        if key == MAX_AGE:
            raise KeyError(key)
        return self._mapping[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._mapping[key] = value
        self.changed()

    def __delitem__(self, key: str) -> None:
        del self._mapping[key]
        self.changed()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {dict(self)!r}>"
