"""The middleware that owns the save: acquire, load, handle, save, release, before the response goes out."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from ...errors import SessionConflict, SessionLockError
from ...selfcalls.sockets import client_of_environ
from ..web.learning import Learnt
from ..web.rules import SAFE_METHODS
from . import answers, checks, settings
from .homes import Home, home_of_this_loop, home_of_threads
from .runs import Run
from .store import SessionStore

__all__ = ["SessionLockMiddleware"]

log: logging.Logger = logging.getLogger("sessionlock.web")

SESSION_LIKE = ("accessed", "modified", "is_empty", "save")
ENDED = (
    "The request's session was deleted before the request completed. The user may have logged out in a concurrent"
    " request, for example."
)


class _RunAgain(Exception):
    """A safe request met a change of somebody else; what it came to is not sent."""

    def __init__(self, response: Any) -> None:
        self.response = response


class SessionLockMiddleware(SessionMiddleware):  # type: ignore[misc]
    """Put it where ``django.contrib.sessions.middleware.SessionMiddleware`` stands, in its place.

    Requests that may change something (POST ...) hold their session's lock from before the view until the response
    is ready, so what they load is current and what they save is complete; their bodies are received before. GET, HEAD
    and OPTIONS do not wait; one that changed the session commits if nobody else changed the same, otherwise it is run
    again, under the lock. 5xx responses are not saved. Streams hold nothing.

    Raises (when Django starts):
        django.core.exceptions.ImproperlyConfigured: the settings do not fit.
    """

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ImproperlyConfigured(
                'SessionLockMiddleware needs SESSION_ENGINE = "sessionlock.integrations.django", or a module with a'
                " subclass of its SessionStore"
            )
        checks.refuse()
        settings.current()
        checks.as_the_middleware_starts()
        self._learnt = Learnt()
        logging.getLogger("django.request").addFilter(answers.not_told_by_us)
        if self.async_mode:
            setattr(self, "process_view", self._aprocess_view)  # noqa: B010  or Django would call the other one in a thread

    def __call__(self, request: Any) -> Any:
        if self._stands_inside_itself(request):
            return self.get_response(request)
        if self.async_mode:
            return self.__acall__(request)
        run = Run(request, self._learnt)
        try:
            run.receive()
            while True:
                try:
                    return run.ended(self._handle(request, run))
                except _RunAgain as again:
                    run.store.sessionlock.uncount()
                    run.again(request, again.response)
        except BaseException:
            run.close()
            raise

    async def __acall__(self, request: Any) -> Any:
        run = Run(request, self._learnt)
        try:
            run.receive()  # it is here already
            while True:
                try:
                    return run.ended(await self._ahandle(request, run))
                except _RunAgain as again:
                    await run.store.sessionlock.auncount()
                    run.again(request, again.response)
        except BaseException:
            run.close()
            raise

    def _handle(self, request: Any, run: Run) -> Any:
        """One run of the request: its response, with the session saved and the lock given up."""
        response, session = None, self._prepared(request, run, home_of_threads())
        try:
            with _closing(session):
                if run.mode == "lock":
                    session.sessionlock.begin()
                response = self.get_response(request)
                ending = Ending(request, session, response, run)
                if ending.tells:
                    ending.expires(ending.current.get_expire_at_browser_close(), ending.current.get_expiry_age())
                ending.settle()
                return ending.answer()
        except SessionLockError as error:
            return self._told(error, request, response, session)

    async def _ahandle(self, request: Any, run: Run) -> Any:
        response, session = None, self._prepared(request, run, home_of_this_loop())
        try:
            async with _aclosing(session):
                # Also without a lock: views that are coroutines then find the data there, without awaiting it.
                await session.sessionlock.abegin()
                with anyio.CancelScope() as unless_lost:
                    session.sessionlock.when_lost(unless_lost.cancel)
                    response = await self.get_response(request)
                if response is None:
                    raise session.sessionlock.loss()
                ending = Ending(request, session, response, run)
                if ending.tells:
                    current = ending.current
                    ending.expires(await current.aget_expire_at_browser_close(), await current.aget_expiry_age())
                await ending.asettle()
                return ending.answer()
        except SessionLockError as error:
            return self._told(error, request, response, session)

    def process_view(self, request: Any, *_: Any) -> Any:
        """A session that could not be opened keeps the view from running. Middlewares that stand further in than this
        one see the answer, and put their headers on it.
        """
        session = getattr(request, "session", None)
        checks.beside(request, request.sessionlock_run.store)
        control = session.sessionlock if isinstance(session, SessionStore) else None
        if control is None or control.trouble.failure is None or control.trouble.told:
            return None
        answer = answers.problem(control.trouble.failure, request)
        control.trouble.tell(answer is not None)
        return answer

    async def _aprocess_view(self, request: Any, *_: Any) -> Any:
        return SessionLockMiddleware.process_view(self, request)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """What a view met when it used its session becomes the answer that it would be before the view."""
        control = getattr(getattr(request, "session", None), "sessionlock", None)
        if (
            control is not None
            and control.trouble.clash is exception
            and request.sessionlock_run.may_run_again
            and not control.course.kept
        ):
            return HttpResponse(status=409)  # not sent: the request is run again
        answer = answers.problem(exception, request) if isinstance(exception, SessionLockError) else None
        if answer is not None:
            request.sessionlock_failed = True
        return answer

    def _prepared(self, request: Any, run: Run, home: Home) -> SessionStore:
        session: SessionStore = self.SessionStore(run.key)
        client = partial(client_of_environ, request.META)
        session.sessionlock.prepare(home, run.mode, run.policy.options(), run.label, client, yields=run.may_run_again)
        request.session = session
        request.sessionlock_run = run
        run.opened(session)
        return session

    def _stands_inside_itself(self, request: Any) -> bool:
        """Whether one of these middlewares is outside, at this request; wherever it is, it does all the work."""
        run: Run | None = getattr(request, "sessionlock_run", None)
        if run is not None and not run.over:
            checks.inside_itself()
            return True
        checks.beside(request, None if run is None else run.store)
        return False

    def _told(self, error: SessionLockError, request: Any, response: Any, session: SessionStore) -> Any:
        """The answer to what the middleware itself met."""
        answer = answers.problem(error, request)
        if answer is None:
            raise error
        if response is not None:
            answers.replaced(answer, response)
        if session.sessionlock.login.is_done and session.session_key is not None:
            # A login, say, whose other changes were not saved: by its old key the browser would find nothing.
            _set_cookie(answer, session, _lifetime(*session.sessionlock.ends()))
        return answer


class Ending:
    """What becomes of session and response when the view is done: Django's rules.

    Raises:
        SessionLockError: what the request met, if its response came of that.
        _RunAgain: the same, where the request may be run again.
    """

    def __init__(self, request: Any, opened: SessionStore, response: Any, run: Run) -> None:
        self.request = request
        self.response = response
        self.opened = opened
        self.run = run
        # A view may have put another session there; or something that is none, which is none of ours.
        found = getattr(request, "session", None)
        self.current: Any = found if all(hasattr(found, name) for name in SESSION_LIKE) else None
        self._cookie: dict[str, Any] | None = None
        self._refuse_errors()
        failed = response.status_code >= 500 and not opened.sessionlock.saves_on_error
        refused = getattr(request, "sessionlock_failed", False) or answers.is_ours(response)
        current = self.current
        self.accessed = current is not None and current.accessed
        empty = current is None or current.is_empty()
        cookie = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        # The browser of a request that came with a replaced key has another, or will have in a moment: a new session's
        # must not take its place.
        late = opened.sessionlock.course.replaced
        self.deletes_cookie: bool = (
            cookie is not None and empty and self.accessed and not opened.sessionlock.course.replaced
        )
        self.saves: bool = not (empty or failed or refused) and (
            django_settings.SESSION_SAVE_EVERY_REQUEST or _changed(current)
        )
        self._is_refused = False
        if self.saves and late and current is opened and current.session_key is None:
            log.warning("%s came with a session key that has been replaced; what it changed is not saved", run.label)
            self.saves, self._is_refused = False, request.method not in SAFE_METHODS
        # The session has another key, whether or not this run is sent, and the rest of it is saved.
        moved = current is opened and (run.is_second or opened.sessionlock.login.is_done)
        self.tells: bool = self.saves or (moved and opened.session_key not in (None, cookie))

    def _refuse_errors(self) -> None:
        """A response that was made of what the session met is not sent."""
        control, response = self.opened.sessionlock, self.response
        failed = answers.made_of_an_error(response)
        if control.trouble.clash is not None and self._may_run_again and (failed or response.status_code == 409):
            raise _RunAgain(response)
        failure = control.trouble.failure
        if failure is None or not control.trouble.told or answers.is_ours(response):
            return
        if (control.trouble.doomed or failed) and answers.is_one(failure):
            raise failure

    def expires(self, at_browser_close: bool, age: int) -> None:
        """The session will be saved: tell the browser until when."""
        self._cookie = _lifetime(at_browser_close, age)

    def settle(self) -> None:
        """Save and release."""
        self._refuse()
        try:
            if self.current is self.opened:
                self.opened.sessionlock.finish(self.saves)
            else:
                if self.saves:
                    self.current.save()
                self.opened.sessionlock.finish(False)
        except (SessionConflict, UpdateError) as error:
            raise self._conflict(error) from None

    async def asettle(self) -> None:
        self._refuse()
        try:
            if self.current is self.opened:
                await self.opened.sessionlock.afinish(self.saves)
            else:
                if self.saves:
                    await self.current.asave()
                await self.opened.sessionlock.afinish(False)
        except (SessionConflict, UpdateError) as error:
            raise self._conflict(error) from None

    def _refuse(self) -> None:
        """What was not saved is not acknowledged: as Django has it when a session ends under a request."""
        if self._is_refused:
            raise SessionInterrupted(ENDED)

    @property
    def _may_run_again(self) -> bool:
        return self.run.may_run_again and not self.opened.sessionlock.course.kept

    def _conflict(self, error: Exception) -> Exception:
        if self._may_run_again:
            return _RunAgain(self.response)
        return error if isinstance(error, SessionConflict) else SessionInterrupted(ENDED)

    def answer(self) -> Any:
        """The response with its cookie, and with ``Vary`` if it depends on one."""
        response = self.response
        if self.deletes_cookie:
            response.delete_cookie(django_settings.SESSION_COOKIE_NAME, **_where())
        elif self._cookie is not None and not _outdated(self.current) and not self.opened.sessionlock.course.ended:
            _set_cookie(response, self.current, self._cookie)
        if self.accessed or self.deletes_cookie or self._cookie is not None:
            patch_vary_headers(response, ("Cookie",))
        if response.streaming:
            response._resource_closers.append(self.opened.sessionlock.tell_unsaved)
        return response


@contextmanager
def _closing(session: SessionStore) -> Iterator[None]:
    try:
        yield
    finally:
        session.sessionlock.close()


@asynccontextmanager
async def _aclosing(session: SessionStore) -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        await session.sessionlock.aclose(error)
        raise
    await session.sessionlock.aclose(None)


def _set_cookie(response: Any, session: Any, lifetime: dict[str, Any]) -> None:
    said = django_settings
    response.set_cookie(
        said.SESSION_COOKIE_NAME,
        session.session_key,
        secure=said.SESSION_COOKIE_SECURE or None,
        httponly=said.SESSION_COOKIE_HTTPONLY or None,
        **lifetime,
        **_where(),
    )


def _where() -> dict[str, Any]:
    said = django_settings
    return {
        "path": said.SESSION_COOKIE_PATH,
        "domain": said.SESSION_COOKIE_DOMAIN,
        "samesite": said.SESSION_COOKIE_SAMESITE,
    }


def _lifetime(at_browser_close: bool, age: int) -> dict[str, Any]:
    if at_browser_close:
        return {"max_age": None, "expires": None}
    return {"max_age": age, "expires": http_date(time.time() + age)}


def _changed(session: Any) -> bool:
    return session.sessionlock.changed if isinstance(session, SessionStore) else session.modified


def _outdated(session: Any) -> bool:
    return isinstance(session, SessionStore) and session.sessionlock.outdated
