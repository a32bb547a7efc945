"""A request that may run twice, and a body that is received before its session is locked."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from ..web.bodies import Spool
from ..web.request_session import RequestSession, RunAgain
from ..web.rules import BODY_LIMIT, SAFE_METHODS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["FlaskRun", "prepare_body", "receive_body", "run_request"]

Application = Callable[["WSGIEnvironment", "StartResponse"], Iterable[bytes]]
RUN = "sessionlock.run"  # in a request's environ
INPUT = "wsgi.input"
KEEP_CONTEXT = "werkzeug.debug.preserve_context"


class FlaskRun:
    """One run of a request that may be repeated. ``owner``: whose; ``before``: what the run before did."""

    def __init__(self, owner: object, before: RequestSession | None = None) -> None:
        self.owner = owner
        self.before = before
        self.visit: RequestSession | None = None

    @classmethod
    def of(cls, environ: WSGIEnvironment, owner: object) -> FlaskRun | None:
        """None: this request cannot be run again (a request context of a test's own, say)."""
        run = environ.get(RUN)
        return run if isinstance(run, FlaskRun) and run.owner is owner else None

    def begin(self, visit: RequestSession) -> None:
        self.visit = visit


def run_request(
    owner: object,
    application: Application,
    environ: WSGIEnvironment,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Run the application, a safe request twice if need be; what it received ahead goes with the answer's end.

    A websocket (Flask-Sock) has spoken with the browser already when its session is saved.
    """
    answer: Iterable[bytes] = ()
    try:
        if environ["REQUEST_METHOD"].upper() in SAFE_METHODS and "HTTP_UPGRADE" not in environ:
            answer = _twice_if_need_be(owner, application, environ, start_response)
        else:
            answer = application(environ, start_response)
    finally:
        body = environ[INPUT]
        if isinstance(body, Ahead) and body.has_received:
            answer = ClosingIterator(answer, body.close)
    return answer


def _twice_if_need_be(
    owner: object, application: Application, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """When the application raises :class:`.visit.RunAgain` it runs once more, with the same environ and body."""
    prepare_body(environ)
    body = environ[INPUT] if isinstance(environ[INPUT], Ahead) else None
    if body is not None and not body.receive(BODY_LIMIT):
        return application(environ, start_response)
    begun, outer = dict(environ), environ.get(RUN)  # an application may hand its environ to another one
    contexts: list[Any] = []
    keep = begun.get(KEEP_CONTEXT)  # a test client in a `with` block, or a debugger: only of the run that counts
    run = FlaskRun(owner)
    try:
        for last in (False, True):
            environ[RUN] = run
            if keep is not None:
                environ[KEEP_CONTEXT] = contexts.append
            if body is not None:
                body.rewind()
            try:
                return application(environ, start_response)
            except RunAgain:
                if last or run.visit is None:
                    raise
                contexts.clear()
                environ.clear()
                environ.update(begun)
                run = FlaskRun(owner, run.visit)
        raise AssertionError("unreachable")
    finally:
        environ[RUN] = outer
        if keep is not None:
            for context in contexts:
                keep(context)


def prepare_body(environ: WSGIEnvironment) -> None:
    """At the begin of a request, before anybody reads: so that the rest can be received ahead at any moment."""
    size = _length(environ)
    if size != 0 and not isinstance(environ[INPUT], Ahead):
        environ[INPUT] = Ahead(environ[INPUT], size)


def receive_body(environ: WSGIEnvironment, limit: int) -> None:
    """Receive what nobody has read yet, up to ``limit`` bytes, before the wait for a lock begins."""
    body = environ[INPUT]
    if isinstance(body, Ahead):
        body.receive(limit)


def _length(environ: WSGIEnvironment) -> int | None:
    """Of the body; None: it ends where its stream does."""
    try:
        return max(0, int(environ["CONTENT_LENGTH"]))
    except (KeyError, ValueError):
        chunked = "wsgi.input_terminated" in environ and "HTTP_TRANSFER_ENCODING" in environ
        return None if chunked else 0


class Ahead(io.RawIOBase):
    """``wsgi.input``, whose rest can be received while somebody is in the middle of reading it."""

    def __init__(self, source: Any, size: int | None) -> None:
        self._source = source
        self._left = size
        self._spool: Spool | None = None

    def receive(self, limit: int) -> bool:
        """Up to ``limit`` bytes of what is still to come; whether that was all."""
        if self._left == 0:
            return True
        if limit > 0 and self._spool is None:
            self._spool = Spool(Ahead(self._source, self._left), limit=limit)
            self._spool.receive()
            self._source = self._spool.reader()
        return self._spool is not None and self._spool.complete

    @property
    def has_received(self) -> bool:
        return self._spool is not None

    def rewind(self) -> None:
        """To where it was received from; only what was received completely."""
        assert self._spool is not None
        self._source, self._left = self._spool.reader(), self._spool.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._taken(self._source.read, len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readline(self, size: int | None = -1) -> bytes:
        """Not byte by byte, as the class above would."""
        return self._taken(self._source.readline, -1 if size is None else size)

    def _taken(self, read: Callable[[int], bytes], size: int) -> bytes:
        if self._left is not None:
            size = self._left if size < 0 else min(size, self._left)
        try:
            piece = read(size) if size else b""
        except ValueError as error:  # some servers', for a client that has gone
            raise OSError(str(error)) from error
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def close(self) -> None:
        """With the request: the temporary file goes. The connection is the server's."""
        if self._spool is not None:
            self._spool.close()
        super().close()
