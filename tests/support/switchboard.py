"""Cuts a network on loopback in two, without root: all connections to servers go through its doors.

Who is at the other end of a connection is known by its process, as the kernel tells (/proc), so the same door can be
shut for some and open for others. It runs in a thread of its own, so that a blocked test does not stop the traffic.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Door", "Switchboard"]

T = TypeVar("T")
CHUNK = 65536


class Door:
    """A port of 127.0.0.1 through which the server ``name`` is reached."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.target = 0

    def leads_to(self, port: int) -> None:
        self.target = port


class Switchboard:
    """``part`` and ``heal`` take effect before they return; what was on its way arrives after ``heal``."""

    def __init__(self) -> None:
        self._doors: list[Door] = []
        self._passages: set[_Passage] = set()
        self._island: tuple[frozenset[str], frozenset[int]] | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="switchboard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def door(self, name: str) -> Door:
        """A new one to the server of that name, which may have several. It leads nowhere until it is told where."""
        door = Door(name)
        self._doors.append(door)
        self._do(lambda: self._loop.add_reader(door.listener, self._accept, door))
        return door

    def doors_of(self, name: str) -> list[Door]:
        return [door for door in self._doors if door.name == name]

    def part(self, servers: Mapping[str, int], clients: Iterable[int] = ()) -> None:
        """Nothing passes any more between these servers (by name and process id) with these clients, and the rest."""
        island = frozenset(servers), frozenset((*servers.values(), *clients))
        self._do(lambda: self._set(island))

    def heal(self) -> None:
        self._do(lambda: self._set(None))

    # --- in its thread

    def _do(self, action: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(action())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result()

    def _set(self, island: tuple[frozenset[str], frozenset[int]] | None) -> None:
        self._island = island
        sockets = _sockets_of(island[1]) if island is not None else frozenset()
        for passage in self._passages:
            self._judge(passage, sockets)

    def _judge(self, passage: _Passage, island_sockets: frozenset[int]) -> None:
        crosses = self._island is not None and (passage.source in island_sockets) != (passage.name in self._island[0])
        if crosses:
            passage.open.clear()
        else:
            passage.open.set()

    def _accept(self, door: Door) -> None:
        try:
            caller, address = door.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        caller.setblocking(False)
        passage = _Passage(door.name, _socket_number(address[1], door.port))
        # Who is there is looked up only while it matters: it means to read through /proc.
        self._judge(passage, _sockets_of(self._island[1]) if self._island is not None else frozenset())
        self._passages.add(passage)
        task = self._loop.create_task(self._serve(passage, caller, door.target))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            self._passages.discard(passage)
            caller.close()  # a task that was cancelled before it began has closed nothing

        task.add_done_callback(ended)

    async def _serve(self, passage: _Passage, caller: socket.socket, target: int) -> None:
        with caller, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as onward:
            onward.setblocking(False)
            for end in (caller, onward):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await passage.open.wait()
                await self._loop.sock_connect(onward, ("127.0.0.1", target))
            except OSError:
                return  # closing the caller's end tells it
            await asyncio.gather(self._pump(passage, caller, onward), self._pump(passage, onward, caller))

    async def _pump(self, passage: _Passage, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := await self._loop.sock_recv(source, CHUNK):
                await passage.open.wait()
                await self._loop.sock_sendall(sink, data)
        except OSError:
            pass  # a reset ends it as an end does
        await passage.open.wait()
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            try:
                end.shutdown(how)
            except OSError:
                pass  # it is gone altogether

    async def _close(self) -> None:
        for door in self._doors:
            self._loop.remove_reader(door.listener)
            door.listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Passage:
    """One connection: to the server ``name``, from the process that owns the socket of number ``source``."""

    def __init__(self, name: str, source: int) -> None:
        self.name = name
        self.source = source
        self.open = asyncio.Event()


def _socket_number(local_port: int, remote_port: int) -> int:
    """The kernel's number of the caller's end; 0 when it is gone already."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1][-4:], 16) == local_port and int(fields[2][-4:], 16) == remote_port:
            return int(fields[9])
    return 0


def _sockets_of(pids: Iterable[int]) -> frozenset[int]:
    found: set[int] = set()
    for pid in pids:
        for entry in _open_files(pid):
            if entry.startswith("socket:["):
                found.add(int(entry[8:-1]))
    return frozenset(found)


def _open_files(pid: int) -> list[str]:
    files = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                files.append(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                continue  # closed since
    except OSError:
        return []  # the process has ended
    return files
