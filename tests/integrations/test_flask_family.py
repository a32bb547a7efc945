"""What Flask and Quart share: another answer takes the place of one that is ready, and keeps what hooks have added."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from quart.wrappers import Response as QuartResponse

from sessionlock.integrations.flask_family.answers import become


@pytest.mark.parametrize("kind", [flask.Response, QuartResponse])
def test_the_headers_of_hooks_stay(kind: Any) -> None:
    ready = kind("x" * 50, 201, {"ETag": '"1"', "Location": "/new", "X-Frame-Options": "DENY"}, mimetype="text/csv")
    ready.headers["Access-Control-Allow-Origin"] = "https://shop.test"
    ready.headers["Content-Security-Policy"] = "default-src 'self'"
    ready.vary.add("Origin")
    ready.set_cookie("theme", "dark")
    other = kind("{}", 409, {"Vary": "Accept", "X-Frame-Options": "SAMEORIGIN"}, mimetype="application/problem+json")
    other.set_cookie("told", "yes")
    become(ready, other)
    assert (ready.status_code, ready.mimetype, ready.headers["Content-Length"]) == (
        409,
        "application/problem+json",
        "2",
    )
    assert "ETag" not in ready.headers
    assert "Location" not in ready.headers
    assert ready.headers.getlist("X-Frame-Options") == ["SAMEORIGIN"]
    assert ready.headers["Access-Control-Allow-Origin"] == "https://shop.test"
    assert ready.headers["Content-Security-Policy"] == "default-src 'self'"
    assert set(ready.vary) == {"Accept", "Origin"}
    assert [cookie.split(";")[0] for cookie in ready.headers.getlist("Set-Cookie")] == ["told=yes", "theme=dark"]
