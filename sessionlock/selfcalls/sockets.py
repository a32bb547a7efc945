"""Whose socket the other end of a TCP connection is, as Linux tells in ``/proc``.

Yes is certain. Where it cannot be told (another system, another user's process, a proxy between), the answer is no;
nothing is raised. It reads the kernel's tables, which takes milliseconds: for a thread, not for an event loop.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

__all__ = [
    "Client",
    "Look",
    "Peer",
    "client_of",
    "client_of_environ",
    "client_of_scope",
    "client_of_transport",
    "is_on_this_host",
    "peer_of",
]

Peer = tuple[str, int]  # address and port
Client = Callable[[], "Peer | None"]  # who sent a request; asked only if somebody wants to know
_A_SOCKET = re.compile(r"socket:\[(\d+)\]")
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
MAPPED = b"%08X%08X%08X" % struct.unpack("=3I", IPv6Address("::ffff:0:0").packed[:12])  # begins an IPv4 address in IPv6


def peer_of(address: object, port: object) -> Peer | None:
    """What a server says of its client as a peer; None for what is no TCP connection's end (port 0, a unix socket)."""
    if not isinstance(address, str) or not isinstance(port, (str, int)):
        return None
    try:
        number = int(port)
    except ValueError:
        return None
    return (address, number) if 0 < number < 65536 else None


def client_of(request: Any) -> Peer | None:
    """The client that sent a request of any framework (ASGI, WSGI, aiohttp), if its server tells."""
    scope = getattr(request, "scope", None)
    if isinstance(scope, Mapping):
        return client_of_scope(scope)
    environ = getattr(request, "META", None) or getattr(request, "environ", None)
    return client_of_environ(environ) if isinstance(environ, Mapping) else client_of_transport(request)


def client_of_scope(scope: Mapping[str, Any]) -> Peer | None:
    """As an ASGI server tells it."""
    return _first_two(scope.get("client"))


def client_of_environ(environ: Mapping[str, Any]) -> Peer | None:
    """As a WSGI server tells it."""
    return peer_of(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"))


def client_of_transport(request: Any) -> Peer | None:
    """As asyncio tells a server that leaves its ``transport`` with each request."""
    transport = getattr(request, "transport", None)
    return None if transport is None else _first_two(transport.get_extra_info("peername"))


def _first_two(told: object) -> Peer | None:
    """An IPv6 client is told with two more."""
    return peer_of(*told[:2]) if isinstance(told, (tuple, list)) and len(told) >= 2 else None


def is_on_this_host(peer: Peer) -> bool:
    """Whether the address is this host's own. Costs two system calls."""
    with suppress(ValueError, OSError):
        address = _plain(peer[0])
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))  # only an own one can be bound
        return True
    return False


class Look:
    """What the kernel says now: each of its tables is read when it is first needed, for all that is asked."""

    def __init__(self) -> None:
        self._tables: dict[str, bytes] = {}
        self._sockets: dict[int, frozenset[int]] = {}

    def is_of_process(self, peer: Peer, pid: int) -> bool:
        """Whether this very process has a connection whose other end, ``peer``, is a socket of the process ``pid``."""
        with suppress(ValueError, OSError):
            for ours, theirs in self._connections(peer):
                if ours in self._open_in(os.getpid()):
                    return theirs in self._open_in(pid)
        return False

    def _connections(self, peer: Peer) -> Iterator[tuple[int, int]]:
        """The connections within this host one end of which is ``peer``: inode of the other end, inode of that end.

        Which of several it is, is told by who has the other end: a port may be in use towards several others at once.
        """
        wanted = _as_listed(peer)
        at_peer: dict[bytes, int] = {}
        others: dict[bytes, int] = {}
        for table in TABLES:
            # A socket for IPv6 may be at either end of a connection by IPv4, so the second table may be needed, too.
            if table not in self._tables:
                self._tables[table] = Path(table).read_bytes()
            for local, remote, inode in _rows(self._tables[table], wanted):
                if local == wanted:
                    at_peer[remote] = inode
                elif remote == wanted:
                    others[local] = inode
            found = at_peer.keys() & others.keys()
            yield from ((others.pop(end), at_peer.pop(end)) for end in found)

    def _open_in(self, pid: int) -> frozenset[int]:
        """The sockets that process has open, by their inodes."""
        if pid not in self._sockets:
            self._sockets[pid] = frozenset(_sockets_of(pid))
        return self._sockets[pid]


def _plain(address: str) -> IPv4Address | IPv6Address:
    found = ip_address(address.partition("%")[0])  # without the interface of a link-local one
    return getattr(found, "ipv4_mapped", None) or found


def _rows(table: bytes, wanted: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Local end, remote end and inode of the sockets that have ``wanted`` at either end."""
    at = table.find(wanted)
    while at >= 0:
        end = table.find(b"\n", at)
        _, local, remote, *rest = table[table.rfind(b"\n", 0, at) + 1 : end].split()
        inode = int(rest[6])
        if inode:  # a connection that is closed already has none
            yield local.removeprefix(MAPPED), remote.removeprefix(MAPPED), inode
        at = table.find(wanted, end)


def _as_listed(peer: Peer) -> bytes:
    """As the tables have it: each 32 bits of the address as a number of this machine."""
    packed = _plain(peer[0]).packed
    numbers = struct.unpack(f"={len(packed) // 4}I", packed)
    return b"".join(b"%08X" % number for number in numbers) + b":%04X" % peer[1]


def _sockets_of(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            if match := _A_SOCKET.fullmatch(os.readlink(f"{folder}/{number}")):
                yield int(match[1])
