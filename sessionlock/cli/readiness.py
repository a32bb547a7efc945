"""``sessionlock doctor --probe``: whether a Redis takes sessions now, in a few round trips that change nothing.

Of a Cluster every master is asked, of a quorum the store and its masters. Ready is only what was seen to be ready.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from ..checkup.findings import Capabilities
from ..checkup.probe import glance, tags_of, words_of_glance
from ..checkup.settings import ALL_SLOTS
from ..errors import ConfigurationError, EmbeddedServerUnavailable, SessionLockError
from ..protocol.keys import check_prefix
from ..transport.advice import with_advice
from ..transport.clients import ClientKind, client_kind
from ..transport.tasks import within
from ..urls import client_from_url
from .address import any_url
from .failure import Failure, one_line, without_secrets
from .nodes import close_all, masters_of
from .printed import print_json
from .terminal import spelled

__all__ = ["run_probe"]

# Findings by which sessions cannot be reached now, beside those of level "refuse".
NOT_SERVING = ("loading", "slots", "cluster-down")
# ... and those by which writes are refused, where none could be tried.
NO_WRITES = ("too-few-replicas",)
STATUS = {"ready": 0, "unknown": 1, "not ready": 2}
TIMED_OUT = (asyncio.TimeoutError, TimeoutError)  # the same from Python 3.11 on
FAILED = (SessionLockError, EmbeddedServerUnavailable, RedisError, RedisClusterException, OSError)


@dataclass(frozen=True)
class Readiness:
    """``state``: ready, not ready, or unknown. ``milliseconds``: of a PING; where there was no answer, until that was
    known. ``why``: what is in the way, or not known; "" nothing. ``servers``: of which it is made up, where they are
    several.
    """

    state: str
    url: str
    server: str
    milliseconds: float
    why: str = ""
    warnings: tuple[str, ...] = ()
    servers: tuple[Readiness, ...] = ()

    @property
    def line(self) -> str:
        if not self.server:
            return f"{self.state}: {self.url}: {self.why}"
        told = f"{self.state}: {self.server} at {self.url} answers in {self.milliseconds:.1f} ms"
        told += f"; {self.why}" if self.why else ""
        return told + (f" (warnings: {', '.join(self.warnings)})" if self.warnings else "")


def run_probe(arguments: argparse.Namespace) -> int:
    """Prints one line, or one JSON object. 0 ready; 1 it answers, but what this user may see does not tell whether it
    takes writes; 2 not ready, or no answer in time.
    """
    try:
        prefix = check_prefix(arguments.prefix)
    except ConfigurationError as error:
        raise Failure(str(error)) from None
    found = asyncio.run(_of_all(any_url(arguments), arguments.masters, arguments.within, prefix))
    if arguments.json:
        print_json("doctor --probe", **asdict(found))
    else:
        print(spelled(found.line, sys.stdout))
    return STATUS[found.state]


async def _of_all(url: str, masters: Sequence[str], seconds: float, prefix: str) -> Readiness:
    store, *others = await asyncio.gather(
        _of_one(url, None, seconds, prefix), *(_of_one(master, "quorum", seconds, prefix) for master in masters)
    )
    return _with_quorum(store, others) if others else store


async def _of_one(url: str, kind: ClientKind | None, seconds: float, prefix: str) -> Readiness:
    """``kind``: where it is not what the URL says."""
    shown, before = without_secrets(url), time.perf_counter()
    client = None
    try:
        client = client_from_url(url)
        if client_kind(client) == "cluster":
            nodes = await masters_of(client, seconds)
            left = seconds - (time.perf_counter() - before)
            return await _of_cluster(client, nodes, shown, prefix, seconds, left)
        answers, took = await within(_asked_at_once(client, prefix), seconds)
        return judged(glance(*answers, client=kind or client_kind(client)), shown, took * 1000)
    except TIMED_OUT:
        return _silent(shown, before, f"no answer within {seconds:g} s")
    except FAILED as error:
        return _silent(shown, before, with_advice(one_line(error), error, connecting=True))
    finally:
        if client is not None:
            await close_all(client)


async def _asked_at_once(client: Any, prefix: str) -> tuple[list[Any], float]:
    await _ping(client.execute_command)  # where connecting fails, this tells why
    async with client.pipeline(transaction=False) as pipe:
        for words in words_of_glance(prefix):
            pipe.execute_command(*words)
        answers = await pipe.execute(raise_on_error=False)
    return answers, await _ping(client.execute_command)


async def _of_cluster(
    client: Any, nodes: Mapping[str, Any], shown: str, prefix: str, seconds: float, left: float
) -> Readiness:
    """All its masters, each within the time that is ``left``. Nobody else has the sessions of one that is not ready."""
    tags = tags_of(nodes, lambda tag: str(client.get_node_from_key(tag).name))

    async def asked(name: str, node: Any) -> Readiness:
        before = time.perf_counter()
        try:
            answers, took = await within(_asked_in_turn(node, prefix, tags.get(name, "probe")), left)
        except TIMED_OUT:
            return _silent(name, before, f"no answer within {seconds:g} s")
        except FAILED as error:
            return _silent(name, before, with_advice(one_line(error), error, connecting=True))
        return judged(glance(*answers, client="cluster"), name, took * 1000)

    servers = tuple(await asyncio.gather(*(asked(name, node) for name, node in nodes.items())))
    known = len(client.nodes_manager.slots_cache)
    gaps = (
        [f"{ALL_SLOTS - known} of the {ALL_SLOTS} slots of this cluster belong to no node"] if known < ALL_SLOTS else []
    )
    worst = max(servers, key=lambda one: STATUS[one.state])
    said = {one.why: None for one in servers if one.server and one.why}  # most tell the same of the whole
    whys = [*said, *(f"{one.url}: {one.why}" for one in servers if not one.server), *gaps]
    return Readiness(
        "not ready" if gaps else worst.state,
        shown,
        next((one.server for one in servers if one.server), ""),
        max(one.milliseconds for one in servers),
        "; ".join(whys),
        tuple({code: None for one in servers for code in one.warnings}),
        servers,
    )


async def _asked_in_turn(node: Any, prefix: str, tag: str) -> tuple[list[Any], float]:
    """Over one connection: a node opens one more for each command that is asked meanwhile."""
    answers: list[Any] = []
    for words in words_of_glance(prefix, tag):
        try:
            answers.append(await node.execute_command(*words))
        except ResponseError as error:
            answers.append(error)
    return answers, await _ping(node.execute_command)


async def _ping(ask: Callable[..., Awaitable[Any]]) -> float:
    """Seconds that it took."""
    before = time.perf_counter()
    try:
        await ask("PING")
    except NoPermissionError:
        pass  # an answer
    return time.perf_counter() - before


def _silent(url: str, before: float, why: str) -> Readiness:
    return Readiness("not ready", url, "", (time.perf_counter() - before) * 1000, why)


def _with_quorum(store: Readiness, masters: Sequence[Readiness]) -> Readiness:
    """The store holds the sessions, a majority of the masters grants locks."""
    needed = len(masters) // 2 + 1
    ready = sum(one.state == "ready" for one in masters)
    perhaps = sum(one.state != "not ready" for one in masters)
    locks = "ready" if ready >= needed else "unknown" if perhaps >= needed else "not ready"
    away = "; ".join(f"{one.url}: {one.why}" for one in masters if one.state != "ready")
    told = f"{ready} of the {len(masters)} masters of the quorum are ready, {needed} are needed"
    whys = [why for why in (store.why, f"{told} ({away})" if away else "") if why]
    return Readiness(
        max(store.state, locks, key=lambda state: STATUS[state]),
        store.url,
        store.server,
        store.milliseconds,
        "; ".join(whys),
        tuple({code: None for one in (store, *masters) for code in one.warnings}),
        (store, *masters),
    )


def judged(found: Capabilities, url: str, milliseconds: float) -> Readiness:
    """What the answers mean for whoever asks whether requests can be served."""
    tried = found.written is not None
    codes = NOT_SERVING if tried else (*NOT_SERVING, *NO_WRITES)
    in_the_way = [finding.what for finding in found.findings if finding.level == "refuse" or finding.code in codes]
    if found.written:
        in_the_way.append(f"it takes no writes ({one_line(found.written)})")
    elif not tried and found.eviction == "noeviction" and 0 < (found.maxmemory or 0) <= (found.used_memory or 0):
        in_the_way.append("its memory is full, and it takes no writes")
    warnings = tuple(finding.code for finding in found.of_level("warn") if finding.code not in codes)
    if in_the_way:
        return Readiness("not ready", url, found.title, milliseconds, "; ".join(in_the_way), warnings)
    hidden = [] if found.role is not None else ["whether it is a master"]
    hidden += [] if tried or found.used_memory is not None else ["whether it takes writes"]
    if hidden:
        verb = "are" if len(hidden) > 1 else "is"
        why = f"{' and '.join(hidden)} {verb} not known ({'; '.join(found.because)})"
        return Readiness("unknown", url, found.title, milliseconds, why, warnings)
    return Readiness("ready", url, found.title, milliseconds, warnings=warnings)
