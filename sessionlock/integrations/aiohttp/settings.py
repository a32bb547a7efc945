"""What an aiohttp application was told about its sessions, and what that comes to for one request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from ...codecs.base import Codec
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...views.cookies import CookieSettings
from ..settings.options import FaceSettings

if TYPE_CHECKING:
    from .request import SessionOfRequest

__all__ = ["Life", "Settings", "route_of"]

log: logging.Logger = logging.getLogger("sessionlock.web")


class Life(NamedTuple):
    """How long the record and its cookie live from now, in seconds; None: the cookie until the browser is closed, the
    record as the guard's policy says.
    """

    seconds: float | None


async def nothing_more(request: web.Request, own: SessionOfRequest) -> Life | None:
    """What is done before a session is saved, for who has no conventions of his own."""
    return None


class Settings:
    """What :func:`.aiohttp.setup` was told. ``before_saving`` may change the session, and say how long it lives."""

    def __init__(
        self,
        guard: SessionGuard,
        cookie: CookieSettings,
        face: FaceSettings,
        codec: Codec,
        url: str | None,
        cookie_is_told: bool,
    ) -> None:
        self.guard = guard
        self.cookie = cookie
        self.face = face
        self.codec = codec
        self.url = url
        self.cookie_is_told = cookie_is_told
        self.lifetime: SessionPolicy | None = None
        self.before_saving = nothing_more
        self.storage: object = None
        self._told: set[str] = set()

    def tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.error("%s", what)


def route_of(request: web.Request) -> str:
    """Its path as the routes have it: `/item/{id}`."""
    route = request.match_info.route
    return request.path if route.resource is None else route.resource.canonical
