"""The admin page as an ASGI or a WSGI application, to be mounted in the application's own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from ..blocking.portal import portal
from ..codecs.base import Codec
from ..operate import Operator
from ..policies import SessionPolicy
from .site import MOST_BODY, Access, PageAnswer, PageRequest, Site

__all__ = ["Open", "asgi_admin", "opener", "respond", "wsgi_admin"]

Open = Callable[[], Operator]
Scope = MutableMapping[str, Any]


def opener(url: str | Open, prefix: str, codec: Codec | None, policy: SessionPolicy | None) -> Open:
    """What opens an operator for each request."""
    if not isinstance(url, str):
        return url
    Operator.from_url(url, prefix=prefix)  # says now what is wrong with it
    return lambda: Operator.from_url(url, prefix=prefix, codec=codec, policy=policy)


async def respond(open_operator: Open, asked: PageRequest) -> PageAnswer:
    async with open_operator() as operator:
        return await Site(operator).answer(asked)


def asgi_admin(
    url: str | Open,
    *,
    allow: Callable[[Scope], Access | Awaitable[Access]],
    prefix: str = "sl",
    codec: Codec | None = None,
    policy: SessionPolicy | None = None,
) -> Callable[..., Awaitable[None]]:
    """An ASGI application. Mount it behind what knows who is logged in.

    ``url``: of the Redis, or what makes an :class:`~sessionlock.operate.Operator`. ``allow``: is given the ASGI scope
    and says whether its sender may look (True or ``"look"``), may also take locks and log out (``"act"``), or neither;
    it may be a coroutine function. ``prefix``, ``codec``, ``policy``: as the application's guard has them.

    Raises:
        ConfigurationError: of the URL or prefix.
    """
    open_operator = opener(url, prefix, codec, policy)

    async def application(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise TypeError(f"the admin page serves http, not {scope['type']}")
        access = allow(scope)
        if inspect.isawaitable(access):
            access = await access
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root) if root else scope["path"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _body(receive) if scope["method"] == "POST" else b""
        asked = PageRequest(
            scope["method"],
            path,
            root,
            cookies=_cookies(headers.get("cookie", "")),
            headers=headers,
            body=body,
            secure=scope.get("scheme") == "https",
            access=access,
        )
        answer = await respond(open_operator, asked)
        named = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": named})
        await send({"type": "http.response.body", "body": answer.body})

    return application


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _body(receive: Callable[[], Awaitable[Any]]) -> bytes:
    body = b""
    while len(body) <= MOST_BODY:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    return body


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def wsgi_admin(
    url: str | Open,
    *,
    allow: Callable[[dict[str, Any]], Access],
    prefix: str = "sl",
    codec: Codec | None = None,
    policy: SessionPolicy | None = None,
) -> Callable[..., Iterable[bytes]]:
    """A WSGI application, as :func:`asgi_admin`; ``allow`` is given the environment."""
    open_operator = opener(url, prefix, codec, policy)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        body = environ["wsgi.input"].read(min(int(length), MOST_BODY + 1)) if length.isdigit() else b""
        headers = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key[:5] == "HTTP_"}
        asked = PageRequest(
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", ""),
            environ.get("SCRIPT_NAME", ""),
            cookies=_cookies(environ.get("HTTP_COOKIE", "")),
            headers=headers,
            body=body,
            secure=environ.get("wsgi.url_scheme") == "https",
            access=allow(environ),
        )
        answer: PageAnswer = portal().call(respond, open_operator, asked)
        start_response(f"{answer.status} {_REASONS.get(answer.status, 'Error')}", answer.headers)
        return [answer.body]

    return application


_REASONS = {200: "OK", 303: "See Other", 400: "Bad Request", 403: "Forbidden", 404: "Not Found"}
