"""Servers as they are sold: how each is recognised, and what whoever uses it should know. No I/O.

From the vendors' documents (November 2026); ``docs/servers.md`` says what was tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Service", "several_masters", "sold_as"]


class Service(NamedTuple):
    """``host``: a pattern of its servers' names. ``told``: of what INFO and HELLO say, as :func:`sold_as` joins it."""

    name: str
    host: str
    told: str
    why: str
    advice: str
    keeps_all: bool = False  # what was acknowledged, over each failover
    may_have_several_masters: bool = False  # and that need not show


NEVER = r"(?!)"
CONSOLE = "CONFIG is not shown, so that its settings are seen in part only"
SERVICES = (
    Service(
        "Amazon ElastiCache Serverless",
        r"\.serverless\.[^.]+\.cache\.amazonaws\.com",
        NEVER,
        "it evicts keys that expire when a limit of its data is reached, and cuts subscribers off that fall behind;"
        " a waiter then looks by itself",
        "Use rediss+cluster://, and set no limit of data below what your sessions need",
    ),
    Service(
        "Amazon ElastiCache",
        r"\.cache\.amazonaws\.com",
        r"^os:Amazon ElastiCache",
        CONSOLE,
        "See in its parameter group that maxmemory-policy is noeviction; with cluster mode use rediss+cluster://",
    ),
    Service(
        "Amazon MemoryDB",
        r"\.memorydb\.[^.]+\.amazonaws\.com|memorydb.*\.amazonaws\.com",
        r"^os:Amazon MemoryDB",
        "nothing that was acknowledged is lost by a failover; each save takes some milliseconds longer for that",
        "Use rediss+cluster://",
        keeps_all=True,
    ),
    Service(
        "Azure Managed Redis",
        r"\.redis\.azure\.net|\.redisenterprise\.cache\.azure\.net",
        NEVER,
        "with geo-replication (Active-Active) several masters grant a lock, and that need not show from here",
        "Keep sessions in a database without active geo-replication",
        may_have_several_masters=True,
    ),
    Service(
        "Azure Cache for Redis",
        r"\.redis\.cache\.windows\.net",
        NEVER,
        CONSOLE,
        "See in its advanced settings that maxmemory-policy is noeviction",
    ),
    Service(
        "Redis Cloud or Redis Software",
        r"\.(?:redislabs|redis-cloud|rlrcp)\.com",
        r"enterprise-managed",
        "an Active-Active database has several masters that grant a lock, and that need not show from here",
        "Keep sessions in a database that is not Active-Active",
        may_have_several_masters=True,
    ),
    Service(
        "Google Memorystore",
        NEVER,
        r"^os:google|^modules:.*\bgoogle\b",
        CONSOLE,
        "See in its configuration that maxmemory-policy is noeviction",
    ),
    Service(
        "Upstash",
        r"\.upstash\.io",
        r"^upstash_version:",
        "it counts commands: a request under the lock is two, and one that waits more",
        "Where nothing is written read without the lock; see that eviction is off",
    ),
    Service(
        "OCI Cache",
        r"\.redis\.[^.]+\.oci\.oraclecloud\.com",
        NEVER,
        "a sharded cache runs no scripts",
        "Take one that is not sharded",
    ),
    Service(
        "TencentDB",
        r"\.tencentcdb\.com",
        NEVER,
        "it speaks RESP2 only",
        "Leave ?protocol= out of the URL",
    ),
    Service(
        "Tair",
        r"\.(?:rds|redis)\.aliyuncs\.com",
        r"^tair_version:",
        "the proxy before a cluster reads scripts, and refuses ours",
        "Set script_check_enable 0, or take an instance that is no cluster",
    ),
)
CRDT = re.compile(r"^crdt_|^modules:.*\bcrdt\b", re.MULTILINE)


def sold_as(host: str, info: Mapping[str, str], hello: Mapping[str, str]) -> Service | None:
    """Which service it is, by its host's name and by what it tells; None: none that is known."""
    told = _told(info, hello)
    for service in SERVICES:
        if re.search(f"(?:{service.host})(?:\\.cn)?$", host, re.IGNORECASE) or re.search(
            service.told, told, re.MULTILINE | re.IGNORECASE
        ):
            return service
    return None


def several_masters(info: Mapping[str, str], hello: Mapping[str, str]) -> str:
    """Which kind of several masters it is one of, that replicate each other; "" none that shows."""
    if "active-replica" in (info.get("role"), hello.get("role")):
        return "KeyDB's active-replica"
    return "Redis' Active-Active (CRDT)" if CRDT.search(_told(info, hello)) else ""


def _told(info: Mapping[str, str], hello: Mapping[str, str]) -> str:
    lines = [f"{name}:{value}" for name, value in info.items()]
    return "\n".join([*lines, f"modules:{hello.get('modules', '')} {info.get('modules', info.get('module', ''))}"])
