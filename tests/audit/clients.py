"""Clients that treat Redis as session layers of other languages do, small, and a checker that counts what they lost.

``express``: express-session with connect-redis: one connection for a process, JSON, a read-only request touches.
``php``: PHP's own handler with phpredis: a connection for each request, SETEX, PHP's format; and with its locking on.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from sessionlock import SessionGuard, SessionPolicy

__all__ = ["CLIENTS", "Counted", "use", "use_guarded", "use_rolling"]

Session = dict[str, Any]


@dataclass
class Counted:
    """What the requests did, of all sessions, and how much of it is not there in the end."""

    products: int = 0
    visits: int = 0
    lost_products: int = 0
    lost_visits: int = 0

    @property
    def lost(self) -> int:
        return self.lost_products + self.lost_visits


@dataclass
class Client:
    """One process of an application. ``locking``: as phpredis' ``redis.session.locking_enabled``."""

    url: str
    locking: bool = False
    _shared: list[Any] = field(default_factory=list)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        async with Redis.from_url(self.url, single_connection_client=True, protocol=2) as client:
            yield client

    @asynccontextmanager
    async def session(self, sid: str, *, reading: bool = False) -> AsyncIterator[Session]:
        raise NotImplementedError
        yield {}

    async def aclose(self) -> None:
        for client in self._shared:
            await client.aclose()


class Express(Client):
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        if not self._shared:
            self._shared.append(Redis.from_url(self.url, single_connection_client=True, protocol=2))
            await self._shared[0].initialize()
        yield self._shared[0]

    @asynccontextmanager
    async def session(self, sid: str, *, reading: bool = False) -> AsyncIterator[Session]:
        async with self.connection() as client:
            stored = json.loads(await client.get(f"sess:{sid}") or "{}")
            yield stored
            if reading:
                await client.expire(f"sess:{sid}", 86_400)
                return
            expires = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + 86_400))
            stored["cookie"] = {"originalMaxAge": 86_400_000, "expires": expires, "httpOnly": True, "path": "/"}
            await client.set(f"sess:{sid}", json.dumps(stored, separators=(",", ":")), ex=86_400)


RELEASE = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"


class Php(Client):
    @asynccontextmanager
    async def session(self, sid: str, *, reading: bool = False) -> AsyncIterator[Session]:
        key, secret = f"PHPREDIS_SESSION:{sid}", secrets.token_hex(8)
        async with self.connection() as client:
            if self.locking:
                while not await client.set(f"{key}_LOCK", secret, nx=True, px=30_000):
                    await asyncio.sleep(0.001)
            stored = unserialized(await client.get(key) or b"")
            yield stored
            if not reading:
                await client.execute_command("SETEX", key, 1440, serialized(stored))  # setex() is deprecated
            if self.locking:
                await client.eval(RELEASE, 1, f"{key}_LOCK", secret)


def php_locking(url: str) -> Client:
    return Php(url, locking=True)


CLIENTS: dict[str, Callable[[str], Client]] = {"express": Express, "php": Php, "php-locking": php_locking}


def serialized(session: Session) -> bytes:
    """``cart|a:1:{i:0;s:1:"x";}visits|i:2;``"""

    def value(of: Any) -> str:
        if isinstance(of, int):
            return f"i:{of};"
        if isinstance(of, str):
            return f's:{len(of.encode())}:"{of}";'
        return f"a:{len(of)}:{{{''.join(value(place) + value(one) for place, one in enumerate(of))}}}"

    return "".join(f"{name}|{value(of)}" for name, of in session.items()).encode()


def unserialized(raw: bytes) -> Session:
    """What :func:`serialized` wrote, in this one shape."""
    if not raw:
        return {}
    _, _, rest = raw.decode().partition("cart|")
    cart, _, visits = rest.partition("visits|i:")
    return {"cart": cart.split('"')[1::2], "visits": int(visits.rstrip(";"))}


