"""The cookie of a visitor whose view is ``@session_locked(cookie(...))``: when its answer sets it, and where.

A new visitor is told the id of his session if something was put in; whoever has one is told its new id after
``regenerate()``, and keeps the cookie as long as the record lives; it is taken away after ``destroy()``. An answer is
known by what it looks like; no framework is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ConfigurationError
from ..session.mapping import Session
from .block import Block, core_of
from .session_id import SidCookie, SidFrom, find_request, serving

__all__ = ["Visitor"]

Carrier = Callable[[Callable[[Any], None]], None]  # takes what is to be done with the response

HELP = (
    "Return a response object. In FastAPI the view may have a parameter for one instead (`response: Response`). Or take"
    " the session id from where the application itself gives it out: @session_locked(lambda *args, **kwargs: sid)"
)


class Visitor:
    """One call of a view."""

    def __init__(self, source: SidCookie, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._source = source
        self._given = (*args, *kwargs.values())
        self._request = find_request(args, kwargs)
        self._told: str | None = None
        self._carrier: Carrier | None = None

    @classmethod
    def of(cls, source: SidFrom, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Visitor | None:
        """None where it is not ours to set a cookie."""
        return cls(source, args, kwargs) if isinstance(source, SidCookie) else None

    def is_known_by(self, sid: str | None) -> None:
        """The visitor's cookie names this session, or none."""
        self._told = sid

    def expect(self, session: Any, answer: Any) -> None:
        """The view has returned, nothing is saved yet: see to it that the cookie can be set, if it has to be.

        Raises:
            ConfigurationError: it cannot, and the visitor would lose his session.
        """
        session = core_of(session)
        self._carrier = _carrier(answer, self._given)
        if self._carrier is not None or session.destroyed or session.sid == self._told:
            return
        if session.new and not session.modified:
            return
        what = "regenerate() gave the session a new id" if self._told else "a new visitor's session is to be stored"
        raise ConfigurationError(
            f"{what}, and the browser must be told its id in the cookie {self._source.settings.name!r};"
            f" {_described(answer)} cannot carry one. What was changed is not saved. {HELP}"
        )

    def tell(self, session: Any, block: Any) -> None:
        """The session is saved: let the answer tell."""
        session = core_of(session)
        if self._carrier is None:
            return
        if session.destroyed:
            if self._told is not None:
                self._carrier(self._clear)
        elif (session.sid != self._told and not session.new) or self._lives_on(session, block):
            sid, idle = session.sid, session.policy.idle
            self._carrier(lambda response: self._set(response, sid, idle))

    def _lives_on(self, session: Session, block: Block) -> bool:
        """Whether the record's life began anew, by the id that is the current one."""
        return (
            session.lease is not None
            and not session.lease.is_lost
            and not block.outdated
            and self._source.settings.max_age is not None
        )

    def _set(self, response: Any, sid: str, idle: float) -> None:
        self._write(response, sid, **self._source.settings.lasting(idle).kwargs(https=self._https))

    def _clear(self, response: Any) -> None:
        self._write(response, "", **{**self._source.settings.kwargs(https=self._https), "max_age": 0})

    def _write(self, response: Any, value: str, **options: Any) -> None:
        name = self._source.settings.name
        if not _sets_already(response, name):
            _setter(response)(name, value, **options)
            _vary(response)

    @property
    def _https(self) -> bool:
        request = self._request
        scheme = getattr(request, "scheme", None) or getattr(getattr(request, "url", None), "scheme", None)
        return bool(scheme == "https")


def _carrier(answer: Any, given: tuple[Any, ...]) -> Carrier | None:
    """What brings a cookie to the browser: the answer itself, a response among the view's arguments, or a framework
    that has the answer go through functions of ours.
    """
    for response in (answer, *given):
        if _can_set(response):
            return lambda change: change(response)
    framework = serving()
    return None if framework is None else _after(framework)


def _can_set(response: Any) -> bool:
    if inspect.isclass(response) or not callable(_setter(response)):
        return False
    return not getattr(response, "prepared", False)  # aiohttp: its headers are out


def _setter(response: Any) -> Any:
    return getattr(response, "set_cookie", None) or getattr(response, "add_cookie", None)  # Sanic's


def _after(framework: Any) -> Carrier:
    """Flask and Quart turn anything into a response, after the decorators above this one have seen what it is."""

    def carry(change: Callable[[Any], None]) -> None:
        def changed(response: Any) -> Any:
            change(response)
            return response

        framework.after_this_request(changed)

    return carry


def _sets_already(response: Any, name: str) -> bool:
    """Whether the view has set the cookie itself."""
    cookies = getattr(response, "cookies", None)
    if isinstance(cookies, Iterable) and any(getattr(cookie, "key", cookie) == name for cookie in cookies):
        return True
    headers = response.headers
    found = getattr(headers, "getlist", None) or getattr(headers, "getall", None)
    lines = found("Set-Cookie") if found is not None and "Set-Cookie" in headers else ()
    return any(str(line).partition("=")[0].strip() == name for line in lines)


def _vary(response: Any) -> None:
    """No cache gives the answer, and with it the cookie, to another visitor."""
    before = response.headers.get("Vary", "")
    if not {"*", "cookie"}.intersection(part.strip().lower() for part in before.split(",")):
        response.headers["Vary"] = f"{before}, Cookie" if before else "Cookie"


def _described(answer: Any) -> str:
    if getattr(answer, "prepared", False):
        return "an answer that has begun already"
    return "None" if answer is None else f"an answer of the type {type(answer).__name__}"
