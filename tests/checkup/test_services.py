"""As what a server is sold: by its host's name, and by what it tells."""

from __future__ import annotations

import pytest

from sessionlock.checkup.probe import judge
from sessionlock.checkup.services import several_masters, sold_as

HOSTS = {
    "shop-abc123.serverless.euc1.cache.amazonaws.com": "Amazon ElastiCache Serverless",
    "master.shop.abc123.euc1.cache.amazonaws.com": "Amazon ElastiCache",
    "shop.abc123.ng.0001.cnn1.cache.amazonaws.com.cn": "Amazon ElastiCache",
    "clustercfg.shop.abc123.memorydb.eu-central-1.amazonaws.com": "Amazon MemoryDB",
    "shop.germanywestcentral.redis.azure.net": "Azure Managed Redis",
    "shop.redis.cache.windows.net": "Azure Cache for Redis",
    "redis-12345.c1.eu-central-1.ec2.redns.redis-cloud.com": "Redis Cloud or Redis Software",
    "redis-12345.c1.us-east-1-2.ec2.cloud.redislabs.com": "Redis Cloud or Redis Software",
    "apt-cat-123.upstash.io": "Upstash",
    "abc.redis.eu-frankfurt-1.oci.oraclecloud.com": "OCI Cache",
    "r-abc123.redis.rds.aliyuncs.com": "Tair",
    "cache.amazonaws.com.example.org": None,
    "localhost": None,
    "": None,
}


@pytest.mark.parametrize("host", HOSTS)
def test_by_its_host(host: str) -> None:
    service = sold_as(host, {}, {})
    assert (service and service.name) == HOSTS[host]


@pytest.mark.parametrize(
    ("info", "hello", "name"),
    [
        ({"redis_version": "7.1.0", "os": "Amazon ElastiCache"}, {}, "Amazon ElastiCache"),
        ({"upstash_version": "1.13.0"}, {}, "Upstash"),
        ({}, {"modules": "[['name', 'search', 'path', '/enterprise-managed']]"}, "Redis Cloud or Redis Software"),
        ({"os": "Linux 6.1.0 x86_64", "executable": "/usr/bin/redis-server"}, {}, None),
    ],
)
def test_by_what_it_tells(info: dict[str, str], hello: dict[str, str], name: str | None) -> None:
    service = sold_as("10.0.0.1", info, hello)
    assert (service and service.name) == name


@pytest.mark.parametrize(
    ("info", "hello", "several"),
    [
        ({"role": "active-replica"}, {}, True),
        ({}, {"role": "active-replica"}, True),
        ({"crdt_slots": "0-16383"}, {}, True),
        ({"modules": "[{'name': 'crdt', 'ver': 1}]"}, {}, True),
        ({"module": "name=crdt,ver=1"}, {}, True),
        ({"role": "master", "module": "name=search,ver=1"}, {}, False),
    ],
)
def test_several_masters(info: dict[str, str], hello: dict[str, str], several: bool) -> None:
    assert bool(several_masters(info, hello)) is several
    refused = judge(info, {}, hello=hello).refusal()
    assert (refused is not None and "several masters" in str(refused)) is several


def test_what_need_not_show_is_unknown() -> None:
    """A database of a service that sells Active-Active, too."""
    found = judge({}, {}, host="redis-1.c1.eu-central-1.ec2.redns.redis-cloud.com")
    assert any("whether it is Active-Active" in finding.what for finding in found.findings)


def test_what_survives_each_failover_is_not_warned_of() -> None:
    info = {"connected_slaves": "1", "role": "master", "cluster_enabled": "1"}
    codes = {finding.code for finding in judge(info, {}, client="cluster").findings}
    kept = {finding.code for finding in judge({**info, "os": "Amazon MemoryDB"}, {}, client="cluster").findings}
    assert codes - kept == {"split-brain"}
