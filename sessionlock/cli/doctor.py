"""``sessionlock doctor``: what a Redis is, what that means for sessions, and whether everything works there."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import textwrap
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError
from tenacity import stop_after_delay, wait_fixed

from ..checkup.findings import Capabilities, Finding
from ..checkup.probe import Ask, probe, tags_of
from ..checkup.settings import findings_among
from ..errors import EmbeddedServerUnavailable, SessionLockError
from ..guard import SessionGuard
from ..policies import LeasePolicy, WaitPolicy
from ..protocol.keys import check_prefix, keys_for, new_sid
from ..quorum.config import Quorum
from ..transport.advice import with_advice
from ..transport.clients import ClientKind, client_kind, close_client
from ..transport.tasks import within
from ..urls import MemoryStoreWarning, client_from_url
from .address import any_url
from .failure import Failure, one_line, without_secrets
from .terminal import Style, columns_of, spelled, style_of

__all__ = ["run_doctor"]

ANSWERS_WITHIN = 5.0  # seconds
PINGS = 5
CYCLES = 20
WARM_UP = 3
PUSHED_WITHIN = 0.75  # seconds; without a push the waiter would look by itself after a second at the soonest
CLAIM = 5.0
WIDTH = 17
CONTROLS = re.compile(r"\x1b\[[0-9;]*m")
TIMED_OUT = (asyncio.TimeoutError, TimeoutError)  # the same from Python 3.11 on


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried: whether it went as it should, and what was measured."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Examination:
    url: str
    nodes: dict[str, Capabilities] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    failed: str = ""

    @property
    def findings(self) -> dict[Finding, list[str]]:
        """Each finding once, with the nodes that it is about."""
        found: dict[Finding, list[str]] = {}
        for node, capabilities in self.nodes.items():
            for finding in capabilities.findings:
                found.setdefault(finding, []).append(node)
        found.update({finding: list(self.nodes) for finding in findings_among(self.nodes)})
        return found

    @property
    def verdict(self) -> str:
        levels = {finding.level for finding in self.findings}
        if not self.nodes:
            return "unreachable"
        if self.failed or "refuse" in levels:
            return "refused"
        if "warn" in levels or not all(step.ok for step in self.steps):
            return "warnings"
        return "unknown" if any(finding.code == "unknown" for finding in self.findings) else "fine"


STATUS = {"fine": 0, "unknown": 1, "warnings": 1, "refused": 2, "unreachable": 2}


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what was found. 0 fine; 1 something weakens a promise, or is hidden that might; 2 sessionlock does not work
    there, or no answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MemoryStoreWarning)  # the page says so itself
        seen = asyncio.run(_examine(any_url(arguments), arguments.masters, arguments.prefix))
    if arguments.json:
        print(json.dumps(_as_json(seen), indent=2))
    elif seen.verdict == "unreachable":
        raise Failure(f"{seen.url}: {seen.failed}")
    else:
        page = "\n".join(_page(seen, style_of(sys.stdout), columns_of(sys.stdout)))
        print(spelled(page, sys.stdout))
    return STATUS[seen.verdict]


# --- examining


async def _examine(url: str, masters: Sequence[str], prefix: str) -> Examination:
    seen = Examination(without_secrets(url))
    async with AsyncExitStack() as stack:
        try:
            check_prefix(prefix)
            quorum = Quorum(*masters, rejoin_after=0, reply_within=ANSWERS_WITHIN) if masters else None
            client = client_from_url(url)
            stack.push_async_callback(close_client, client)
            await within(_probe_all(client, prefix, seen), ANSWERS_WITHIN)
            await asyncio.gather(*(_probe_master(master, prefix, seen) for master in masters))
        except TIMED_OUT as error:
            seen.nodes.clear()
            seen.failed = with_advice(str(error), error)
        except (SessionLockError, EmbeddedServerUnavailable, RedisError, RedisClusterException, OSError) as error:
            seen.nodes.clear()
            seen.failed = with_advice(one_line(error), error, connecting=True)
        if seen.verdict in ("unreachable", "refused") or any(one.code == "too-few-replicas" for one in seen.findings):
            return seen  # nothing could be written
        try:
            async for step in _try_out(url, quorum, prefix, client):
                seen.steps.append(step)
        except (SessionLockError, RedisError, OSError) as error:
            seen.failed = one_line(error)
    return seen


async def _probe_all(client: Any, prefix: str, seen: Examination) -> None:
    kind = client_kind(client)
    if kind == "cluster":
        await client.initialize()
        masters = {str(node.name): node for node in client.get_primaries()}
        tags = tags_of(masters, lambda tag: str(client.get_node_from_key(tag).name))
        for name, node in masters.items():
            seen.nodes[name] = await _probe(node.execute_command, kind, prefix, str(node.host), tags.get(name, "probe"))
        return
    if hasattr(client, "set_retry"):
        client.set_retry(Retry(NoBackoff(), 0))  # the reason at once, not after ten tries
    seen.nodes[seen.url] = await _probe(client.execute_command, kind, prefix, urlsplit(seen.url).hostname or "")


async def _probe_master(url: str, prefix: str, seen: Examination) -> None:
    """Of a quorum. One that does not answer is done without, as long as most do."""
    name, client = f"quorum master {without_secrets(url)}", client_from_url(url)
    client.set_retry(Retry(NoBackoff(), 0))
    host = urlsplit(without_secrets(url)).hostname or ""
    try:
        seen.nodes[name] = await within(_probe(client.execute_command, "quorum", prefix, host), ANSWERS_WITHIN)
    except (RedisError, OSError, *TIMED_OUT) as error:
        seen.steps.append(Step("master", False, f"{name}: {with_advice(one_line(error), error, connecting=True)}"))
    finally:
        await close_client(client)


async def _probe(ask: Ask, kind: ClientKind, prefix: str, host: str, tag: str = "probe") -> Capabilities:
    took = []
    for _ in range(PINGS):
        before = time.perf_counter()
        try:
            await ask("PING")
        except NoPermissionError:
            break  # but an answer
        took.append(time.perf_counter() - before)
    round_trip = min(took, default=None)
    return await probe(_in_turn(ask), client=kind, prefix=prefix, tag=tag, host=host, round_trip=round_trip)


def _in_turn(ask: Ask) -> Ask:
    """A client of redis-py's would open a connection for each command that is asked at once."""
    lock = asyncio.Lock()

    async def asked(*words: Any) -> Any:
        async with lock:
            return await ask(*words)

    return asked


