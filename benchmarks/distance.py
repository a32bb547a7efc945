"""A server that is further away: a relay, in a process of its own, that delivers every reply later.

It looks at no byte, so that long requests are as far as short ones, and waits by the microsecond.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import redis

from benchmarks.report import median

__all__ = ["relay", "round_trip"]

SPIN = 0.0002  # seconds before a delivery in which the relay does not sleep: waking up takes about that long


def relay(connection: Connection, url: str, delay: float) -> None:
    """Worker: answers anything with the relay's url; each reply takes ``delay`` seconds more than without it."""
    upstream = urlsplit(url)
    assert upstream.hostname is not None, "the server is to be reached over TCP"
    server = (upstream.hostname, upstream.port or 6379)
    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        connection.send("ready")
        try:
            _serve(connection, selector, listener, server, delay, f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        except EOFError:
            for key in list(selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()


def _serve(
    connection: Connection,
    selector: selectors.BaseSelector,
    listener: socket.socket,
    server: tuple[str, int],
    delay: float,
    url: str,
) -> None:
    late: deque[tuple[float, socket.socket, bytes]] = deque()  # the delay is one for all: they stay in order
    while True:
        due = late[0][0] - time.monotonic() if late else None
        for key, _ in selector.select(None if due is None else max(0.0, due - SPIN)):
            source: Any = key.fileobj
            if source is connection:
                connection.recv()
                connection.send(url)
            elif source is listener:
                _accept(selector, listener, server, delay)
            else:
                target, delayed_by = key.data
                _pass_on(selector, source, target, delayed_by, late)
        while late and late[0][0] <= time.monotonic():
            _, target, data = late.popleft()
            target.sendall(data)


def _accept(selector: selectors.BaseSelector, listener: socket.socket, server: tuple[str, int], delay: float) -> None:
    client, upstream = listener.accept()[0], socket.create_connection(server)
    for one in (client, upstream):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(client, selectors.EVENT_READ, (upstream, 0.0))
    selector.register(upstream, selectors.EVENT_READ, (client, delay))


def _pass_on(
    selector: selectors.BaseSelector,
    source: socket.socket,
    target: socket.socket,
    delay: float,
    late: deque[tuple[float, socket.socket, bytes]],
) -> None:
    try:
        data = source.recv(1 << 20)
    except ConnectionError:
        data = b""
    if not data:
        for one in (source, target):
            if one.fileno() >= 0:
                selector.unregister(one)
                one.close()
        for entry in [entry for entry in late if entry[1].fileno() < 0]:
            late.remove(entry)
    elif delay:
        late.append((time.monotonic() + delay, target, data))
    else:
        target.sendall(data)


def round_trip(url: str) -> float:
    """Seconds of a PING, the median of some."""
    client: Any = redis.Redis.from_url(url)

    def ping() -> float:
        began = time.perf_counter()
        client.ping()
        return time.perf_counter() - began

    taken = median([ping() for _ in range(50)])
    client.close()
    return taken
