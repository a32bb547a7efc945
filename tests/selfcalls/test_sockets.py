"""Whose socket is at the other end, told by the kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from sessionlock.selfcalls import sockets as peers
from sessionlock.selfcalls.sockets import Look, Peer, client_of, is_on_this_host, peer_of

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells this, in /proc")

ME = os.getpid()
CONNECTS = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); sys.stdin.read()"
# Connects from a port to the server it is told, and tells where else one can connect to.
BOTH_WAYS = """
import socket, sys
server, client = socket.create_server(("127.0.0.1", 0)), socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("127.0.0.1", 0))
client.connect(("127.0.0.1", int(sys.argv[1])))
print(server.getsockname()[1], client.getsockname()[1], flush=True)
other, _ = server.accept()
print("accepted", flush=True)
sys.stdin.read()
"""


def is_of_process(peer: Peer, pid: int) -> bool:
    return Look().is_of_process(peer, pid)


def listener(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    dual = family is socket.AF_INET6 and address == "::"
    return socket.create_server((address, 0), family=family, dualstack_ipv6=dual)


@pytest.fixture(params=[("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.2")])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """A server's socket, and the address by which clients come to it."""
    bound, called = request.param
    try:
        server = listener(bound)
    except OSError as why:
        pytest.skip(f"this host has no {bound}: {why}")
    with server:
        yield server, called


def accepted(server: socket.socket, stack: ExitStack) -> Peer:
    connection, name = server.accept()
    stack.enter_context(connection)
    peer = peer_of(*name[:2])
    assert peer is not None
    return peer


def test_an_own_socket(ends: tuple[socket.socket, str]) -> None:
    server, address = ends
    with ExitStack() as stack, socket.create_connection((address, server.getsockname()[1])) as client:
        peer = accepted(server, stack)
        assert is_on_this_host(peer)
        assert is_of_process(peer, ME)
        assert not is_of_process(peer, os.getppid())
        client.close()
        assert not is_of_process(peer, ME)


def test_a_socket_of_another_process(ends: tuple[socket.socket, str]) -> None:
    server, address = ends
    command = [sys.executable, "-c", CONNECTS, address, str(server.getsockname()[1])]
    with ExitStack() as stack, subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        peer = accepted(server, stack)
        assert is_on_this_host(peer)
        assert is_of_process(peer, other.pid)
        assert not is_of_process(peer, ME)
        other.communicate()
    assert not is_of_process(peer, other.pid)  # there is no such process any more


def test_a_port_that_is_in_use_towards_two_servers() -> None:
    """Another process is our client, and we are its: both from the same port, which the kernel allows."""
    with ExitStack() as stack:
        server = stack.enter_context(listener("127.0.0.1"))
        command = [sys.executable, "-c", BOTH_WAYS, str(server.getsockname()[1])]
        other = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stack.callback(other.kill)
        assert other.stdout is not None
        peer = accepted(server, stack)
        its_server, port = map(int, other.stdout.readline().split())
        assert peer == ("127.0.0.1", port)
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(peer)
        client.connect(("127.0.0.1", its_server))
        assert other.stdout.readline() == "accepted\n"
        assert is_of_process(peer, other.pid)
        assert not is_of_process(peer, ME)


def test_a_proxy_between() -> None:
    """What a proxy says of a client behind it, names no connection of this process."""
    with ExitStack() as stack:
        elsewhere, server = (stack.enter_context(listener("127.0.0.1")) for _ in range(2))
        client = stack.enter_context(socket.create_connection(elsewhere.getsockname()))
        stack.enter_context(socket.create_connection(server.getsockname()))
        accepted(server, stack)
        assert not is_of_process(client.getsockname(), ME)  # nobody has accepted it here


def test_addresses_of_others() -> None:
    for address in ("192.0.2.1", "2001:db8::1", "testclient", "", "fe80::1%nowhere"):
        assert not is_on_this_host((address, 80)), address
    assert is_on_this_host(("127.0.0.1", 80))
    assert is_on_this_host(("::ffff:127.0.0.1", 80))


@pytest.mark.parametrize(
    ("address", "port", "peer"),
    [
        ("127.0.0.1", 5, ("127.0.0.1", 5)),
        ("127.0.0.1", "5", ("127.0.0.1", 5)),  # as WSGI has it
        ("203.0.113.9", 0, None),  # from a proxy's header
        ("127.0.0.1", 65536, None),
        ("127.0.0.1", "", None),
        ("127.0.0.1", None, None),
        ("/run/app.sock", None, None),
        (None, None, None),
        (b"", 5, None),
    ],
)
def test_what_servers_tell(address: object, port: object, peer: Peer | None) -> None:
    assert peer_of(address, port) == peer


class Transport:
    """As asyncio has it: an IPv6 client is told with two more numbers."""

    def __init__(self, name: object) -> None:
        self._name = name

    def get_extra_info(self, name: str) -> object:
        assert name == "peername"
        return self._name


@pytest.mark.parametrize(
    ("request_", "peer"),
    [
        (SimpleNamespace(scope={"client": ("127.0.0.1", 5)}), ("127.0.0.1", 5)),
        (SimpleNamespace(scope={"client": ["::1", 5]}), ("::1", 5)),
        (SimpleNamespace(scope={"client": None}), None),  # a unix socket
        (SimpleNamespace(scope={}, META={"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": 5}), None),
        (SimpleNamespace(META={"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "5"}), ("127.0.0.1", 5)),
        (SimpleNamespace(META={"REMOTE_ADDR": "127.0.0.1"}), None),  # a server that does not tell the port
        (SimpleNamespace(environ={"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "5"}), ("127.0.0.1", 5)),
        (SimpleNamespace(transport=Transport(("::1", 5, 0, 0))), ("::1", 5)),
        (SimpleNamespace(transport=Transport("")), None),
        (SimpleNamespace(transport=Transport(None)), None),
        (SimpleNamespace(transport=None), None),  # it has gone
        (SimpleNamespace(), None),
    ],
)
def test_who_sent_a_request(request_: object, peer: Peer | None) -> None:
    assert client_of(request_) == peer


@pytest.mark.parametrize("what", [FileNotFoundError, PermissionError, ProcessLookupError, ValueError])
def test_where_it_is_not_told(what: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system, another user's process, one that ended: not known, and no error."""

    def refuse(*_: object) -> list[str]:
        raise what

    with ExitStack() as stack, listener("127.0.0.1") as server:
        stack.enter_context(socket.create_connection(server.getsockname()))
        peer = accepted(server, stack)
        assert is_of_process(peer, ME)
        monkeypatch.setattr(os, "listdir", refuse)
        assert not is_of_process(peer, ME)
        monkeypatch.undo()
        monkeypatch.setattr(peers, "TABLES", ("/nowhere/tcp",))
        assert not is_of_process(peer, ME)
    assert not is_of_process(("no address", 1), ME)
