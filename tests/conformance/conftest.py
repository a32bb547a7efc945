"""The conformance suite: what the guard promises, the same tests on every topology and face (see ``topologies``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from sessionlock import SessionGuard
from tests.conformance.topologies import TOPOLOGIES, Node, Record, Topology
from tests.harness.deadline import pytest_pyfunc_call as pytest_pyfunc_call

QUICK = ("tcp-resp2", "memory", "cluster", "flavour")  # one of each kind, in the middle tier


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): not where the topology lacks it; it says why")


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TOPOLOGIES])
async def topology(request: pytest.FixtureRequest) -> AsyncIterator[Topology]:
    async with TOPOLOGIES[request.param](request) as made:
        for needed in request.node.iter_markers("needs"):
            if needed.args[0] in made.lacks:
                pytest.skip(made.lacks[needed.args[0]])
        yield made


@pytest.fixture
async def node(topology: Topology) -> Node:
    """``node(**options)`` makes a guard, as another process would have one."""
    return topology.node


@pytest.fixture
async def guard(topology: Topology) -> SessionGuard:
    """One guard with the default policies."""
    return topology.node()


@pytest.fixture
async def record(topology: Topology) -> Callable[[str], Record]:
    """``record(sid)``: what the store holds of that session."""
    return topology.record
