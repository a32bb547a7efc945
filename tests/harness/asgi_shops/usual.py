"""The shops with the sessions that people usually give them, in Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from . import shop

KEPT = 600  # seconds that a session lives


def served(framework: str, store: str, way: str) -> Any:
    if framework == "quart":
        return _quart(store, way)
    if framework == "litestar":
        return _litestar(store)
    return _starsessions(framework, store)


def _starsessions(framework: str, store: str) -> Any:
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    sessions = RedisStore(store)

    def wrapped(app: Any) -> Any:
        return SessionMiddleware(SessionAutoloadMiddleware(app), store=sessions, lifetime=KEPT, cookie_https_only=False)

    return shop(framework, wrapped)


def _litestar(store: str) -> Any:
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    sessions = RedisStore(Redis.from_url(store), handle_client_shutdown=True)
    config = ServerSideSessionConfig(store="sessions", max_age=KEPT)
    return shop("litestar", config.middleware, stores={"sessions": sessions})


def _quart(store: str, way: str) -> Any:
    from .quart_shop import plain

    app = plain()
    if way == "cookie":
        app.secret_key = "for tests only"
        return app
    from quart_session import Session

    app.config.update(SESSION_TYPE="redis", SESSION_URI=store)
    Session(app)
    return app
