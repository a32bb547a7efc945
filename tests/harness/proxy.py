"""A TCP proxy between a Redis client and its server that fails on purpose, at the moment a test asks for.

It knows where requests and replies end, so that "the reply to the request that contains X" is exactly that, in a
pipeline, too::

    async with FaultyProxy(server.url) as proxy:
        client = redis.asyncio.Redis.from_url(proxy.url)
        fault = proxy.drop_next_reply(b"INCR")
        ...                      # the server runs the INCR, the client sees a reset connection
        await fault.wait()

What arms a fault is a plain call, effective from its return on. A fault happens to whole requests and replies. Use one
proxy from one event loop. Commands whose replies cannot be counted (MONITOR, CLIENT REPLY OFF) do not go through it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import anyio

from tests.harness.resp import CONFIRMATIONS, MESSAGES, Frames, head, is_push

if TYPE_CHECKING:
    from typing_extensions import Self

OneWay = Literal["requests", "replies"]
Direction = Literal["requests", "replies", "both"]
Match = bytes | re.Pattern[bytes]
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PATIENCE = 10.0
"""Seconds after which every wait in here gives up: a test that hangs says less than one that fails."""


class Fault:
    """One armed fault: it happens to the next ``times`` matching requests (pushes), then no more. ``says``: what the
    client is told in the reply's place, if it is told anything; ``does``: whether the server gets the request.
    """

    def __init__(self, match: Match | None, times: float) -> None:
        self.match = match
        self.left = times
        self.count = 0
        self.happened = asyncio.Event()
        self.says = b""
        self.does = True

    def takes(self, frame: bytes) -> bool:
        """Whether it shall happen to this frame; if so, one of its times is used up."""
        if self.left <= 0 or not self._matches(frame):
            return False
        self.left -= 1
        return True

    def _matches(self, frame: bytes) -> bool:
        if self.match is None or isinstance(self.match, bytes):
            return self.match is None or self.match in frame
        return self.match.search(frame) is not None

    def record(self) -> None:
        """It has happened, once more."""
        self.count += 1
        self.happened.set()

    def disarm(self) -> None:
        """It shall not happen again."""
        self.left = 0

    async def wait(self, within: float = PATIENCE) -> None:
        """Return once it has happened at least once; TimeoutError after ``within`` seconds."""
        with anyio.fail_after(within):
            await self.happened.wait()


class FaultyProxy:
    """Stands between clients and the server at ``upstream_url`` (``redis://`` or ``unix://``), see the module."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream = urlsplit(upstream_url)
        self._delays: dict[OneWay, float] = {"requests": 0.0, "replies": 0.0}
        self._open: dict[OneWay, asyncio.Event] = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        self._drop_requests: list[Fault] = []
        self._drop_replies: list[Fault] = []
        self._drop_pushes: list[Fault] = []
        self._holds: list[Fault] = []
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._address: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._failures: list[BaseException] = []

        self.dropped = asyncio.Event()
        """Set when a request or a reply was dropped; cleared when such a fault is armed."""
        self.held = asyncio.Event()
        """Set when a request was parked; cleared by ``hold_requests()`` and ``let_go()``."""

        self.connections_opened = 0
        self.connections_refused = 0
        """Connections that were accepted, then reset because the server could not be reached."""
        self.requests_seen = 0
        self.replies_seen = 0
        self.pushes_seen = 0
        self.bytes_forwarded: dict[OneWay, int] = {"requests": 0, "replies": 0}

    # -- life

    async def __aenter__(self) -> Self:
        for way in self._open.values():
            way.set()
        # Bound, but never listening: it keeps the port ours while refuse() has closed the listener.
        self._address = _bound_socket(0)
        self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        if self._address is not None:
            self._address.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close their sockets in the loop's next turn
        if self._failures and error is None:
            raise RuntimeError("the proxy itself failed") from self._failures[0]

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 on which clients are served."""
        assert self._address is not None, "the proxy is entered with 'async with'"
        port: int = self._address.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where clients connect: the upstream's url, database, user and query kept, with the proxy's address."""
        user, at, _ = self._upstream.netloc.rpartition("@")
        path = "" if self._upstream.scheme == "unix" else self._upstream.path
        query = f"?{self._upstream.query}" if self._upstream.query else ""
        return f"redis://{user}{at}127.0.0.1:{self.port}{path}{query}"

    # -- counters

    @property
    def connections_open(self) -> int:
        """Client connections that are open now."""
        return sum(not connection.client_gone for connection in self._connections)

    async def until(self, holds: Callable[[FaultyProxy], bool], within: float = PATIENCE) -> None:
        """Return once ``holds(proxy)``, e.g. ``lambda p: p.connections_open == 0``; TimeoutError after ``within`` s."""
        deadline = asyncio.get_running_loop().time() + within
        while not holds(self):
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"not within {within:g} s: {self!r}")
            await asyncio.sleep(0.002)

    def __repr__(self) -> str:
        return (
            f"<FaultyProxy {self.connections_open} of {self.connections_opened} connections open, "
            f"{self.requests_seen} requests, {self.replies_seen} replies, {self.pushes_seen} pushes>"
        )

    # -- faults

    def drop_next_reply(self, match: Match | None = None, times: int = 1) -> Fault:
        """Let the server run the next request that contains ``match``, swallow its reply, reset the client.

        Replies to earlier requests of the same connection still reach the client.
        """
        self.dropped.clear()
        return _arm(self._drop_replies, match, times)

    def refuse_next(self, says: str, match: Match | None = None, times: int = 1, *, does: bool = False) -> Fault:
        """Answer the next request that contains ``match`` with the error ``says``, as something before the server may.

        The server never sees it; or it does, and what it answers is lost (``does``).
        """
        fault = _arm(self._drop_replies, match, times)
        fault.says, fault.does = b"-%b\r\n" % says.encode(), does
        return fault

    def drop_next_request(self, match: Match | None = None, times: int = 1) -> Fault:
        """Swallow the next request that contains ``match`` and reset the client; the server never sees it.

        Earlier requests of the same connection still reach the server, later ones do not.
        """
        self.dropped.clear()
        return _arm(self._drop_requests, match, times)

    def drop_pushes(self, match: Match | None = None, times: float = float("inf")) -> Fault:
        """Swallow published messages on their way to subscribers, silently, until disarmed or ``heal()``."""
        return _arm(self._drop_pushes, match, times)

    def hold_requests(self, match: Match | None = None, times: int = 1) -> Fault:
        """Park the next request that contains ``match``, and all that its connection sends behind it.

        It stays on its way when the client closes the connection or is cut off: ``let_go()`` delivers it then, a
        delayed duplicate of what the client has long sent again.
        """
        self.held.clear()
        return _arm(self._holds, match, times)

    async def let_go(self, within: float = PATIENCE) -> int:
        """Deliver all that is parked; return, when the server has answered it, how many requests that were.

        Holds that have not happened yet are disarmed. TimeoutError when the server does not answer.
        """
        for fault in self._holds:
            fault.disarm()
        self.held.clear()
        released = [connection for connection in self._connections if connection.requests.stalled]
        count = sum(connection.requests.waiting for connection in released)
        for connection in released:
            connection.requests.stall(False)
        await asyncio.wait_for(asyncio.gather(*(connection.until_answered() for connection in released)), within)
        return count

    def blackhole(self, direction: Direction = "both") -> None:
        """From now on bytes go nowhere, and neither side learns that the other one closed. Connections stay open.

        ``"requests"`` loses what clients send, ``"replies"`` what the server sends.
        """
        for way in _ways(direction):
            self._open[way].clear()

    def forget_listeners(self, direction: Direction = "both") -> int:
        """Nothing passes any more on the connections that have subscribed until now, and neither side learns that the
        other one closed: a firewall has forgotten them. New ones work. Returns how many those are.
        """
        forgotten = [connection for connection in self._connections if connection.subscribed]
        for connection in forgotten:
            connection.forgotten = _ways(direction)
        return len(forgotten)

    def heal(self) -> None:
        """End blackhole, delay and refusal and disarm what was armed to drop; what is held stays held.

        Connections that lost bytes in the blackhole are reset: what came after the gap could not be understood.
        """
        for way in ("requests", "replies"):
            self._open[way].set()
        self.delay(0)
        for fault in (*self._drop_requests, *self._drop_replies, *self._drop_pushes):
            fault.disarm()
        for connection in self._connections:
            if connection.lossy:
                connection.cut_client()
        self.accept()

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Deliver what arrives from now on ``seconds`` later, in order, without slowing down what follows it."""
        for way in _ways(direction):
            self._delays[way] = seconds

    def cut_all(self) -> None:
        """Reset all connections of now, both sides; requests that are held stay on their way."""
        for connection in self._connections:
            connection.cut_client()
            if not connection.requests.stalled:
                connection.cut_server()

    def refuse(self) -> None:
        """Refuse new connections, as a port on which nobody listens; open ones stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def accept(self) -> None:
        """Accept new connections again."""
        if self._listener is None:
            self._listener = _bound_socket(self.port)
            self._listener.listen(512)
            asyncio.get_running_loop().add_reader(self._listener, self._accept_waiting)

    # -- how

    def _accept_waiting(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client thought better of it
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections_opened += 1
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failures.append(failure)

    async def _serve(self, client: socket.socket) -> None:
        to_client = await asyncio.open_connection(sock=client)
        try:
            to_server = await self._connect_upstream()
        except OSError:
            self.connections_refused += 1
            _reset(to_client[1])
            return
        except asyncio.CancelledError:
            _reset(to_client[1])
            raise
        connection = _Connection(self, to_client, to_server)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _connect_upstream(self) -> _Streams:
        if self._upstream.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(self._upstream.path))
        return await asyncio.open_connection(self._upstream.hostname or "127.0.0.1", self._upstream.port or 6379)

    def _delay_of(self, way: OneWay) -> float:
        return self._delays[way]

    def _way(self, way: OneWay) -> asyncio.Event:
        return self._open[way]

    def _forwarded(self, way: OneWay, count: int) -> None:
        self.bytes_forwarded[way] += count

    def _drops_request(self, frame: bytes) -> bool:
        return self._drops(self._drop_requests, frame)

    def _drops_push(self, frame: bytes) -> bool:
        return self._drops(self._drop_pushes, frame)

    def _drops(self, faults: list[Fault], frame: bytes) -> bool:
        fault = _first_that_takes(faults, frame)
        if fault is None:
            return False
        self._record_drop(fault)
        return True

    def _record_drop(self, fault: Fault) -> None:
        fault.record()
        self.dropped.set()

    def _holds_request(self, frame: bytes) -> Fault | None:
        return _first_that_takes(self._holds, frame)

    def _record_hold(self, fault: Fault) -> None:
        fault.record()
        self.held.set()

    def _eats_reply_to(self, frame: bytes) -> Fault | None:
        return _first_that_takes(self._drop_replies, frame)


