"""Real clusters and Sentinels, and a place for the figures that these tests find."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest
from deployments.common import MakeGuard, Tell
from support.cluster import Cluster
from support.deadline import within
from support.quorums import Place

from sessionlock import SessionGuard

FIGURES = pytest.StashKey[list[str]]()

pytest_pyfunc_call = within(180.0)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("faults and recovery")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """``tell("…")``: one line of figures, shown when all tests have run."""

    def add(line: str) -> None:
        request.config.stash.setdefault(FIGURES, []).append(f"{request.node.name}: {line}")

    return add


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
async def cluster(shared_cluster: Cluster) -> Cluster:
    """Three masters with a replica each, settled after whatever the test before did to them, and empty."""
    for node in shared_cluster.nodes:
        if node.standing == "paused":
            shared_cluster.resume(node)
        elif node.standing == "killed":
            shared_cluster.restart(node)
    await shared_cluster.settled()
    for master in shared_cluster.masters:
        master.raw.flushall()
    for node in shared_cluster.nodes:
        node.raw.config_resetstat()
    return shared_cluster


@pytest.fixture
async def node() -> AsyncIterator[MakeGuard]:
    """``node(url, **options)``: a guard of its own connections, as another process would have one."""
    async with AsyncExitStack() as stack:

        def make(url: str, **options: Any) -> SessionGuard:
            guard = SessionGuard.from_url(url, **options)
            stack.push_async_callback(guard.aclose)
            return guard

        yield make


@asynccontextmanager
async def _quorum_of(masters: int) -> AsyncIterator[Place]:
    with ExitStack() as stack:
        place = Place(stack, masters)
        async with place.guards:
            yield place


@pytest.fixture
async def three() -> AsyncIterator[Place]:
    """A quorum of three masters."""
    async with _quorum_of(3) as place:
        yield place


@pytest.fixture
async def five() -> AsyncIterator[Place]:
    async with _quorum_of(5) as place:
        yield place
