"""The admin page as an ASGI or a WSGI application, to be mounted in the application's own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from ..blocking.portal import portal
from ..codecs.base import Codec
from ..errors import ConfigurationError
from ..operate import Operator
from ..policies import SessionPolicy
from ..views.cookies import value_of
from .site import COOKIE, MOST_BODY, Access, Done, PageAnswer, PageRequest, Site

__all__ = ["Open", "asgi_admin", "check_blocking", "opener", "respond", "wsgi_admin"]

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
    who: Callable[[Scope], str] | None = None,
    on_done: Callable[[Scope, Done], object] | None = None,
    root: str = "",
    prefix: str = "sl",
    codec: Codec | None = None,
    policy: SessionPolicy | None = None,
) -> Callable[..., Awaitable[None]]:
    """An ASGI application. Mount it behind what knows who is logged in.

    ``url``: of the Redis, or what makes an :class:`~sessionlock.operate.Operator`. ``allow``: is given the ASGI scope
    and says what its sender may: ``"locks"``, also values (True or ``"look"``), also take locks and log out
    (``"act"``), or nothing; it may be a coroutine function. ``who``: names the sender for the log. ``on_done``: is
    told what was done, or shown; it may be a coroutine function. ``root``: where the page is mounted, if the host does
    not tell that in the scope. ``prefix``, ``codec``, ``policy``: as the application's guard has them.

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
        mounted_at, path = _place(scope, root.rstrip("/"))
        headers, cookies = dict[str, str](), list[str]()
        for name, value in scope["headers"]:
            headers[name.decode("latin-1").lower()] = value.decode("latin-1")
            if name.lower() == b"cookie":  # HTTP/2 and 3 may send it in parts
                cookies.append(value.decode("latin-1"))
        body = await _body(receive) if scope["method"] == "POST" else b""
        asked = PageRequest(
            scope["method"],
            path,
            mounted_at,
            query=scope.get("query_string", b"").decode("latin-1"),
            cookies=_cookies("; ".join(cookies)),
            headers=headers,
            body=body,
            secure=scope.get("scheme") == "https",
            access=access,
            who=who(scope) if who is not None else "",
        )
        answer = await respond(open_operator, asked)
        if on_done is not None and answer.done is not None:
            told = on_done(scope, answer.done)
            if inspect.isawaitable(told):
                await told
        named = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": named})
        await send({"type": "http.response.body", "body": answer.body})

    return application


def _place(scope: Scope, told: str) -> tuple[str, str]:
    """Where it is mounted, and the path below that.

    By the standard ``path`` has ``root_path`` before it. Some cut that off; Litestar cuts off the mount, puts a slash
    behind, and leaves the whole only in ``raw_path``.
    """
    root, path = scope.get("root_path", "").rstrip("/"), scope["path"].rstrip("/")
    if root and f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :]
    elif whole := unquote((scope.get("raw_path") or b"").decode("latin-1").partition("?")[0]).rstrip("/"):
        cut = whole.removesuffix(path)
        if cut != whole or not path:
            root = cut if f"{cut}/".startswith(f"{root}/") else root + cut
    if told and f"{path}/".startswith(f"{told}/"):
        root, path = root + told, path[len(told) :]
    return root, path


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
    """Ours: the host's other cookies are of any form, and none of them may hide it."""
    value = value_of(header, COOKIE)
    return {} if value is None else {COOKIE: value}


def check_blocking(allow: Callable[..., Any], place: str) -> None:
    """Raises :class:`~sessionlock.ConfigurationError`: ``allow`` is a coroutine function, and nobody awaits it."""
    if inspect.iscoroutinefunction(allow) or inspect.iscoroutinefunction(type(allow).__call__):
        raise ConfigurationError(f"{place}(allow=...) is called without await: give a plain function")


def wsgi_admin(
    url: str | Open,
    *,
    allow: Callable[[dict[str, Any]], Access],
    who: Callable[[dict[str, Any]], str] | None = None,
    on_done: Callable[[dict[str, Any], Done], object] | None = None,
    prefix: str = "sl",
    codec: Codec | None = None,
    policy: SessionPolicy | None = None,
) -> Callable[..., Iterable[bytes]]:
    """A WSGI application, as :func:`asgi_admin`; ``allow``, ``who`` and ``on_done`` are given the environment, and are
    plain functions.
    """
    check_blocking(allow, "wsgi_admin")
    open_operator = opener(url, prefix, codec, policy)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        body = environ["wsgi.input"].read(min(int(length), MOST_BODY + 1)) if length.isdigit() else b""
        headers = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key[:5] == "HTTP_"}
        asked = PageRequest(
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", ""),
            environ.get("SCRIPT_NAME", "").encode("latin-1").decode(errors="replace"),
            query=environ.get("QUERY_STRING", ""),
            cookies=_cookies(environ.get("HTTP_COOKIE", "")),
            headers=headers,
            body=body,
            secure=environ.get("wsgi.url_scheme") == "https",
            access=allow(environ),
            who=who(environ) if who is not None else "",
        )
        answer: PageAnswer = portal().call(respond, open_operator, asked)
        if on_done is not None and answer.done is not None:
            on_done(environ, answer.done)
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", answer.headers)
        return [answer.body]

    return application
