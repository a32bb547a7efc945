"""``sessionlock doctor``: what a Redis is, what that means for sessions, and whether everything works there."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError
from tenacity import stop_after_delay, wait_fixed

from ..checkup.findings import Capabilities, Finding
from ..checkup.probe import Ask, pairs_of, probe, tags_of
from ..checkup.settings import findings_of_sentinels
from ..errors import EmbeddedServerUnavailable, SessionLockError
from ..guard import SessionGuard
from ..policies import LeasePolicy, SessionPolicy, WaitPolicy
from ..protocol.keys import check_prefix, keys_for, new_sid
from ..quorum.config import Quorum
from ..transport.advice import advised, with_advice
from ..transport.clients import ClientKind, client_kind, close_client
from ..transport.tasks import within
from ..urls import client_from_url
from .address import any_url
from .examination import OF_QUORUM, Examination, Tried, examination_json, examination_page, milliseconds
from .failure import Failure, one_line, without_secrets
from .nodes import ask_about, close_all, masters_of, unverified
from .printed import print_json
from .terminal import columns_of, spelled, style_of

__all__ = ["run_doctor"]

ANSWERS_WITHIN = 5.0  # seconds
PINGS = 5
CYCLES = 20
WARM_UP = 3
PUSHED_WITHIN = 0.75  # seconds; without a push the waiter would look by itself after a second at the soonest
CLAIM = 5.0
KEPT_FOR = 120.0  # seconds for which a trial session stays where nobody could take it away
MOST_SIDS = 1000
OF_A_CLUSTER = "the sessions whose slots it has cannot be reached until a replica takes over"
OF_A_QUORUM = "a quorum goes on without a minority of its masters; if another one fails, it may have no majority"
OF_SENTINELS = "the others tell the master, too; a failover needs a majority of them"
TIMED_OUT = (asyncio.TimeoutError, TimeoutError)  # the same from Python 3.11 on

FAILED = (SessionLockError, EmbeddedServerUnavailable, RedisError, RedisClusterException, OSError)
Mode = Literal["lock", "optimistic"]
T = TypeVar("T")
STATUS = {"fine": 0, "unknown": 1, "warnings": 1, "refused": 2, "unreachable": 2}


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what was found. 0 fine; 1 something weakens a promise, or is hidden that might; 2 sessionlock does not work
    there, or no answer.
    """
    seen = asyncio.run(_examine(any_url(arguments), arguments.masters, arguments.prefix, arguments.mode))
    if arguments.json:
        print_json("doctor", indent=2, **examination_json(seen))
    elif seen.verdict == "unreachable":
        raise Failure(f"{seen.url}: {seen.failed}")
    else:
        page = "\n".join(examination_page(seen, style_of(sys.stdout), columns_of(sys.stdout)))
        print(spelled(page, sys.stdout))
    return STATUS[seen.verdict]


# --- examining


async def _examine(url: str, masters: Sequence[str], prefix: str, mode: Mode = "lock") -> Examination:
    seen = Examination(without_secrets(url))
    async with AsyncExitStack() as stack:
        try:
            check_prefix(prefix)
            quorum = Quorum(*masters, rejoin_after=0, reply_within=ANSWERS_WITHIN) if masters else None
            client = client_from_url(url)
            stack.push_async_callback(close_all, client)
            await _probe_all(client, prefix, seen)
            await asyncio.gather(*(_probe_master(master, prefix, seen) for master in masters))
            if masters and len(masters) % 2 == 0:
                seen.also.append(_even(len(masters)))
        except TIMED_OUT as error:
            seen.fail(with_advice(str(error), error), unseen=True)
        except FAILED as error:
            seen.fail(with_advice(one_line(error), error, connecting=True), unseen=True)
        if mode == "optimistic":
            seen.judge_without_locks()
        if seen.verdict in ("unreachable", "refused"):
            return seen  # nothing could be written
        try:
            sid = _sid_of(client, prefix, seen.nodes)
            trying = _try_without_lock(url, prefix, client, sid) if mode == "optimistic" else None
            async for step in trying or _try_out(url, quorum, prefix, client, sid):
                seen.steps.append(step)
        except (SessionLockError, RedisError, RedisClusterException, OSError) as error:
            seen.fail(one_line(error))
    return seen


async def _probe_all(client: Any, prefix: str, seen: Examination) -> None:
    kind = client_kind(client)
    if kind == "cluster":
        masters = await masters_of(client, ANSWERS_WITHIN)
        tags = tags_of(masters, lambda tag: str(client.get_node_from_key(tag).name))

        async def look(name: str, node: Any) -> Capabilities:
            return await _probe(node.execute_command, kind, prefix, str(node.host), tags.get(name, "probe"))

        _tell_apart(await _all_of({name: look(name, node) for name, node in masters.items()}), seen, OF_A_CLUSTER)
        return
    if hasattr(client, "set_retry"):
        client.set_retry(Retry(NoBackoff(), 0))  # the reason at once, not after ten tries
    seen.nodes[seen.url] = await _probe(client.execute_command, kind, prefix, urlsplit(seen.url).hostname or "")
    seen.also.extend(unverified(client))
    if kind == "sentinel":
        await _ask_sentinels(client.connection_pool, seen)


