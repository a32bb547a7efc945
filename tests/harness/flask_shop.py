"""The shop in Flask, for gunicorn: ``tests.harness.flask_shop:served()``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import httpx
from flask import Flask, request, session

from sessionlock.integrations.flask.extension import SessionLock

from .asgi_shops import handlers

__all__ = ["served", "shop"]


def shop() -> Flask:
    app = Flask(__name__)

    @app.post("/brief", endpoint="brief")
    @app.get("/add", endpoint="adding")
    @app.post("/add")
    def add() -> dict[str, Any]:
        items = session.get("cart", [])
        time.sleep(handlers.MOMENT)
        session["cart"] = [*items, request.args["item"]]
        return {"items": len(session["cart"]), "pid": os.getpid()}

    @app.get("/count")
    def count() -> dict[str, Any]:
        number = session.get("number", 0)
        time.sleep(handlers.MOMENT)
        session["number"] = number + 1
        return {"number": session["number"], "pid": os.getpid()}

    @app.post("/login")
    def login() -> dict[str, Any]:
        time.sleep(handlers.MOMENT)
        session["user_id"] = request.args["user"]
        return {"pid": os.getpid()}

    @app.post("/logout")
    def logout() -> dict[str, Any]:
        time.sleep(handlers.MOMENT)
        session.clear()
        return {"pid": os.getpid()}

    @app.get("/who")
    def who() -> dict[str, Any]:
        return handlers.who(session)

    @app.get("/cart")
    def cart() -> list[str]:
        return handlers.cart(session)

    @app.get("/pid")
    def pid() -> str:
        return str(os.getpid())

    @app.post("/hold")
    def hold() -> dict[str, Any]:
        session["held"] = request.args["gate"]
        wait_for(request.args["gate"])
        return {"pid": os.getpid()}

    @app.post("/call")
    def call() -> dict[str, Any]:
        session["called"] = True
        return call_it(request.host_url, request.args, request.headers["cookie"])

    return app


def wait_for(gate: str) -> None:
    """As :func:`.handlers.passed`, in a thread."""
    until = time.monotonic() + handlers.NEVER
    while not handlers.gate(gate).exists():
        assert time.monotonic() < until
        time.sleep(0.005)


def call_it(own: str, asked: Mapping[str, str], cookie: str) -> dict[str, Any]:
    """As :func:`.handlers.call`, in a thread."""
    while True:
        with httpx.Client(base_url=asked.get("where", own), timeout=handlers.NEVER, trust_env=False) as client:
            if "worker" not in asked or handlers.is_meant(asked["worker"], client.get("/pid")):
                return handlers.told(client.request(asked["method"], asked["path"], headers={"cookie": cookie}))


def served() -> Flask:
    """The application of one server process, as the environment says."""
    from .sites import BRIEFLY, PATIENTLY

    app, way = shop(), os.environ["WAY"]
    if way == "guarded":
        options: dict[str, Any] = {} if "DEFAULTS" in os.environ else {"wait": PATIENTLY, "routes": BRIEFLY}
        SessionLock(app, os.environ["STORE"], **options)
    elif way == "cookie":
        app.secret_key = "for tests only"
    else:
        from flask_session import Session
        from redis import Redis

        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(os.environ["STORE"]))
        Session(app)
    return app
