"""Two Flask shops for gunicorn, ``support.flask_shop:served``: a locked one; under /plain one with Flask's cookie."""

from __future__ import annotations

import os
import time
from typing import Any

from flask import Flask, session
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from sessionlock.integrations.flask import SessionLock

__all__ = ["served", "shop"]

WORK = 0.002  # seconds that a request takes over what it read


def shop(name: str) -> Flask:
    app = Flask(name)

    @app.post("/add/<item>")
    def add(item: str) -> list[str]:
        items = session.get("cart", [])
        time.sleep(WORK)
        session["cart"] = [*items, item]
        return list(session["cart"])

    @app.get("/cart")
    def cart() -> list[str]:
        return list(session.get("cart", []))

    @app.get("/pid")
    def pid() -> str:
        return str(os.getpid())

    return app


def served() -> Any:
    locked, plain = shop("locked"), shop("plain")
    SessionLock(locked, os.environ["STORE"], wait=20)
    plain.config.update(SECRET_KEY="for tests", SESSION_COOKIE_NAME="plain")
    return DispatcherMiddleware(locked, {"/plain": plain})