async def _all_of(asked: Mapping[str, Awaitable[T]]) -> dict[str, T | BaseException]:
    answers = await asyncio.gather(*asked.values(), return_exceptions=True)
    return dict(zip(asked, answers, strict=True))


def _tell_apart(answers: Mapping[str, Capabilities | BaseException], seen: Examination, means: str) -> None:
    """Those that answered, and those that did not, which is a finding unless nobody did."""
    silent = [answer for answer in answers.values() if isinstance(answer, BaseException)]
    if len(silent) == len(answers):
        raise silent[0]
    for name, answer in answers.items():
        if isinstance(answer, BaseException):
            seen.also.append(_silent(f"cluster master {name}", answer, means))
        else:
            seen.nodes[name] = answer


def _silent(name: str, error: BaseException, means: str) -> Finding:
    if not isinstance(error, (*FAILED, *TIMED_OUT)):
        raise error
    advice = advised(error, connecting=True, otherwise="see whether it runs, and its log")
    return Finding("warn", "silent", f"{name} does not answer: {one_line(error)}", means, advice)


async def _ask_sentinels(pool: Any, seen: Examination) -> None:
    """What they are set up for; and which of them do not answer."""
    service = str(pool.service_name)
    asked = {
        f"sentinel {one.connection_pool.connection_kwargs.get('host')}:"
        f"{one.connection_pool.connection_kwargs.get('port')}": within(
            one.execute_command("SENTINEL", "MASTER", service), ANSWERS_WITHIN
        )
        for one in pool.sentinel_manager.sentinels
    }
    answers = await _all_of(asked)
    for name, answer in answers.items():
        if isinstance(answer, ResponseError):
            continue  # not permitted, or that service is not known there: an answer
        if isinstance(answer, BaseException):
            seen.also.append(_silent(name, answer, OF_SENTINELS))
    told = next((answer for answer in answers.values() if isinstance(answer, (dict, list))), None)
    seen.also.extend(findings_of_sentinels(pairs_of(told)))


def _even(masters: int) -> Finding:
    what, advice = f"the quorum has an even number of masters ({masters})", "Have three or five masters"
    return Finding("info", "even-quorum", what, f"with {masters - 1} it would outlive as many failures", advice)


async def _probe_master(url: str, prefix: str, seen: Examination) -> None:
    """Of a quorum. One that does not answer is done without, as long as most do."""
    name, client = f"{OF_QUORUM}{without_secrets(url)}", client_from_url(url)
    client.set_retry(Retry(NoBackoff(), 0))
    host = urlsplit(without_secrets(url)).hostname or ""
    try:
        seen.nodes[name] = await _probe(client.execute_command, "quorum", prefix, host)
    except (RedisError, OSError, *TIMED_OUT) as error:
        seen.also.append(_silent(name, error, OF_A_QUORUM))
    finally:
        await close_client(client)


async def _probe(ask: Ask, kind: ClientKind, prefix: str, host: str, tag: str = "probe") -> Capabilities:
    took = []
    for _ in range(PINGS):
        before = time.perf_counter()
        try:
            await within(ask("PING"), ANSWERS_WITHIN)
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
            return await within(ask(*words), ANSWERS_WITHIN)

    return asked


def _sid_of(client: Any, prefix: str, nodes: Mapping[str, Capabilities]) -> str:
    """Of a session that nobody else can know; in a Cluster, of one that a master has which answers."""
    sid = new_sid()
    for _ in range(MOST_SIDS if client_kind(client) == "cluster" else 0):
        with suppress(RedisClusterException):  # a slot of nobody
            if str(client.get_node_from_key(keys_for(prefix, sid).lock.decode()).name) in nodes:
                break
        sid = new_sid()
    return sid


async def _try_out(url: str, quorum: Quorum | None, prefix: str, client: Any, sid: str) -> AsyncIterator[Tried]:
    """Use the server as a request does, under that session id; take all of it away again."""
    keys = keys_for(prefix, sid)
    plain = f"{prefix}:{{{keys.digest}}}:plain".encode()
    try:
        async with _guard(url, quorum, prefix) as guard, _guard(url, quorum, prefix) as other:
            yield await _lock(guard, sid)
            yield await _hand_over(guard, other, sid, url, prefix)
            yield await _compare(guard, client, sid, plain)
            await guard.destroy(sid)
        yield await _left_over(client, (keys.lock, keys.queue, keys.waiters), (keys.session, keys.receipts))
    finally:
        for key in (*keys.all, plain):
            await ask_about(client, key)("DEL", key)


