"""The middleware that owns the save: acquire, load, handle, save, release, before the response goes out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from django.conf import settings as django_settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.urls import Resolver404, resolve
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from ...errors import SessionLockError
from ...peers import client_of_environ
from ..marks import policy_of
from ..rules import RoutePolicy, label_of
from . import settings
from .homes import Home, home_of_this_loop, home_of_threads
from .store import SessionStore

__all__ = ["SessionLockMiddleware"]

ENDED = (
    "The request's session was deleted before the request completed. The user may have logged out in a concurrent"
    " request, for example."
)


class SessionLockMiddleware(SessionMiddleware):  # type: ignore[misc]
    """Put it where ``django.contrib.sessions.middleware.SessionMiddleware`` stands, in its place.

    Requests that may change something (POST ...) hold their session's lock from before the view until the response
    is ready, so what they load is current and what they save is complete. GET, HEAD and OPTIONS do not wait; one that
    changed the session commits if nobody else changed the same. 5xx responses are not saved. Streams hold nothing.

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
        settings.current()

    def __call__(self, request: Any) -> Any:
        if self.async_mode:
            return self.__acall__(request)
        response = None
        try:
            with self._session(request, home_of_threads()) as session:
                if session.mode == "lock":
                    session.begin()
                response = self.get_response(request)
                ending = Ending(request, session, response)
                if ending.saves:
                    ending.expires(ending.current.get_expire_at_browser_close(), ending.current.get_expiry_age())
                ending.settle()
                return ending.answer()
        except SessionLockError as error:
            return self._told(error, response)

    async def __acall__(self, request: Any) -> Any:
        response = None
        try:
            async with self._asession(request, home_of_this_loop()) as session:
                # Also without a lock: views that are coroutines then find the data there, without awaiting it.
                await session.abegin()
                response = await self.get_response(request)
                ending = Ending(request, session, response)
                if ending.saves:
                    current = ending.current
                    ending.expires(await current.aget_expire_at_browser_close(), await current.aget_expiry_age())
                await ending.asettle()
                return ending.answer()
        except SessionLockError as error:
            return self._told(error, response)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """What a view met when it used its session becomes the answer that it would be before the view."""
        answer = _problem(exception) if isinstance(exception, SessionLockError) else None
        if answer is not None:
            request.session_lock_failed = True
        return answer

    @contextmanager
    def _session(self, request: Any, home: Home) -> Iterator[SessionStore]:
        session = self._prepared(request, home)
        try:
            yield session
        finally:
            session.close()

    @asynccontextmanager
    async def _asession(self, request: Any, home: Home) -> AsyncIterator[SessionStore]:
        session = self._prepared(request, home)
        try:
            yield session
        except BaseException as error:
            await session.aclose(error)
            raise
        await session.aclose(None)

    def _prepared(self, request: Any, home: Home) -> SessionStore:
        session: SessionStore = self.SessionStore(request.COOKIES.get(django_settings.SESSION_COOKIE_NAME))
        policy = _policy(request)
        label, client = label_of(request.method, request.path), partial(client_of_environ, request.META)
        session.prepare(home, policy.mode_for(request.method), policy.options(), label, client)
        request.session = session
        return session

    def _told(self, error: SessionLockError, response: Any) -> Any:
        answer = _problem(error)
        if answer is None:
            raise error
        if response is not None:
            answer._resource_closers.extend(response._resource_closers)
        return answer


class Ending:
    """What becomes of session and response when the view is done: Django's rules."""

    def __init__(self, request: Any, opened: SessionStore, response: Any) -> None:
        self.request = request
        self.response = response
        self.opened = opened
        self.current: Any = getattr(request, "session", None)  # a view may have put another one there
        self._cookie: dict[str, Any] | None = None
        failed = response.status_code >= 500 and not opened.saves_on_error
        refused = getattr(request, "session_lock_failed", False)
        if failed and opened.failure is not None:
            raise opened.failure  # met by a middleware, which made a 500 of it
        current = self.current
        self.accessed = current is not None and current.accessed
        empty = current is None or current.is_empty()
        has_cookie = django_settings.SESSION_COOKIE_NAME in request.COOKIES
        self.deletes_cookie = has_cookie and empty and self.accessed
        self.saves = not (empty or failed or refused) and (
            django_settings.SESSION_SAVE_EVERY_REQUEST or _changed(current)
        )

    def expires(self, at_browser_close: bool, age: int) -> None:
        """The session will be saved: tell the browser until when."""
        self._cookie = {"max_age": None, "expires": None}
        if not at_browser_close:
            self._cookie = {"max_age": age, "expires": http_date(time.time() + age)}

    def settle(self) -> None:
        """Save and release."""
        try:
            if self.current is self.opened:
                self.opened.finish(self.saves)
            else:
                if self.saves:
                    self.current.save()
                self.opened.finish(False)
        except UpdateError:
            raise SessionInterrupted(ENDED) from None

    async def asettle(self) -> None:
        try:
            if self.current is self.opened:
                await self.opened.afinish(self.saves)
            else:
                if self.saves:
                    await self.current.asave()
                await self.opened.afinish(False)
        except UpdateError:
            raise SessionInterrupted(ENDED) from None

    def answer(self) -> Any:
        """The response with its cookie, and with ``Vary`` if it depends on one."""
        response = self.response
        said = django_settings
        where = {
            "path": said.SESSION_COOKIE_PATH,
            "domain": said.SESSION_COOKIE_DOMAIN,
            "samesite": said.SESSION_COOKIE_SAMESITE,
        }
        if self.deletes_cookie:
            response.delete_cookie(said.SESSION_COOKIE_NAME, **where)
        elif self._cookie is not None and not getattr(self.current, "outdated", False):
            response.set_cookie(
                said.SESSION_COOKIE_NAME,
                self.current.session_key,
                secure=said.SESSION_COOKIE_SECURE or None,
                httponly=said.SESSION_COOKIE_HTTPONLY or None,
                **self._cookie,
                **where,
            )
        if self.accessed or self.deletes_cookie or self._cookie is not None:
            patch_vary_headers(response, ("Cookie",))
        return response


def _changed(session: Any) -> bool:
    return session.has_changed() if isinstance(session, SessionStore) else session.modified


def _policy(request: Any) -> RoutePolicy:
    """What the request's view said about its session, else the settings."""
    usual = settings.current().policy
    view = _view(request)
    said = policy_of(view, request.method) if view is not None else None
    if said is None:
        return usual
    return replace(
        said,
        wait=usual.wait if said.wait is None else said.wait,
        lease=usual.lease if said.lease is None else said.lease,
    )


def _view(request: Any) -> Any:
    """The view that will be called, None if that cannot be told yet. Django itself resolves it only later."""
    urlconf = getattr(request, "urlconf", None) or django_settings.ROOT_URLCONF
    try:
        if django_settings.USE_I18N and is_language_prefix_patterns_used(urlconf)[0]:
            with translation.override(translation.get_language_from_path(request.path_info)):
                return resolve(request.path_info, urlconf).func
        return resolve(request.path_info, urlconf).func
    except Resolver404:
        return None


def _problem(error: SessionLockError) -> Any:
    """The error as a response; None for a mistake in the program, which is a 500."""
    problem = settings.current().problems.answer(error)
    if problem is None:
        return None
    response = HttpResponse(problem.content(), status=problem.status)
    for name, value in problem.headers():
        response.headers[name] = value
    return response
