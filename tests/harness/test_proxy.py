"""The fault-injecting proxy does exactly the harm that was asked for, and no other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError, TimeoutError

from sessionlock.embedded import EmbeddedServer
from tests.harness.commands import connect
from tests.harness.proxy import Direction, FaultyProxy
from tests.harness.resp import Frames, head, is_push, value_end

pytestmark = pytest.mark.anyio


def client_of(proxy: FaultyProxy, patience: float = 5.0, protocol: int = 2) -> Redis:
    client: Redis = Redis.from_url(proxy.url, protocol=protocol, retry=None, socket_timeout=patience)
    return client


@pytest.fixture
async def client(proxy: FaultyProxy) -> AsyncIterator[Redis]:
    async with client_of(proxy) as client:
        await client.ping()
        yield client


def stored(url: str, key: str) -> bytes | None:
    """What the server holds, asked without the proxy."""
    with connect(url) as direct:
        value: bytes | None = direct.get(key)
        return value


class TestPassing:
    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_everything_passes_unharmed(self, server: EmbeddedServer, proxy: FaultyProxy, protocol: int) -> None:
        if protocol == 3 and server.version < (6,):
            pytest.skip("RESP3 came with Redis 6")
        big = b"\r\n$-1\r\n" * 200_000
        async with client_of(proxy, protocol=protocol) as client:
            await client.set("big", big)
            assert await client.get("big") == big
            await client.hset("h", mapping={"a": "1", "b": "2"})
            assert await client.hgetall("h") == {b"a": b"1", b"b": b"2"}
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.incr("n")
                pipeline.get("missing")
                assert await pipeline.execute() == [1, None]
            assert proxy.requests_seen == proxy.replies_seen
            assert proxy.bytes_forwarded["requests"] > len(big)
            assert proxy.bytes_forwarded["replies"] > len(big)
        await proxy.until(lambda p: p.connections_open == 0)
        assert proxy.connections_opened == 1

    async def test_a_tcp_upstream(self, server: EmbeddedServer, tcp_url: str) -> None:
        async with FaultyProxy(f"{tcp_url}?socket_timeout=7") as proxy, client_of(proxy) as client:
            assert proxy.url == f"redis://127.0.0.1:{proxy.port}/0?socket_timeout=7"
            assert await client.ping()

    async def test_leaving_closes_all(self, redis_url: str) -> None:
        with connect(redis_url) as direct:
            before = len(direct.client_list())
            async with FaultyProxy(redis_url) as proxy:
                client = client_of(proxy)
                await client.ping()
                assert len(direct.client_list()) == before + 1
            with pytest.raises(ConnectionError):
                await client.ping()
            await client.aclose()
            assert len(direct.client_list()) == before

    async def test_a_dead_server_resets_the_client(self, proxy: FaultyProxy) -> None:
        async with FaultyProxy("unix:///nowhere/s") as nowhere, client_of(nowhere) as client:
            with pytest.raises(ConnectionError):
                await client.ping()
            assert nowhere.connections_refused == 1


class TestDrops:
    async def test_a_dropped_reply_was_executed(self, proxy: FaultyProxy, client: Redis, redis_url: str) -> None:
        fault = proxy.drop_next_reply(b"INCR")
        assert await client.get("n") is None
        with pytest.raises(ConnectionError):
            await client.incr("n")
        await fault.wait()
        assert proxy.dropped.is_set()
        assert fault.count == 1
        assert stored(redis_url, "n") == b"1"
        assert await client.incr("n") == 2, "it happens once"

    async def test_a_dropped_request_was_not(self, proxy: FaultyProxy, client: Redis, redis_url: str) -> None:
        proxy.drop_next_request(b"INCR")
        with pytest.raises(ConnectionError):
            await client.incr("n")
        with anyio.fail_after(5):
            await proxy.dropped.wait()
        assert stored(redis_url, "n") is None
        assert await client.incr("n") == 1

    async def test_any_request_and_several_times(self, proxy: FaultyProxy, client: Redis, redis_url: str) -> None:
        fault = proxy.drop_next_reply(b"PING", times=3)
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await client.ping()
        assert await client.ping()
        assert fault.count == 3
        fault = proxy.drop_next_request()
        fault.disarm()
        assert await client.ping()

    async def test_only_the_reply_that_was_meant(self, proxy: FaultyProxy, redis_url: str) -> None:
        """In one pipeline, what comes before the reply arrives, nothing after it."""
        proxy.drop_next_reply(b"second")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"SET first 1\r\nGET first\r\nSET second 2\r\nSET third 3\r\n")
        received = b""
        with suppress(ConnectionResetError):
            while data := await reader.read(100):
                received += data
        assert received == b"+OK\r\n$1\r\n1\r\n"
        writer.close()
        assert stored(redis_url, "second") == b"2"

    async def test_only_from_the_request_that_was_meant(self, proxy: FaultyProxy, redis_url: str) -> None:
        proxy.drop_next_request(b"second")
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"SET first 1\r\nSET second 2\r\nSET third 3\r\n")
        await proxy.until(lambda p: p.connections_open == 0 and p.replies_seen == 1)
        writer.close()
        assert [stored(redis_url, key) for key in ("first", "second", "third")] == [b"1", None, None]

    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_pushes(self, server: EmbeddedServer, proxy: FaultyProxy, protocol: int, redis_url: str) -> None:
        if protocol == 3 and server.version < (6,):
            pytest.skip("RESP3 came with Redis 6")
        async with client_of(proxy, protocol=protocol) as client, client.pubsub() as listener:
            await listener.subscribe("c", "d")
            assert (await heard(listener), await heard(listener)) == (1, 2)
            fault = proxy.drop_pushes(b"lost")
            with connect(redis_url) as direct:
                assert direct.publish("c", "lost") == 1
                assert direct.publish("c", "kept") == 1
                assert await heard(listener) == b"kept"
                assert fault.count == 1
                proxy.heal()
                direct.publish("d", "lost")
                assert await heard(listener) == b"lost"
            # On a subscribed connection replies are still told from pushes.
            await listener.ping()
            assert await heard(listener) == b""
            assert proxy.requests_seen - proxy.replies_seen == 1, "the SUBSCRIBE"


async def heard(listener: PubSub) -> object:
    """The data of the next thing a subscriber gets."""
    with anyio.fail_after(5):
        async for message in listener.listen():
            return message["data"]
    raise AssertionError("the subscription ended")


class TestHolds:
    async def test_a_delayed_duplicate(self, proxy: FaultyProxy, redis_url: str) -> None:
        """A request is on its way, its client gives up, sends it again, and then the first one arrives."""
        proxy.hold_requests(b"RPUSH")
        async with client_of(proxy, patience=0.3) as client:
            with pytest.raises(TimeoutError):
                await client.rpush("log", "x")
            assert proxy.held.is_set()
            await proxy.until(lambda p: p.connections_open == 0)
            assert await client.rpush("log", "x") == 1
            assert await proxy.let_go() == 1
            assert not proxy.held.is_set()
            assert await client.llen("log") == 2

    async def test_the_client_that_waited_gets_its_reply(self, proxy: FaultyProxy, client: Redis) -> None:
        fault = proxy.hold_requests(b"INCR")
        call = asyncio.ensure_future(client.incr("n"))
        await fault.wait()
        assert not call.done()
        await proxy.let_go()
        assert await call == 1
        assert await client.incr("n") == 2

    async def test_cutting_leaves_what_is_held_on_its_way(
        self, proxy: FaultyProxy, client: Redis, redis_url: str
    ) -> None:
        fault = proxy.hold_requests(b"INCR")
        call = asyncio.ensure_future(client.incr("n"))
        await fault.wait()
        proxy.cut_all()
        with pytest.raises(ConnectionError):
            await call
        assert stored(redis_url, "n") is None
        await proxy.let_go()
        assert stored(redis_url, "n") == b"1"

    async def test_nothing_held_is_nothing_to_let_go(self, proxy: FaultyProxy, client: Redis) -> None:
        proxy.hold_requests(b"INCR")
        assert await proxy.let_go() == 0
        assert await client.incr("n") == 1, "the hold was disarmed"


class TestPartitions:
    @pytest.mark.parametrize(("direction", "executed"), [("requests", None), ("replies", b"1"), ("both", None)])
    async def test_blackhole_and_heal(
        self, proxy: FaultyProxy, direction: Direction, executed: bytes | None, redis_url: str
    ) -> None:
        async with client_of(proxy, patience=0.3) as client:
            await client.ping()
            proxy.blackhole(direction)
            with pytest.raises(TimeoutError):
                await client.incr("n")
            assert stored(redis_url, "n") == executed
            proxy.heal()
            assert await client.ping()

    async def test_in_a_blackhole_nobody_learns_that_the_other_closed(self, proxy: FaultyProxy, redis_url: str) -> None:
        async with client_of(proxy) as client, client.pubsub() as listener:
            await listener.subscribe("c")
            assert await heard(listener) == 1
            proxy.blackhole()
        await proxy.until(lambda p: p.connections_open == 0)
        with connect(redis_url) as direct:
            assert direct.publish("c", "x") == 1, "the server still believes in its subscriber"
            proxy.heal()
            await proxy.until(lambda p: direct.publish("c", "x") == 0)

    async def test_a_connection_that_lost_bytes_is_reset_when_healed(self, proxy: FaultyProxy, client: Redis) -> None:
        proxy.blackhole("replies")
        seen = proxy.replies_seen
        call = asyncio.ensure_future(client.ping())
        await proxy.until(lambda p: p.replies_seen > seen)
        proxy.heal()
        with pytest.raises(ConnectionError):
            await call

    async def test_a_connection_that_lost_nothing_survives(self, proxy: FaultyProxy, client: Redis) -> None:
        proxy.blackhole()
        proxy.heal()
        assert await client.ping()
        assert proxy.connections_opened == 1

    async def test_cut_all(self, proxy: FaultyProxy, client: Redis) -> None:
        call = asyncio.ensure_future(client.blpop(["nothing"], 0))
        await proxy.until(lambda p: p.requests_seen > p.replies_seen)
        proxy.cut_all()
        with pytest.raises(ConnectionError):
            await call
        assert await client.ping()

    async def test_refuse_and_accept(self, proxy: FaultyProxy, client: Redis) -> None:
        proxy.refuse()
        assert await client.ping(), "open connections stay"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", proxy.port))
        proxy.heal()
        async with client_of(proxy) as another:
            assert await another.ping()

    @pytest.mark.parametrize(("direction", "late"), [("requests", 1), ("replies", 1), ("both", 2)])
    async def test_delay(self, proxy: FaultyProxy, client: Redis, direction: Direction, late: int) -> None:
        loop = asyncio.get_running_loop()
        proxy.delay(0.05, direction)
        began = loop.time()
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(20):
                pipeline.incr("n")
            assert await pipeline.execute() == list(range(1, 21))
        assert 0.05 * late <= loop.time() - began < 0.05 * 10, "each is late, but not one after the other"
        proxy.delay(0)
        assert await client.incr("n") == 21


class TestFrames:
    @pytest.mark.parametrize(
        "frame",
        [
            b"+OK\r\n",
            b":12\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$0\r\n\r\n",
            b"$4\r\n\r\n\r\n\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            b"%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n",
            b">2\r\n+message\r\n_\r\n",
            b"|1\r\n+ttl\r\n:3\r\n+OK\r\n",
            b"=5\r\ntxt:a\r\n",
            b"PING\r\n",
        ],
    )
    async def test_every_split_gives_the_same_frames(self, frame: bytes) -> None:
        assert value_end(frame, 0) == len(frame)
        for cut in range(len(frame)):
            frames = Frames()
            assert frames.feed(frame[:cut]) == []
            assert frames.feed(frame[cut:] + frame + b"$") == [frame, frame]

    async def test_what_a_frame_is(self) -> None:
        message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
        assert head(message) == b"message"
        assert head(b"Ping\r\n") == b"ping"
        assert head(b"*0\r\n") == b""
        assert is_push(message, subscribed=True)
        assert not is_push(message, subscribed=False), "an array like any other"
        assert is_push(message.replace(b"*3", b">3"), subscribed=False)
        assert not is_push(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", subscribed=True)