async def _try_without_lock(url: str, prefix: str, client: Any, sid: str) -> AsyncIterator[Tried]:
    try:
        async with _guard(url, None, prefix) as guard:
            spent = 0.0
            for turn in range(WARM_UP + CYCLES):
                before = time.perf_counter()
                async with guard.session_lock(sid, mode="optimistic") as session:
                    session["n"] = session.get("n", 0) + 1
                spent += time.perf_counter() - before if turn >= WARM_UP else 0.0
            count = (await guard.read(sid))["n"]
        told = f"{CYCLES} load – handle – commit without a lock: {milliseconds(spent / CYCLES)} each"
        yield Tried("cycle", count == WARM_UP + CYCLES, told)
    finally:
        for key in keys_for(prefix, sid).all:
            try:
                await ask_about(client, key)("DEL", key)
            except NoPermissionError:
                await ask_about(client, key)("PEXPIRE", key, 1)


def _guard(url: str, quorum: Quorum | None, prefix: str) -> SessionGuard:
    return SessionGuard.from_url(
        url,
        quorum=quorum,
        prefix=prefix,
        lease=LeasePolicy(ttl=2 * CLAIM, claim=CLAIM),
        wait=WaitPolicy(stop=stop_after_delay(2 * CLAIM), wait=wait_fixed(CLAIM)),
        retry_for=ANSWERS_WITHIN,
        reply_within=ANSWERS_WITHIN,
        session=SessionPolicy(idle=KEPT_FOR),  # should this process be killed
        check=False,
    )


async def _lock(guard: SessionGuard, sid: str) -> Tried:
    async with guard.lock(sid):
        pass  # connected, and the scripts are known
    before = time.perf_counter()
    async with guard.lock(sid):
        pass
    return Tried("lock", True, f"taken and given back in {milliseconds(time.perf_counter() - before)}")


async def _hand_over(guard: SessionGuard, other: SessionGuard, sid: str, url: str, prefix: str) -> Tried:
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
        return Tried(
            "push", True, f"a waiter of another connection had the lock {milliseconds(took)} after its release"
        )
    why, advice = await _why_no_push(url, prefix)
    return Tried("push", False, f"no push arrived; the waiter found the lock by itself after {took:.2f} s", why, advice)


async def _why_no_push(url: str, prefix: str) -> tuple[str, str]:
    """By subscribing as a guard does, over a connection of its own."""
    client = client_from_url(url)
    try:
        if client_kind(client) != "cluster":
            client.set_retry(Retry(NoBackoff(), 0))
            async with client.pubsub() as subscribed:
                await within(subscribed.subscribe(f"{prefix}:push:probe"), ANSWERS_WITHIN)
                await within(subscribed.get_message(timeout=ANSWERS_WITHIN), ANSWERS_WITHIN)
    except (*FAILED, *TIMED_OUT) as error:
        return f"SUBSCRIBE failed: {one_line(error)}", advised(error, connecting=True)
    finally:
        await close_client(client)
    return (
        "who waits is told by PUBLISH from a script, over a connection that has subscribed",
        "Permit SUBSCRIBE and PUBLISH (in a Cluster SSUBSCRIBE and SPUBLISH) to the guard's channels, also at what"
        " stands between; without them who waits looks for its turn up to once a second",
    )


async def _compare(guard: SessionGuard, client: Any, sid: str, plain: bytes) -> Tried:
    """Guarded and unguarded cycles by turns, so that both meet the same machine."""
    ask = ask_about(client, plain)

    async def guarded() -> None:
        async with guard.session_lock(sid) as session:
            session["n"] = session.get("n", 0) + 1

    async def unguarded() -> None:
        count = int(await ask("GET", plain) or 0)
        await ask("SET", plain, count + 1, "EX", 60)

    spent = {guarded: 0.0, unguarded: 0.0}
    for turn in range(WARM_UP + CYCLES):
        for cycle in spent:
            before = time.perf_counter()
            await cycle()
            if turn >= WARM_UP:
                spent[cycle] += time.perf_counter() - before
    count = (await guard.read(sid))["n"]
    ratio = spent[guarded] / spent[unguarded]
    return Tried(
        "cycle",
        count == WARM_UP + CYCLES,
        f"{CYCLES} guarded load – handle – save: {ratio:.2f} × GET + SET"
        f" ({milliseconds(spent[guarded] / CYCLES)} against {milliseconds(spent[unguarded] / CYCLES)} each)",
    )


async def _left_over(client: Any, gone: tuple[bytes, ...], mortal: tuple[bytes, ...]) -> Tried:
    """After the end of the session: no lock, no queue; what remains for a while (that it was destroyed) expires."""
    left = [key for key in gone if await ask_about(client, key)("EXISTS", key)]
    left += [key for key in mortal if await ask_about(client, key)("PTTL", key) == -1]
    if left:
        return Tried("nothing left", False, f"left over: {', '.join(key.decode() for key in left)}")
    return Tried("nothing left", True, "no lock, no queue, no key without an end")
