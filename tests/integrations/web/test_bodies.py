"""Bodies that are received ahead."""

from __future__ import annotations

import io
import os

import pytest

from sessionlock.integrations.web.bodies import Spool

BODY = b"".join(b"line %d\n" % number for number in range(20_000))


class Client:
    """Sends ``body`` in small pieces; ``breaks_at``: bytes after which it is gone."""

    def __init__(self, body: bytes, breaks_at: int | None = None) -> None:
        self._body = io.BytesIO(body)
        self._breaks_at = breaks_at
        self.sent = 0

    def read(self, size: int, /) -> bytes:
        if self._breaks_at is not None and self.sent >= self._breaks_at:
            raise ConnectionResetError("gone")
        piece = self._body.read(min(size, 1000))
        self.sent += len(piece)
        return piece


@pytest.mark.parametrize("memory", [10, 10_000_000], ids=["on disk", "in memory"])
def test_it_is_received_and_can_be_read_again(memory: int) -> None:
    client = Client(BODY)
    spool = Spool(client, memory=memory)
    spool.receive()
    assert (client.sent, spool.size, spool.complete) == (len(BODY), len(BODY), True)
    with spool.reader() as first:
        assert first.read() == BODY
    second, third = spool.reader(), spool.reader()
    assert second.readline() == b"line 0\n"
    assert third.read(4) == b"line"
    assert second.readline() == b"line 1\n"
    assert list(third)[1] == b"line 1\n"
    assert (third.read(), third.seek(0, os.SEEK_END), third.seek(0), third.tell()) == (b"", len(BODY), 0, 0)
    assert third.read() == BODY
    spool.close()


@pytest.mark.parametrize("limit", [0, 1, 999, 64 * 1024, len(BODY) - 1])
def test_beyond_the_limit_it_is_read_from_the_client(limit: int) -> None:
    client = Client(BODY)
    spool = Spool(client, limit=limit)
    spool.receive()
    assert (client.sent, spool.complete) == (limit, False)
    reader = spool.reader()
    assert not reader.seekable()
    with pytest.raises(io.UnsupportedOperation):
        reader.seek(0)
    assert reader.read() == BODY
    spool.close()


def test_a_client_that_leaves_is_found_where_the_handler_reads_so_far() -> None:
    spool = Spool(Client(BODY, breaks_at=2000))
    spool.receive()
    assert not spool.complete
    reader = spool.reader()
    assert reader.read(1500) == BODY[:1500]
    with pytest.raises(ConnectionResetError):
        reader.read()
    spool.close()


def test_a_body_that_the_server_received() -> None:
    file = io.BytesIO(BODY)
    spool = Spool.received(file)
    for _ in range(2):
        with spool.reader() as reader:
            assert reader.read() == BODY
    spool.close()
    assert not file.closed


def test_an_empty_body() -> None:
    spool = Spool(Client(b""))
    spool.receive()
    assert (spool.complete, spool.reader().read()) == (True, b"")
    spool.close()
