"""Servers as they are sold, in short: what ``doctor`` says of each, and whether locks work there. The conformance suite
behind each of them is a command: ``python -m tests.servers flavours``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from tenacity import wait_fixed

from sessionlock import RedisUnavailable, ScriptsForbidden, SessionGuard, WaitPolicy
from sessionlock.cli import doctor, main
from sessionlock.protocol.calls import Renew
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.flavours import FLAVOURS, RestrictedServer
from tests.harness.polling import eventually
from tests.servers.flavours import DOCS, table_of_flavours

pytestmark = pytest.mark.anyio

ORDINARY = {
    "persistence",
    "split-brain",
    "eviction",
    "unknown",
}  # of a server as the tests start it, or by hidden settings
LOCKS = [name for name, flavour in FLAVOURS.items() if flavour.lock]
OTHERS = [name for name, flavour in FLAVOURS.items() if not flavour.lock]
MANY = {f"key {number}": number for number in range(1500)}


@pytest.fixture
def restricted(request: pytest.FixtureRequest, server: FaultyServer, flush: None) -> Iterator[RestrictedServer]:
    if server.version < (7,):
        pytest.skip("flavours stand before a server that knows all that any of them permits")
    with RestrictedServer(FLAVOURS[request.param], str(server.socket_path)) as restricted:
        yield restricted


@pytest.mark.parametrize("restricted", FLAVOURS, indirect=True)
def test_doctor(
    restricted: RestrictedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CLAIM", 1.0)  # after that a waiter who is not told looks for its turn
    flavour = restricted.flavour
    status = main(["doctor", restricted.url, "--json"])
    told = json.loads(capsys.readouterr().out)
    (node,) = told["nodes"].values()
    assert {finding["code"] for finding in node["findings"]} - ORDINARY == set(flavour.findings)
    assert (told["verdict"], status) == (flavour.verdict, doctor.STATUS[flavour.verdict])
    assert "HGETALL" in node["trial"] or not flavour.lock, "what scripts do was not tried"
    assert {step["name"]: step["ok"] for step in told["tried"]} == (
        {"lock": True, "push": flavour.pushes, "cycle": True, "nothing left": True} if flavour.lock else {}
    )


@pytest.mark.parametrize("restricted", LOCKS, indirect=True)
async def test_locks_hand_over_and_large_saves(restricted: RestrictedServer, server: FaultyServer) -> None:
    waiting = WaitPolicy(wait=wait_fixed(0.3))
    async with (
        SessionGuard.from_url(restricted.url, wait=waiting) as one,
        SessionGuard.from_url(restricted.url, wait=waiting) as other,
    ):

        async def count() -> None:
            async with other.session_lock("s") as session:
                session["n"] = session.get("n", 0) + 1

        async with one.session_lock("s") as session:
            counting = asyncio.create_task(count())
            with connect(server.unix_url) as raw:
                await eventually(lambda: any(b":queue" in key for key in raw.keys("sl:*")), "it waits")
            session["n"] = 1
            session.update(MANY)
        await counting
        assert dict(await one.read("s")) == {**MANY, "n": 2}


@pytest.mark.parametrize("restricted", ["redis-software", "tair-proxy-unchecked"], indirect=True)
async def test_leases_are_renewed_slot_by_slot_where_a_proxy_wants_it(restricted: RestrictedServer) -> None:
    """From the first refusal on; that comes early enough for the leases."""
    async with (
        SessionGuard.from_url(restricted.url) as guard,
        guard.session_lock("a") as a,
        guard.session_lock("b") as b,
    ):
        executor = guard.runtime().topology.executor
        names = [(keys_for("sl", sid), session.lease.token, 60_000) for sid, session in (("a", a), ("b", b))]  # type: ignore[union-attr]
        assert len({executor.group(keys, token) for keys, token, _ in names}) == 1
        with pytest.raises(RedisUnavailable):
            await executor.run(Renew(names))
        assert len({executor.group(keys, token) for keys, token, _ in names}) == 2
        assert [await executor.run(Renew([name])) for name in names] == [[1], [1]]


@pytest.mark.parametrize("restricted", OTHERS, indirect=True)
async def test_locks_are_refused_by_name(restricted: RestrictedServer) -> None:
    flavour = restricted.flavour
    async with SessionGuard.from_url(restricted.url, check=True) as guard:
        found = await guard.capabilities()
        assert found.refusal() is not None
        with pytest.raises(RedisUnavailable) as refused:
            async with guard.session_lock("s"):
                raise AssertionError("a lock was granted")
        assert refused.value.refused
        if flavour.unlocked:
            assert isinstance(refused.value, ScriptsForbidden)
            for _ in range(2):
                async with guard.session_lock("s", mode="optimistic") as session:
                    session["n"] = session.get("n", 0) + 1
            assert (await guard.read("s"))["n"] == 2
        else:
            with pytest.raises(RedisUnavailable):
                await guard.read("s")


# What stands between says of a server that it does not reach for a moment, or of its own limits.
PASSING = (
    *("upstream failure", "no upstream host", "upstream protocol error"),  # Envoy
    *("ERR Connection refused", "ERR Connection timed out", "ERR Host is down", "ERR Server closed the connection"),
    *("ERR server connection close", "ERR no server connection avaliable"),  # predixy, as it spells it
    *("ERR max requests per second limit exceeded", "ERR max concurrent connections exceeded"),
    *("ERR max number of clients reached", "ERR temporarily unavailable"),
)


@pytest.mark.parametrize("restricted", ["keydb"], indirect=True)
async def test_what_passes_is_repeated(restricted: RestrictedServer) -> None:
    """At the save, where else the handler's work would be lost."""
    async with SessionGuard.from_url(restricted.url) as guard:
        for words in PASSING:
            async with guard.session_lock("s") as session:
                session["said"] = words
                restricted.next_calls.append(words)
            assert not restricted.next_calls
        assert (await guard.read("s"))["said"] == PASSING[-1]


def test_the_table_in_the_docs() -> None:
    """``python -m tests.servers flavours --write`` puts it there."""
    text = DOCS.read_text(encoding="utf-8")
    assert f"<!-- flavours -->\n{table_of_flavours()}<!-- /flavours -->" in text
