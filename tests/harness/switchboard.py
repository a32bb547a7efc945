"""Cuts a network on loopback in two, without root: all connections to servers go through its doors.

Who is at the other end of a connection is known by its process, as the kernel tells (/proc), so the same door can be
shut for some and open for others. It is a process of its own: the traffic waits neither for a blocked test nor, at
every packet, for the interpreter that a busy test holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Door", "Switchboard"]

FIRST_SERVED = -10  # nice: it has little to do, and everybody waits for it


# --- the test's side --------------------------------------------------------------------------------------------------


class Door:
    """A port of 127.0.0.1 through which the server ``name`` is reached."""

    def __init__(self, board: Switchboard, name: str) -> None:
        self.name = name
        self._board = board
        self.port: int = board._tell(do="door", name=name)

    def leads_to(self, port: int) -> None:
        self._board._tell(do="lead", door=self.port, to=port)


class Switchboard:
    """``part`` and ``heal`` take effect before they return; what was on its way arrives after ``heal``."""

    def __init__(self) -> None:
        self._doors: list[Door] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.communicate()  # its input ends, and so does it
        if kind is None:
            assert process.returncode == 0, "the switchboard failed"

    def door(self, name: str) -> Door:
        """A new one to the server of that name, which may have several. It leads nowhere until it is told where."""
        door = Door(self, name)
        self._doors.append(door)
        return door

    def doors_of(self, name: str) -> list[Door]:
        return [door for door in self._doors if door.name == name]

    def part(self, servers: Mapping[str, int], clients: Iterable[int] = ()) -> None:
        """Nothing passes any more between these servers (by name and process id) with these clients, and the rest."""
        self._tell(do="part", names=list(servers), pids=[*servers.values(), *clients])

    def heal(self) -> None:
        self._tell(do="heal")

    def _tell(self, **order: Any) -> Any:
        assert self._process is not None, "it does not run"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the switchboard has died"
        return json.loads(answer)


# --- the process' side ------------------------------------------------------------------------------------------------


class Board:
    def __init__(self) -> None:
        self._targets: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._passages: set[Passage] = set()
        self._island: tuple[frozenset[str], frozenset[int]] | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def obey(self, order: dict[str, Any]) -> Any:
        if order["do"] == "door":
            return self._open_door(order["name"])
        if order["do"] == "lead":
            self._targets[order["door"]] = order["to"]
        else:
            self._set((frozenset(order["names"]), frozenset(order["pids"])) if order["do"] == "part" else None)
        return None

    def _open_door(self, name: str) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        listener.setblocking(False)
        port: int = listener.getsockname()[1]
        self._names[port] = name
        self._loop.add_reader(listener, self._accept, listener, port)
        return port

    def _set(self, island: tuple[frozenset[str], frozenset[int]] | None) -> None:
        self._island = island
        sockets = _sockets_of(island[1]) if island is not None else frozenset()
        for passage in self._passages:
            passage.set(self._crosses(passage, sockets))

    def _crosses(self, passage: Passage, island_sockets: frozenset[int]) -> bool:
        """Whether it leads from one part to the other."""
        return self._island is not None and (passage.source in island_sockets) != (passage.name in self._island[0])

    def _accept(self, listener: socket.socket, port: int) -> None:
        try:
            caller, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        caller.setblocking(False)
        passage = Passage(self._names[port], _socket_number(address[1], port), self._passages.discard)
        # Who is there is looked up only while it matters: it means to read through /proc.
        passage.set(self._crosses(passage, _sockets_of(self._island[1]) if self._island is not None else frozenset()))
        self._passages.add(passage)
        task = self._loop.create_task(passage.serve(caller, self._targets.get(port, 0)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Passage:
    """One connection: to the server ``name``, from the process that owns the socket of number ``source``."""

    def __init__(self, name: str, source: int, on_end: Any) -> None:
        self.name = name
        self.source = source
        self.open = True
        self._may_begin = asyncio.Event()
        self._ends: tuple[End, ...] = ()
        self._on_end = on_end

    def set(self, shut: bool) -> None:
        self.open = not shut
        if shut:
            self._may_begin.clear()
        else:
            self._may_begin.set()
        for end in self._ends:
            end.go_on()

    async def serve(self, caller: socket.socket, target: int) -> None:
        loop = asyncio.get_running_loop()
        await self._may_begin.wait()
        near, far = End(self), End(self)
        near.other, far.other = far, near
        try:
            await loop.create_connection(lambda: far, "127.0.0.1", target)
        except OSError:
            caller.close()  # which tells it
            self.ended()
            return
        await loop.connect_accepted_socket(lambda: near, caller)
        self._ends = near, far
        for end in self._ends:
            end.go_on()

    def ended(self) -> None:
        self._on_end(self)


class End(asyncio.Protocol):
    """What comes in here goes out at the other end, unless the passage is shut: then it waits."""

    other: End

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] = []
        self._eof = False
        self._lost = False
        self._other_is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._held.append(data)
        self.go_on()

    def eof_received(self) -> bool:
        self._eof = True
        self.go_on()
        return True  # the other direction may go on

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self.go_on()
        self._passage.ended()

    def pause_writing(self) -> None:
        self.other._other_is_full = True
        self.other.go_on()

    def resume_writing(self) -> None:
        self.other._other_is_full = False
        self.other.go_on()

    def go_on(self) -> None:
        """Pass on what may pass."""
        there = self.other._transport
        if self._transport is None or there is None:
            return
        if not self._passage.open:
            self._transport.pause_reading()
            return
        for data in self._held:
            there.write(data)
        self._held.clear()
        if self._lost:
            there.close()
        elif self._eof:
            if not there.is_closing():
                there.write_eof()
            if self.other._eof and self.other._transport is not None and not self.other._held:
                self._transport.close()
                there.close()
        elif self._other_is_full:
            self._transport.pause_reading()
        elif not self._transport.is_closing():
            self._transport.resume_reading()


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


async def main() -> None:
    """Obey each line of standard input, to its end."""
    try:
        os.nice(FIRST_SERVED)
    except PermissionError:
        pass  # only root may
    board = Board()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(board.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
