"""The switch before the nodes: each request goes to the next node, whoever sent it, as many load balancers do.

A node that cannot be reached is left out. A request that a node took and did not answer, because it died, is not
given to the other node (it may have had its effect already): that is a 502.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
# RFC 9110, 7.6.1: these concern one connection.
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection"}
STREAM = "text/event-stream"


class Switch:
    """An ASGI application. ``sockets``: the unix sockets of the nodes, by name."""

    def __init__(self, sockets: Mapping[str, str]) -> None:
        # Transports and not clients: those would keep one browser's cookies and send them with another's requests.
        self._nodes = [httpx.AsyncHTTPTransport(uds=path, limits=httpx.Limits()) for path in sockets.values()]
        self._turn = itertools.cycle(range(len(self._nodes)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            try:
                await self._pass_on(scope, receive, send)
            except ClientDisconnect:
                return

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for node in self._nodes:
            await node.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            await self._exchange(_request(scope, body), send)
            tasks.cancel_scope.cancel()

    async def _exchange(self, request: httpx.Request, send: Send) -> None:
        try:
            answer = await self._ask(request)
        except httpx.TransportError:
            await _say(send, 502, b"the node that had this request has died")
            return
        if answer is None:
            await _say(send, 503, b"no node is there")
            return
        try:
            await _hand_over(answer, send)
        finally:
            await answer.aclose()

    async def _ask(self, request: httpx.Request) -> httpx.Response | None:
        """What the next node says that can be reached; None if none can."""
        first = next(self._turn)
        for node in (*self._nodes[first:], *self._nodes[:first]):
            try:
                answer = await node.handle_async_request(request)
            except httpx.ConnectError:
                continue  # it got nothing of the request
            return await _complete(answer)
        return None


async def _complete(answer: httpx.Response) -> httpx.Response:
    """All of it, unless it is a stream: the browser gets a whole answer or a 502."""
    if not _is_stream(answer):
        try:
            await answer.aread()
        except BaseException:
            await answer.aclose()
            raise
    return answer


async def _hand_over(answer: httpx.Response, send: Send) -> None:
    headers = _end_to_end(answer.headers.raw)
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    if _is_stream(answer):
        try:
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except httpx.TransportError:
            pass  # its node died; the browser opens the stream again
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": answer.content})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _say(send: Send, status: int, text: bytes) -> None:
    headers: Headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _request(scope: Mapping[str, Any], body: bytes) -> httpx.Request:
    query = scope["query_string"]
    target = scope.get("raw_path") or scope["path"].encode()
    url = httpx.URL("http://node", raw_path=target + (b"?" + query if query else b""))
    return httpx.Request(scope["method"], url, headers=_end_to_end(scope["headers"]), content=body)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _is_stream(answer: httpx.Response) -> bool:
    return str(answer.headers.get("content-type")).startswith(STREAM)
