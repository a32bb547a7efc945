"""Fixtures of many folders: guards, a look at what is stored, real clusters and quorums, and a place for figures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeGuard

import pytest

import sessionlock
from sessionlock import SessionGuard
from sessionlock.embedded import EmbeddedServer
from tests.harness.cluster import Cluster
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard, Tell
from tests.harness.proxy import FaultyProxy
from tests.harness.quorums import Place
from tests.harness.scripts import load_scripts
from tests.harness.stored import Stored

LUA = Path(sessionlock.__file__).parent / "protocol" / "lua"
FIGURE = "figure"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of all tests. A report brings them from another process, too (``-n``)."""
    ended = [report for reports in terminalreporter.stats.values() for report in reports if _is_end(report)]
    figures = [line for report in ended for name, line in report.user_properties if name == FIGURE]
    if figures:
        terminalreporter.section("faults and recovery")
        for line in figures:
            terminalreporter.write_line(str(line))


def _is_end(report: object) -> TypeGuard[pytest.TestReport]:
    """A test's last report has all that was told."""
    return isinstance(report, pytest.TestReport) and report.when == "teardown"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """``tell("…")``: one line of figures, shown when all tests have run."""

    def add(line: str) -> None:
        request.node.user_properties.append((FIGURE, f"{request.node.name}: {line}"))

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
def scripts(redis_url: str) -> None:
    """Every script is known to the server, so that each call is one command and can be told by its name."""
    with connect(redis_url) as client:
        load_scripts(client)


@pytest.fixture
async def node(request: pytest.FixtureRequest) -> AsyncIterator[MakeGuard]:
    """``node(url=None, **options)``: a guard of its own connections, as another process would have one.

    Of the shared server, which a test uses by ``redis_url`` or by giving no url, it knows that every script is there.
    """
    if "redis_url" in request.fixturenames:
        request.getfixturevalue("scripts")
    async with AsyncExitStack() as stack:

        def make(url: str | None = None, **options: Any) -> SessionGuard:
            if url is None:
                request.getfixturevalue("scripts")
                url = request.getfixturevalue("redis_url")
            guard = SessionGuard.from_url(url, **options)
            stack.push_async_callback(guard.aclose)
            return guard

        yield make


@pytest.fixture
async def guard(redis_url: str) -> AsyncIterator[SessionGuard]:
    """With all defaults, on the shared server."""
    async with SessionGuard.from_url(redis_url) as guard:
        yield guard


@pytest.fixture
async def elsewhere(redis_url: str) -> AsyncIterator[SessionGuard]:
    """Another node."""
    async with SessionGuard.from_url(redis_url) as guard:
        yield guard


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[FaultyProxy]:
    """Before the shared server: it delays, cuts and drops."""
    async with FaultyProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The url of a Redis that the sites of one module share, and nobody else."""
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
async def guard_at_store(store: str) -> AsyncIterator[SessionGuard]:
    async with SessionGuard.from_url(store) as guard:
        yield guard


@pytest.fixture
def stored(redis_url: str) -> Iterator[Callable[..., Stored]]:
    """``stored(sid, url=None)``: what the server holds of that session."""
    with ExitStack() as stack:

        def look(sid: str, url: str | None = None) -> Stored:
            return stack.enter_context(Stored(url or redis_url, sid))

        yield look


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