async def use(
    make: Callable[[str], Client], url: str, *, sessions: int = 2, rounds: int = 6, tabs: int = 5, seed: int = 1
) -> Counted:
    """Browsers that open several pages at once, of two processes, round by round; then one request after another."""
    dice, counted = random.Random(seed), Counted()
    nodes = [make(url), make(url)]

    async def request(sid: str, item: str) -> None:
        reading = dice.random() < 0.2
        async with dice.choice(nodes).session(sid, reading=reading) as session:
            pause = dice.random() * 0.004
            await asyncio.sleep(pause)
            if reading:
                return
            if dice.random() < 0.6:
                session["cart"].append(item)
                counted.products += 1
            else:
                session["visits"] += 1
                counted.visits += 1

    for _ in range(sessions):
        sid, products, visits = f"{dice.getrandbits(160):040x}", counted.products, counted.visits
        async with nodes[0].session(sid) as session:
            session.update({"cart": ["begun"], "visits": 0})
        for number in range(rounds):
            await asyncio.gather(*(request(sid, f"p{number}-{tab}") for tab in range(tabs)))
        for number in range(tabs):
            await request(sid, f"s{number}")
        async with nodes[0].session(sid, reading=True) as session:
            counted.lost_products += counted.products - products - (len(session["cart"]) - 1)
            counted.lost_visits += counted.visits - visits - session["visits"]
    for node in nodes:
        await node.aclose()
    return counted


async def use_rolling(
    make: Callable[[str], Client], url: str, *, sessions: int = 3, browsers: int = 3, requests: int = 15, seed: int = 1
) -> Counted:
    """Browsers of one session each send one request after another, which put a product in and count, in 0 to 20 ms."""
    dice, counted, node = random.Random(seed), Counted(), make(url)

    async def browse(sid: str, name: str) -> None:
        for number in range(requests):
            async with node.session(sid) as session:
                await asyncio.sleep(dice.random() * 0.02)
                session["cart"].append(f"{name}-{number}")
                session["visits"] += 1

    async def one(sid: str) -> None:
        async with node.session(sid) as session:
            session.update({"cart": [], "visits": 0})
        await asyncio.gather(*(browse(sid, f"b{browser}") for browser in range(browsers)))
        async with node.session(sid, reading=True) as session:
            counted.products += browsers * requests
            counted.lost_products += browsers * requests - len(session["cart"])
            counted.lost_visits += browsers * requests - session["visits"]

    await asyncio.gather(*(one(f"{dice.getrandbits(160):040x}") for _ in range(sessions)))
    await node.aclose()
    return counted


async def use_guarded(url: str, *, tabs: int = 6, rounds: int = 3) -> Counted:
    """The same kind of browsers, guarded, in every mode: the lock, commits by script and by WATCH, transactions."""
    policy = SessionPolicy(merge={"cart": "append", "visits": "counter"})
    scripts = [SessionGuard.from_url(url, session=policy) for _ in range(2)]
    watching = SessionGuard.from_url(url, session=policy, commit_by="watch")
    counted = Counted()

    def change(session: Any, item: str) -> None:
        session["cart"] = [*session["cart"], item]
        session["visits"] += 1

    async def request(guard: SessionGuard, sid: str, item: str, way: str) -> None:
        if way == "transaction":
            await guard.transaction(sid, lambda session: change(session, item))
        elif way == "read":
            await guard.read(sid)
            return
        else:
            async with guard.session_lock(sid, mode="lock" if way == "lock" else "optimistic") as session:
                change(session, item)
                await asyncio.sleep(0.001)
        counted.products += 1
        counted.visits += 1

    for mixed in (("lock",), ("lock", "optimistic", "read", "transaction"), ("optimistic", "transaction")):
        guards = [*scripts, watching] if mixed[0] != "lock" or len(mixed) > 1 else scripts
        sid = (await guards[0].create({"cart": [], "visits": 0})).sid
        before = counted.products
        for number in range(rounds):
            await asyncio.gather(
                *(
                    request(guards[tab % len(guards)], sid, f"{number}-{tab}", mixed[tab % len(mixed)])
                    for tab in range(tabs)
                )
            )
        left = await guards[0].read(sid)
        counted.lost_products += counted.products - before - len(left["cart"])
        counted.lost_visits += counted.products - before - left["visits"]
    for guard in (*scripts, watching):
        await guard.aclose()
    return counted
