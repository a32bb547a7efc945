"""What an aiohttp application was told about its sessions, and what that comes to for one request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from ...codecs.base import Codec
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...views.cookies import CookieSettings
from ..settings.options import FaceSettings
from ..web.naming import NO_ROUTE

if TYPE_CHECKING:
    from .request import SessionOfRequest

__all__ = ["Life", "Settings", "template_of"]

log: logging.Logger = logging.getLogger("sessionlock.web")


class Life(NamedTuple):
    """How long the record and its cookie live from now, in seconds; None: the cookie until the browser is closed, the
    record as the guard's policy says.
    """

    seconds: float | None


async def nothing_more(request: web.Request, own: SessionOfRequest) -> Life | None:
    """What is done before a session is saved, for who has no conventions of his own."""
    return None


@dataclass(eq=False)
class Settings:
    """What :func:`.aiohttp.setup` was told. ``url``: of a guard of its own."""

    guard: SessionGuard
    cookie: CookieSettings
    face: FaceSettings
    codec: Codec
    url: str | None
    cookie_is_told: bool
    # What a storage of aiohttp-session's adds. `before_saving` may change the session, and say how long it lives.
    storage: object = None
    lifetime: SessionPolicy | None = None
    before_saving: Callable[[web.Request, SessionOfRequest], Awaitable[Life | None]] = nothing_more
    _told: set[str] = field(default_factory=set)

    def keep_by(
        self,
        storage: object,
        cookie: CookieSettings,
        codec: Codec,
        lifetime: SessionPolicy | None,
        before_saving: Callable[[web.Request, SessionOfRequest], Awaitable[Life | None]],
    ) -> None:
        """The sessions are that storage's, with its conventions."""
        self.storage, self.cookie, self.codec = storage, cookie, codec
        self.lifetime, self.before_saving = lifetime, before_saving

    def tell_once(self, what: str) -> None:
        """In the log."""
        if what not in self._told:
            self._told.add(what)
            log.error("%s", what)


def template_of(request: web.Request) -> str:
    """Its path as the routes have it: `/item/{id}`."""
    route = request.match_info.route
    return NO_ROUTE if route.resource is None else route.resource.canonical
