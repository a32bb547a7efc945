"""One request on its way through the middleware: how it uses its session, and how it is run a second time."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any

from django.conf import settings as django_settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.urls import Resolver404, resolve, set_urlconf
from django.utils import translation

from ...clock import monotonic
from ...views.cookies import usable_sid
from ..web.bodies import Spool
from ..web.learning import Learnt
from ..web.naming import label_of
from ..web.rules import BODY_LIMIT, RequestMode, RoutePolicy
from . import settings
from .answers import take_over

__all__ = ["Run"]

# Under the lock, too, a run can meet a conflict: a safe request that does not wait may commit meanwhile. Each such
# commit is somebody's progress, and its route is learnt, so there are soon no more of them.
MOST_RUNS = 5
LONGEST = 100  # characters of a path by which a page is remembered


class Run:
    """How a request is run; and, from :meth:`again` on, how it is run once more: under the lock, as it came."""

    def __init__(self, request: Any, learnt: Learnt) -> None:
        match = _match(request)
        self.key: str | None = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        """The session's key: the cookie's, or the one that an earlier run gave it."""
        self.policy: RoutePolicy = _policy(request, match)
        self.label: str = label_of(request.method, _from_the_root(match))
        """For those who wait for it, and the log: its route. A path has many values, and may have a secret in it."""
        mode = self.policy.mode_for(request.method)
        self.mode: RequestMode = "read" if mode == "off" else mode  # Django has no requests without a session
        # By route, not by path: what one page of a kind does, the others do.
        page = f"{request.method} {request.path[:LONGEST] if match is None else match.route}"
        self._learn = partial(learnt.add, page)
        self._before: _Before | None = None
        self._began = monotonic()
        self._discarded: list[Any] = []  # responses of earlier runs
        self.store: Any = None
        self.over: bool = False
        self.may_run_again: bool = self.policy.may_run_again(request.method) and usable_sid(self.key) is not None
        if self.may_run_again and page in learnt:
            self.mode = "lock"
        self._spool = self._spooled(request)
        if self.may_run_again:
            self._before = _Before(request)

    def opened(self, store: Any) -> None:
        """``store`` is the session that was opened."""
        self.store = store

    def receive(self) -> None:
        """Receive the request's body, before its lock is taken."""
        if self._spool is not None:
            self._spool.receive()
            # What is beyond the limit can be read once.
            self.may_run_again = self.may_run_again and self._spool.complete

    @property
    def is_second(self) -> bool:
        """Whether the request was run before."""
        return bool(self._discarded)

    def again(self, request: Any, response: Any) -> None:
        """Put the request back, as if it came just now, to be run under the lock. ``response`` is not sent."""
        assert self._before is not None
        key = self.store.session_key
        self._discarded.append(response)
        self._learn(monotonic() - self._began)
        self._before.restore(request, self._spool)
        self.key, self.mode = key, "lock"
        self.may_run_again = len(self._discarded) < MOST_RUNS - 1
        self._began = monotonic()

    def ended(self, response: Any) -> Any:
        """The response that is sent; with it, all is closed that belongs to the request."""
        self.over = True
        for discarded in self._discarded:
            take_over(response, discarded)
        response._resource_closers.append(self.close)
        return response

    def close(self) -> None:
        """The request is over."""
        self.over = True
        if self._spool is not None:
            self._spool.close()

    def _spooled(self, request: Any) -> Spool | None:
        """For a request that is going to wait for a lock, or may run twice, and whose body nobody has read yet."""
        if usable_sid(self.key) is None or not (self.mode == "lock" or self.may_run_again):
            return None
        if request._read_started or hasattr(request, "_body"):
            return None
        stream = request._stream
        if isinstance(stream, SpooledTemporaryFile):  # ASGI: it was received before the request was made
            spool = Spool.received(stream) if self.may_run_again else None
        else:
            limit = self.policy.body_ahead
            if self.may_run_again:
                limit = limit or BODY_LIMIT
            nothing = limit == 0 or getattr(stream, "limit", None) == 0
            spool = None if nothing else Spool(stream, limit=limit)
        if spool is not None:
            _reads(request, spool)
        return spool


class _Before:
    """What a request was like. What others hold of it (its ``META`` ...) stays the same object when it is put back."""

    def __init__(self, request: Any) -> None:
        self._had = dict(request.__dict__)
        self._contents = [(held, held.copy()) for held in self._had.values() if type(held) in (dict, list, set)]

    def restore(self, request: Any, spool: Spool | None) -> None:
        request.__dict__.clear()
        request.__dict__.update(self._had)
        for held, content in self._contents:
            if isinstance(held, list):
                held[:] = content
            else:
                held.clear()
                held.update(content)
        if spool is not None:
            _reads(request, spool)
        elif hasattr(request, "_body"):
            request._stream = BytesIO(request._body)
        set_urlconf(getattr(request, "urlconf", None) or django_settings.ROOT_URLCONF)


def _reads(request: Any, spool: Spool) -> None:
    request._stream = spool.reader()
    if "wsgi.input" in request.META:
        request.META["wsgi.input"] = request._stream  # for who looks past the request


def _policy(request: Any, match: Any) -> RoutePolicy:
    """What the request's view said about its session, else the settings for its path."""
    view = match.func if match is not None else None
    return settings.current().rules.policy_for(request.method, request.path_info, view)


def _from_the_root(match: Any) -> str | None:
    """Django's routes begin without a slash, or, as regular expressions, with a ``^``."""
    if match is None:
        return None
    return match.route if match.route.startswith(("/", "^")) else f"/{match.route}"


def _match(request: Any) -> Any:
    """Which view will be called, None if that cannot be told yet. Django itself resolves it only later."""
    urlconf = getattr(request, "urlconf", None) or django_settings.ROOT_URLCONF
    try:
        if django_settings.USE_I18N and is_language_prefix_patterns_used(urlconf)[0]:
            with translation.override(translation.get_language_from_path(request.path_info)):
                return resolve(request.path_info, urlconf)
        return resolve(request.path_info, urlconf)
    except Resolver404:
        return None
