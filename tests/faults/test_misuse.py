"""Contexts left where they were not entered, guards shared by threads, a Redis without memory."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from sessionlock import ConfigurationError, RedisUnavailable, SessionGuard, SessionTooLarge
from tests.harness.commands import connect

pytestmark = pytest.mark.anyio


async def test_a_block_that_is_left_in_another_task(redis_url: str) -> None:
    """anyio's scopes cannot be left elsewhere; the lock and the changes must not stay behind with them."""
    async with SessionGuard.from_url(redis_url) as guard:
        context = guard.session_lock("s")
        session = await asyncio.create_task(context.__aenter__())
        session["a"] = 1
        await context.__aexit__(None, None, None)
        assert dict(await guard.read("s")) == {"a": 1}
        assert (await guard.inspect("s")).holder is None


async def test_blocks_that_are_left_in_the_order_of_entering(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url) as guard:

        async def crossed() -> None:
            first, second = guard.session_lock("one"), guard.session_lock("two")
            (await first.__aenter__())["a"] = 1
            (await second.__aenter__())["b"] = 2
            await first.__aexit__(None, None, None)
            await second.__aexit__(None, None, None)

        await asyncio.create_task(crossed())
        assert dict(await guard.read("one")) == {"a": 1}
        assert dict(await guard.read("two")) == {"b": 2}
        assert (await guard.inspect("one")).holder is None


@pytest.mark.parametrize("mode", ["lock", "optimistic"])
async def test_a_context_is_for_one_use_also_for_two_tasks(redis_url: str, mode: Any) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        context = guard.session_lock("s", mode=mode)
        async with context as session:
            session["a"] = 1
            with pytest.raises(ConfigurationError, match="one use"):
                await asyncio.create_task(context.__aenter__())
        with pytest.raises(ConfigurationError, match="one use"):
            await context.__aenter__()
        assert dict(await guard.read("s")) == {"a": 1}


async def test_one_guard_in_the_loops_of_several_threads(redis_url: str) -> None:
    """Each loop has its own connections, and they end with the loop."""
    guard = SessionGuard.from_url(redis_url)

    async def cycles() -> None:
        for _ in range(20):
            async with guard.session_lock("s") as session:
                session["n"] = session.get("n", 0) + 1

    with connect(redis_url) as direct:
        before = len(direct.client_list())
        threads = [threading.Thread(target=lambda: asyncio.run(cycles())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        with anyio.fail_after(5):
            while len(direct.client_list()) > before:
                await anyio.sleep(0.01)
    assert (await guard.read("s"))["n"] == 80
    await guard.aclose()


async def test_a_guard_that_is_closed_while_a_request_is_inside(redis_url: str) -> None:
    """A shutdown with requests in flight: they end well, and nothing stays open."""
    guard = SessionGuard.from_url(redis_url)
    with connect(redis_url) as direct:
        before = len(direct.client_list())
        async with guard.session_lock("s") as session:
            session["a"] = 1
            await guard.aclose()
        with anyio.fail_after(5):
            while len(direct.client_list()) > before:  # the server notices a closed connection a moment later
                await anyio.sleep(0.01)
        assert not direct.keys("*:lock")
    async with SessionGuard.from_url(redis_url) as other:
        assert dict(await other.read("s")) == {"a": 1}


async def test_a_save_that_redis_refuses_gives_the_lock_up(own_server: Any) -> None:
    server = own_server()
    async with SessionGuard.from_url(server.url) as guard:
        with connect(server.url) as direct:
            with pytest.raises(RedisUnavailable, match="OOM"):
                async with guard.session_lock("s") as session:
                    session["a"] = 1
                    direct.config_set("maxmemory", "1")
            assert not direct.keys("*:lock")
            direct.config_set("maxmemory", "0")


async def test_reading_while_iterating(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        await guard.create({"a": 1, "b": 2}, sid="s")
        async with guard.session_lock("s") as session:
            session["new"] = 3
            assert sorted((key, session["a"]) for key in session) == [("a", 1), ("b", 1), ("new", 1)]


@pytest.mark.parametrize(
    "url", ["redis://:sec/ret@h:1/0", "redis://:secret#1@h", "redis://u:secret?x@h", "redis://:[secret@h", "secret:x@h"]
)
async def test_a_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SessionGuard.from_url(url)
    assert "sec" not in str(caught.value)


async def test_the_names_of_keys_count(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        with pytest.raises(SessionTooLarge, match="its name included"):
            async with guard.session_lock("s") as session:
                session["k" * 2_000_000] = 1
        with pytest.raises(SessionTooLarge, match="at once"):
            async with guard.session_lock("s") as session:
                session.update(dict.fromkeys(map(str, range(60_000)), 1))
        assert (await guard.inspect("s")).holder is None


async def test_a_wrong_password_is_told_at_once(own_server: Any) -> None:
    server = own_server(config={"requirepass": "right"}, tcp=True)
    url = server.tcp_url.replace("redis://", "redis://:wrong@")
    async with SessionGuard.from_url(url, retry_for=60) as guard:
        with anyio.fail_after(20), pytest.raises(RedisUnavailable, match="refused"):
            await guard.inspect("s")


@pytest.mark.parametrize(
    "options", [{"lease": 5}, {"session": {}}, {"reply_within": -1}, {"retry_for": None}, {"push_limit": "x"}]
)
async def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SessionGuard.from_url("redis://localhost", **options)
    assert SessionGuard.from_url("redis://localhost", wait=2.5).wait_policy.stop.max_delay == 2.5
