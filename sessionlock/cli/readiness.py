"""``sessionlock doctor --probe``: whether a Redis takes sessions now, in one round trip that changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import NoPermissionError, RedisClusterException, RedisError

from ..checkup.findings import Capabilities
from ..checkup.probe import GLANCE, glance
from ..errors import EmbeddedServerUnavailable, SessionLockError
from ..transport.advice import with_advice
from ..transport.clients import client_kind, close_client
from ..transport.tasks import within
from ..urls import client_from_url
from .address import any_url
from .failure import one_line, without_secrets
from .terminal import spelled

__all__ = ["run_probe"]

# Findings by which writes are refused now, beside those of level "refuse".
NO_WRITES = ("loading", "too-few-replicas", "write-errors", "slots")
STATUS = {"ready": 0, "unknown": 1, "not ready": 2}


@dataclass(frozen=True)
class Readiness:
    """``state``: ready, not ready, or unknown. ``milliseconds``: of a PING; where there was no answer, until that was
    known. ``why``: what is in the way, or not known; "" nothing.
    """

    state: str
    url: str
    server: str
    milliseconds: float
    why: str = ""
    warnings: tuple[str, ...] = ()

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
    found = asyncio.run(_readiness(any_url(arguments), arguments.within))
    print(json.dumps(asdict(found)) if arguments.json else spelled(found.line, sys.stdout))
    return STATUS[found.state]


async def _readiness(url: str, seconds: float) -> Readiness:
    shown, before = without_secrets(url), time.perf_counter()
    client = None
    try:
        client = client_from_url(url)
        found, took = await within(_glance(client), seconds)
    except (asyncio.TimeoutError, TimeoutError):
        return Readiness("not ready", shown, "", _ms(before), f"no answer within {seconds:g} s")
    except (SessionLockError, EmbeddedServerUnavailable, RedisError, RedisClusterException, OSError) as error:
        why = with_advice(one_line(error), error, connecting=True)
        return Readiness("not ready", shown, "", _ms(before), why)
    finally:
        if client is not None:
            await close_client(client)
    return judged(found, shown, took * 1000)


async def _glance(client: Any) -> tuple[Capabilities, float]:
    kind = client_kind(client)
    if kind == "cluster":
        await client.initialize()
        ask = next(iter(client.get_primaries())).execute_command
        answers = await asyncio.gather(*(ask(*words) for words in GLANCE), return_exceptions=True)
    else:
        ask = client.execute_command
        await _answer(ask, "PING")  # where connecting fails, this tells why
        async with client.pipeline(transaction=False) as pipe:
            for words in GLANCE:
                pipe.execute_command(*words)
            answers = await pipe.execute(raise_on_error=False)
    before = time.perf_counter()
    await _answer(ask, "PING")
    return glance(*answers, client=kind), time.perf_counter() - before


async def _answer(ask: Callable[..., Awaitable[Any]], *words: str) -> Any:
    try:
        return await ask(*words)
    except NoPermissionError as error:
        return error


def judged(found: Capabilities, url: str, milliseconds: float) -> Readiness:
    """What the answers mean for whoever asks whether requests can be served."""
    in_the_way = [finding.what for finding in found.findings if finding.level == "refuse" or finding.code in NO_WRITES]
    if found.eviction == "noeviction" and found.maxmemory and (found.used_memory or 0) >= found.maxmemory:
        in_the_way.append("its memory is full, and it takes no writes")
    warnings = tuple(finding.code for finding in found.of_level("warn") if finding.code not in NO_WRITES)
    if in_the_way:
        return Readiness("not ready", url, found.title, milliseconds, "; ".join(in_the_way), warnings)
    if found.role is None:
        why = f"whether it is a master is not known ({'; '.join(found.because)})"
        return Readiness("unknown", url, found.title, milliseconds, why, warnings)
    return Readiness("ready", url, found.title, milliseconds, warnings=warnings)


def _ms(before: float) -> float:
    return (time.perf_counter() - before) * 1000