class _Connection:
    """A client, the connection to the server that is its own, and what passes between them."""

    def __init__(self, proxy: FaultyProxy, client: _Streams, server: _Streams) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self.requests = _Pipe(proxy, "requests", self._to_server)
        self.replies = _Pipe(proxy, "replies", self._to_client)
        # One entry for every request that the server has yet to answer: the fault that shall eat the reply, or None.
        self._unanswered: deque[Fault | None] = deque()
        self.subscribed = False
        self.forgotten: tuple[OneWay, ...] = ()
        self._client_ended = asyncio.Event()
        self._was_held = False
        self._all_answered = asyncio.Event()
        self.client_gone = False
        self.lossy = False

    async def run(self) -> None:
        """Until the server's side has ended, by itself or because the client's has."""
        helpers = [
            asyncio.ensure_future(work) for work in (self._client_side(), self.requests.run(), self.replies.run())
        ]
        try:
            await self._server_side()
        finally:
            self.client_gone = True
            self._unanswered.clear()
            self._all_answered.set()
            self._to_client.close()
            self._to_server.close()
            for helper in helpers:
                helper.cancel()
            outcomes = await asyncio.gather(*helpers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def cut_client(self) -> None:
        self.client_gone = True
        _reset(self._to_client)

    def cut_server(self) -> None:
        _reset(self._to_server)

    async def until_answered(self) -> None:
        if self._unanswered:
            self._all_answered.clear()
            await self._all_answered.wait()

    async def _client_side(self) -> None:
        frames = Frames()
        while not self.client_gone and (data := await _read(self._from_client)):
            for frame in frames.feed(data):
                self._take_request(frame)
                if self.client_gone:
                    break
        self.client_gone = True
        self._client_ended.set()
        if self.forgotten:
            return
        await self._proxy._way("requests").wait()
        await self.requests.finish()
        if self._was_held:
            await self.until_answered()
        if self._to_server.can_write_eof() and not self._to_server.is_closing():
            self._to_server.write_eof()

    def _take_request(self, frame: bytes) -> None:
        proxy = self._proxy
        proxy.requests_seen += 1
        if "requests" in self.forgotten:
            return
        if proxy._drops_request(frame):
            self.cut_client()
            return
        if not proxy._way("requests").is_set():
            self.lossy = True
            return
        hold = proxy._holds_request(frame)
        if hold is not None:
            self._was_held = True
            self.requests.stall(True)
        if head(frame) in CONFIRMATIONS:
            self.subscribed = True  # confirmed by pushes, not by a reply
        else:
            eats = proxy._eats_reply_to(frame)
            self._unanswered.append(eats)
            if eats is not None and not eats.does:
                frame = b"*1\r\n$4\r\nPING\r\n"  # so that the refusal comes in its turn
        self.requests.push(frame)
        if hold is not None:
            proxy._record_hold(hold)

    async def _server_side(self) -> None:
        frames = Frames()
        while data := await _read(self._from_server):
            for frame in frames.feed(data):
                self._take_from_server(frame)
        if self.forgotten:
            await self._client_ended.wait()
        await self._proxy._way("replies").wait()
        await self.replies.finish()

    def _take_from_server(self, frame: bytes) -> None:
        proxy = self._proxy
        if "replies" in self.forgotten:
            return
        eaten: Fault | None = None
        if is_push(frame, self.subscribed):
            proxy.pushes_seen += 1
            if head(frame) in MESSAGES and proxy._drops_push(frame):
                return
        else:
            proxy.replies_seen += 1
            eaten = self._unanswered.popleft() if self._unanswered else None
            if not self._unanswered:
                self._all_answered.set()
        if eaten is not None:
            self._eat(eaten)
        elif not proxy._way("replies").is_set():
            self.lossy = True
        elif not self.client_gone:
            self.replies.push(frame)

    def _eat(self, fault: Fault) -> None:
        """Cut the client off where the reply would have come, behind the replies that are still on their way to it; or
        tell it something else.
        """
        if fault.says:
            self.replies.push(fault.says)
            fault.record()
            return

        def cut() -> None:
            self.cut_client()
            self._proxy._record_drop(fault)

        self.replies.push(cut)


class _Pipe:
    """One direction of one connection: delivers in order, each thing not before its time, or parks it all."""

    def __init__(self, proxy: FaultyProxy, way: OneWay, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._way: OneWay = way
        self._writer = writer
        self._things: deque[tuple[float, bytes | Callable[[], None]]] = deque()
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()
        self._finishing = False
        self.stalled = False

    def push(self, thing: bytes | Callable[[], None]) -> None:
        """Bytes to write, or something to do when their turn would come."""
        self._things.append((asyncio.get_running_loop().time() + self._proxy._delay_of(self._way), thing))
        self._changed.set()

    def stall(self, stalled: bool) -> None:
        self.stalled = stalled
        self._changed.set()

    @property
    def waiting(self) -> int:
        return len(self._things)

    async def finish(self) -> None:
        """Return when all has been delivered."""
        self._finishing = True
        self._changed.set()
        await self._finished.wait()

    async def run(self) -> None:
        try:
            while not (self._finishing and not self._things):
                await self._step()
        finally:
            self._finished.set()

    async def _step(self) -> None:
        if self.stalled or not self._things:
            self._changed.clear()
            await self._changed.wait()
            return
        due, thing = self._things[0]
        early = due - asyncio.get_running_loop().time()
        if early > 0:
            await asyncio.sleep(early)
            return
        self._things.popleft()
        if not isinstance(thing, bytes):
            thing()
        elif not self._writer.is_closing():
            await self._write(thing)

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        self._proxy._forwarded(self._way, len(data))
        try:
            await self._writer.drain()
        except OSError:
            self._writer.close()  # the other end is gone: its reader notices, what is left here has no addressee


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except OSError:
        return b""  # a reset ends the stream as its end does


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.family != socket.AF_UNIX:
        # Lingering for zero seconds makes the kernel send a RST instead of a FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setblocking(False)
    bound.bind(("127.0.0.1", port))
    return bound


def _arm(faults: list[Fault], match: Match | None, times: float) -> Fault:
    fault = Fault(match, times)
    faults.append(fault)
    return fault


def _first_that_takes(faults: list[Fault], frame: bytes) -> Fault | None:
    return next((fault for fault in faults if fault.takes(frame)), None)


def _ways(direction: Direction) -> tuple[OneWay, ...]:
    return ("requests", "replies") if direction == "both" else (direction,)