async def _try_out(url: str, quorum: Quorum | None, prefix: str, client: Any) -> AsyncIterator[Step]:
    """Use the server as a request does, under one session id that nobody else can know; take all of it away again."""
    sid = new_sid()
    keys = keys_for(prefix, sid)
    plain = f"{prefix}:{{{keys.digest}}}:plain".encode()
    try:
        async with _guard(url, quorum, prefix) as guard, _guard(url, quorum, prefix) as other:
            yield await _lock(guard, sid)
            yield await _hand_over(guard, other, sid)
            yield await _compare(guard, client, sid, plain)
            await guard.destroy(sid)
        yield await _left_over(client, (keys.lock, keys.queue, keys.waiters), (keys.session, keys.receipts))
    finally:
        for key in (*keys.all, plain):
            await client.delete(key)


def _guard(url: str, quorum: Quorum | None, prefix: str) -> SessionGuard:
    return SessionGuard.from_url(
        url,
        quorum=quorum,
        prefix=prefix,
        lease=LeasePolicy(ttl=2 * CLAIM, claim=CLAIM),
        wait=WaitPolicy(stop=stop_after_delay(2 * CLAIM), wait=wait_fixed(CLAIM)),
        retry_for=ANSWERS_WITHIN,
        reply_within=ANSWERS_WITHIN,
        check=False,
    )


async def _lock(guard: SessionGuard, sid: str) -> Step:
    async with guard.lock(sid):
        pass  # connected, and the scripts are known
    before = time.perf_counter()
    async with guard.lock(sid):
        pass
    return Step("lock", True, f"taken and given back in {_ms(time.perf_counter() - before)}")


async def _hand_over(guard: SessionGuard, other: SessionGuard, sid: str) -> Step:
    async def wait() -> float:
        async with other.lock(sid):
            return time.perf_counter()

    waiting = None
    try:
        async with guard.lock(sid):
            waiting = asyncio.ensure_future(wait())
            while True:
                if waiting.done() or (await guard.inspect(sid)).waiters:
                    break
                await asyncio.sleep(0.005)
            before = time.perf_counter()
        took = await waiting - before
    finally:
        if waiting is not None:
            waiting.cancel()
    if took < PUSHED_WITHIN:
        return Step("push", True, f"a waiter of another connection had the lock {_ms(took)} after its release")
    return Step("push", False, f"no push arrived; the waiter found the lock by itself after {took:.2f} s")


async def _compare(guard: SessionGuard, client: Any, sid: str, plain: bytes) -> Step:
    """Guarded and unguarded cycles by turns, so that both meet the same machine."""

    async def guarded() -> None:
        async with guard.session_lock(sid) as session:
            session["n"] = session.get("n", 0) + 1

    async def unguarded() -> None:
        count = int(await client.get(plain) or 0)
        await client.set(plain, count + 1, ex=60)

    spent = {guarded: 0.0, unguarded: 0.0}
    for turn in range(WARM_UP + CYCLES):
        for cycle in spent:
            before = time.perf_counter()
            await cycle()
            if turn >= WARM_UP:
                spent[cycle] += time.perf_counter() - before
    count = (await guard.read(sid))["n"]
    ratio = spent[guarded] / spent[unguarded]
    return Step(
        "cycle",
        count == WARM_UP + CYCLES,
        f"{CYCLES} guarded load – handle – save: {ratio:.2f} × GET + SET"
        f" ({_ms(spent[guarded] / CYCLES)} against {_ms(spent[unguarded] / CYCLES)} each)",
    )


