"""Session ids come from cookies: whatever they are, they are refused, or exactly one session's."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessionlock import InvalidSessionId, SessionGuard
from sessionlock.protocol.keys import keys_for
from tests.conformance.topologies import Topology

pytestmark = pytest.mark.anyio

REFUSED: dict[str, object] = {
    "empty": "",
    "513 characters": "x" * 513,
    "a megabyte": "x" * 2**20,
    "NUL": "sid\x00rest",
    "newline": "sid\r\nDEL x",
    "only a newline": "\n",
    "tab": "a\tb",
    "escape": "\x1b[31mred",
    "delete": "a\x7f",
    "C1 control": "a\x9bb",
    "surrogate": "a\ud800b",
    "both surrogates": "\ud83d\ude00",
    "line separator": "a\u2028b",
    "right-to-left override": "a\u202eb",
    "no-break space": "a\u00a0b",
    "byte order mark": "\ufeffa",
    "unassigned": "\u0378",
    "bytes": b"sid",
    "None": None,
    "number": 7,
    "list": ["sid"],
}

EXACT = [
    "a",
    "A",
    "a ",
    " a",
    "a a",
    " ",
    "x" * 512,
    "x" * 511,
    "€" * 512,
    "}{",
    "{}",
    "{a}",
    "}",
    "{",
    "a}:lock",
    "*",
    "?",
    "[a]",
    "[^a]",
    "h?llo",
    "\\*",
    "\\",
    "a:b",
    "a:session",
    "sl:{a}:lock",
    "#fence",
    "%s%n",
    "{0}",
    "${jndi}",
    "'; DROP TABLE sessions; --",
    '"',
    "../../etc/passwd",
    "sl",
    "sl" + "a" * 37,
    "sl" + "A" * 38,
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "ключ",
    "鍵",
    "🔑",
    "ß",
    "ss",
    "İ",
    "i",
    "1",
    "01",
    "１",
    "True",
    "None",
    "-1",
    "KEYS[1]",
]


def uses(guard: SessionGuard, sid: Any) -> dict[str, Callable[[], Awaitable[object]]]:
    async def entered(make: Callable[[], Any]) -> None:
        async with make():
            pytest.fail("entered")

    async def attempt() -> None:
        async for _ in guard.attempts(sid):
            pytest.fail("attempted")

    return {
        "session_lock": lambda: entered(lambda: guard.session_lock(sid)),
        "two": lambda: entered(lambda: guard.session_lock("fine", sid)),
        "lock": lambda: entered(lambda: guard.lock(sid)),
        "read mode": lambda: entered(lambda: guard.session_lock(sid, mode="read")),
        "optimistic": lambda: entered(lambda: guard.session_lock(sid, mode="optimistic")),
        "read": lambda: guard.read(sid),
        "destroy": lambda: guard.destroy(sid),
        "inspect": lambda: guard.inspect(sid),
        "force_release": lambda: guard.force_release(sid, "token"),
        "incr": lambda: guard.incr(sid, "n"),
        "regenerate": lambda: guard.regenerate(sid),
        "bind": lambda: guard.bind(sid, "user"),
        "attempts": attempt,
        "transaction": lambda: guard.transaction(sid, lambda session: None),
        **(
            {}
            if sid is None
            else {"create": lambda: guard.create(sid=sid), "keep": lambda: guard.destroy_all("u", keep=sid)}
        ),
    }


@pytest.mark.parametrize("sid", list(REFUSED.values()), ids=list(REFUSED))
async def test_refused_everywhere(guard: SessionGuard, topology: Topology, sid: object) -> None:
    for name, use in uses(guard, sid).items():
        with pytest.raises(InvalidSessionId) as caught:
            await use()
        assert isinstance(caught.value, ValueError), name
        said = str(caught.value) + repr(caught.value)
        assert said.isprintable()
        if isinstance(sid, str) and len(sid) > 1:
            assert sid not in said
            assert ascii(sid)[1:-1] not in said
    assert topology.all_keys() == []


async def test_each_is_exactly_one_session(guard: SessionGuard, topology: Topology) -> None:
    for i, sid in enumerate(EXACT):
        async with guard.session_lock(sid, wait=0) as session:
            assert session.new, sid
            assert session.sid == sid
            session["i"] = i
    for i, sid in enumerate(EXACT):
        assert dict(await guard.read(sid)) == {"i": i}, sid
        assert topology.record(sid).data == {"i": i}, sid
    names = {key for key in topology.all_keys() if key.endswith(b":session")}
    assert len(names) == len(EXACT)


async def test_all_of_them_at_once(guard: SessionGuard) -> None:
    """No two share a lock."""
    inside: set[str] = set()
    everybody = asyncio.Event()

    async def hold(sid: str) -> None:
        async with guard.lock(sid, wait=0):
            inside.add(sid)
            if len(inside) == len(EXACT):
                everybody.set()
            await everybody.wait()

    await asyncio.gather(*(hold(sid) for sid in EXACT))


async def test_ending_one_ends_no_other(guard: SessionGuard) -> None:
    for sid in EXACT:
        await guard.create({"sid": sid}, sid=sid)
    for sid in ("*", "?", "[a]", "}{", "a"):
        assert await guard.destroy(sid)
    left = [sid for sid in EXACT if (await guard.inspect(sid)).exists]
    assert left == [sid for sid in EXACT if sid not in ("*", "?", "[a]", "}{", "a")]


async def test_names_in_the_store_are_plain(guard: SessionGuard, topology: Topology) -> None:
    """One hash tag, the same for all keys of a session, and nothing of the id."""
    for sid in EXACT:
        async with guard.session_lock(sid) as session:
            session["n"] = 1
            stem = keys_for("sl", sid).session.removesuffix(b"session")
            own = [key for key in topology.all_keys() if key.startswith(stem)]
            assert {key.removeprefix(stem) for key in own} == {b"lock", b"session"}
    for key in topology.all_keys():
        assert re.fullmatch(rb"sl:\{[a-z0-9]{14}\}:[a-z]+", key)
