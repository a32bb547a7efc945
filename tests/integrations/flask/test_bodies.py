"""A request's body comes before its lock: the network's time is nobody's lock time (B6)."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask, request, session

from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.flask_apps import WAIT, asked, close, guard_of, guarded, in_threads

SID = "s" * 32


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url)
    with guard_of(app) as guard:
        guard.create({"n": 1}, sid=SID)
    yield app
    close(app)


class Slow(io.RawIOBase):
    """A client that sends the rest of its body when it is told to."""

    def __init__(self, body: bytes, at_once: int = 0, told: int | None = None) -> None:
        self._body = io.BytesIO(body)
        self._free = at_once
        self._told = len(body) if told is None else told
        self._at_end = False
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The test client asks in this way how long it is."""
        self._at_end = whence == io.SEEK_END
        return self.tell()

    def tell(self) -> int:
        return self._told if self._at_end else 0

    def readinto(self, buffer: Any) -> int:
        if self._free <= 0:
            self.asked.set()
            assert self.go_on.wait(WAIT)
            self._free = 1 << 30
        piece = self._body.read(min(len(buffer), self._free))
        self._free -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)


def upload(app: Flask, body: Slow) -> Any:
    return asked(app, SID, "/upload", "POST", input_stream=body, content_type="text/plain")


def test_the_body_comes_before_the_lock(app: Flask) -> None:
    @app.post("/upload")
    def take() -> str:
        session["n"] += 1  # the lock is taken here
        return str(len(request.get_data()))

    @app.post("/buy")
    def buy() -> str:
        session["n"] += 1
        return ""

    body = Slow(b"x" * 100_000)
    answers: list[str] = []
    uploading = threading.Thread(target=lambda: answers.append(upload(app, body).text))
    uploading.start()
    assert body.asked.wait(WAIT)
    assert asked(app, SID, "/buy", "POST").status_code == 200  # not held up
    body.go_on.set()
    uploading.join(WAIT)
    assert answers == ["100000"]
    with guard_of(app) as guard:
        assert guard.read(SID)["n"] == 3


def test_a_body_that_was_begun_to_be_read(app: Flask) -> None:
    @app.post("/upload")
    def take() -> str:
        first = request.stream.read(10)
        session["n"] += 1
        line = request.stream.readline()
        return f"{first.decode()}|{line.decode()}|{len(request.stream.read())}"

    text = b"0123456789 and so on\n" + b"x" * 2_000_000
    assert asked(app, SID, "/upload", "POST", data=text).text == "0123456789| and so on\n|2000000"


def test_forms_and_files(app: Flask) -> None:
    @app.post("/upload")
    def take() -> list[Any]:
        session["n"] += 1
        return [request.form["name"], len(request.files["file"].read())]

    data = {"name": "x", "file": (io.BytesIO(b"y" * 300_000), "big.bin")}
    assert asked(app, SID, "/upload", "POST", data=data).json == ["x", 300_000]


def test_a_body_that_is_too_long_is_refused_before(app: Flask) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 1000

    @app.post("/upload")
    def take() -> str:
        session["n"] += 1
        return str(len(request.get_data()))

    body = Slow(b"x" * 5000)
    assert upload(app, body).status_code == 413
    assert not body.asked.is_set()


def test_a_client_that_goes_away(app: Flask) -> None:
    @app.post("/upload")
    def take() -> str:
        session["n"] += 1
        return str(len(request.get_data()))

    body = Slow(b"x" * 10, at_once=1 << 30, told=100)
    assert upload(app, body).status_code == 400
    with guard_of(app) as guard:
        assert guard.inspect(SID).holder is None


def test_a_limit_of_ones_own(app: Flask) -> None:
    @app.post("/upload")
    def take() -> str:
        session["n"] += 1
        locked = session.sessionlock.lease is not None  # type: ignore[attr-defined]
        asked_before = body.asked.is_set()
        body.go_on.set()
        return f"{locked} {asked_before} {len(request.get_data())}"

    app.session_interface.settings.rules.default = RoutePolicy(body_limit=0)  # type: ignore[attr-defined]
    body = Slow(b"x" * 1000)
    assert upload(app, body).text == "True False 1000"


def test_uploads_at_once(app: Flask) -> None:
    @app.post("/upload")
    def take() -> str:
        session["n"] += 1
        return str(len(request.get_data()))

    bodies = [Slow(b"x" * 1000) for _ in range(6)]
    answers: list[int] = []

    def send(body: Slow) -> None:
        answers.append(upload(app, body).status_code)

    def go_on() -> None:
        for body in bodies:
            assert body.asked.wait(WAIT)
        for body in bodies:
            body.go_on.set()

    in_threads([go_on, *(partial(send, body) for body in bodies)])
    assert answers == [200] * 6