async def _left_over(client: Any, gone: tuple[bytes, ...], mortal: tuple[bytes, ...]) -> Step:
    """After the end of the session: no lock, no queue; what remains for a while (that it was destroyed) expires."""
    left = [key for key in gone if await client.exists(key)]
    left += [key for key in mortal if await client.pttl(key) == -1]
    if left:
        return Step("nothing left", False, f"left over: {', '.join(key.decode() for key in left)}")
    return Step("nothing left", True, "no lock, no queue, no key without an end")


# --- telling


def _page(seen: Examination, style: Style, columns: int) -> Iterator[str]:
    for node, found in seen.nodes.items():
        yield f"{style.bold(found.title)} at {node}"
        for label, text in _facts(found):
            yield _hung(f"  {label:<{WIDTH}}", text, columns)
    if seen.steps or seen.failed:
        yield ""
        yield style.bold("tried out")
    for step in seen.steps:
        yield _hung(f"  {step.name:<{WIDTH}}{'' if step.ok else style.bad('no: ')}", step.detail, columns)
    if seen.failed:
        yield _hung(f"  {style.bad('failed')}{'':<{WIDTH - len('failed')}}", seen.failed, columns)
    levels = {"refuse": style.bad("REFUSED"), "warn": style.bad("WARNING"), "info": style.dim("note")}
    for finding, nodes in seen.findings.items():
        yield ""
        where = f" ({', '.join(nodes)})" if len(seen.nodes) > 1 else ""
        yield _hung(f"{levels[finding.level]}  ", f"{finding.what}{where}", columns, indent=2)
        for label, text in (("  why  ", finding.why), ("  do   ", finding.advice)):
            yield _hung(label, f"{text}.", columns)
    yield ""
    yield _conclusion(seen, style)


def _hung(label: str, text: str, columns: int, indent: int | None = None) -> str:
    """``text`` behind ``label``, its further lines below it (or so far in)."""
    width = len(CONTROLS.sub("", label))
    further = " " * (width if indent is None else indent)
    lines = textwrap.wrap("." * width + text, columns, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join([label + lines[0][width:], *lines[1:]]) if lines else label


def _conclusion(seen: Examination, style: Style) -> str:
    if seen.verdict == "refused":
        return style.bad("sessionlock does not work here as it is")
    if seen.verdict == "warnings":
        count = sum(finding.level == "warn" for finding in seen.findings) + sum(not step.ok for step in seen.steps)
        return style.bad(f"works, with {count} warning{'s' if count > 1 else ''}")
    if seen.verdict == "unknown":
        return style.bold("works; whether all is fine is not known, for this user may not see it")
    return style.good("fine")


def _facts(found: Capabilities) -> Iterator[tuple[str, str]]:
    role = {"slave": "replica", None: "role unknown"}.get(found.role, found.role)
    protocol = f", RESP{found.protocol}" if found.protocol else ""
    yield "server", f"{found.mode or 'mode unknown'}, {role}{protocol}"
    yield "scripts", {True: "permitted", False: "not permitted", None: "unknown"}[found.scripts]
    yes_no = {True: "yes", False: "no", None: "unknown"}
    yield "sharded pub/sub", yes_no[found.sharded_pubsub]
    yield "WAITAOF", yes_no[found.waitaof]
    used = "unknown" if found.used_memory is None else _size(found.used_memory)
    limit = {None: "limit unknown", 0: "no limit"}.get(found.maxmemory, f"of {_size(found.maxmemory or 0)}")
    yield "memory", f"{used}, {limit}, eviction policy {found.eviction or 'unknown'}"
    yield "persistence", _persistence(found)
    if found.replicas is not None:
        needed = "unknown" if found.min_replicas_to_write is None else str(found.min_replicas_to_write)
        yield "replicas", f"{found.replicas} connected, min-replicas-to-write {needed}"
    if found.clock_offset is not None:
        yield "clock", f"{abs(found.clock_offset):.3f} s {'ahead of' if found.clock_offset >= 0 else 'behind'} ours"
    if found.unknown:
        yield "unknown", ", ".join(found.unknown)
        for reason in found.because:
            yield "", f"({one_line(reason)})"


def _persistence(found: Capabilities) -> str:
    if found.rdb is None and found.aof is None:
        return "unknown"
    kinds = []
    if found.aof:
        kinds.append(f"append-only file, fsync {found.fsync or 'unknown'}")
    if found.rdb:
        kinds.append("snapshots (a crash loses what came after the last one)" if not found.aof else "snapshots")
    return " and ".join(kinds) or ("none" if found.rdb is False else "no append-only file, snapshots unknown")


def _size(size: int) -> str:
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, 4)
    return f"{size / 1024**power:.1f} {' KMGT'[power]}iB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _as_json(seen: Examination) -> dict[str, Any]:
    return {
        "url": seen.url,
        "verdict": seen.verdict,
        "failed": seen.failed or None,
        "nodes": {node: {**asdict(found), "title": found.title} for node, found in seen.nodes.items()},
        "findings": [
            asdict(finding) for finding in findings_among(seen.nodes)
        ],  # of what several servers tell together
        "tried": [asdict(step) for step in seen.steps],
    }
