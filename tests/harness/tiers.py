"""The tiers of the suite: ``-m "not server"``, ``-m "not slow"``, everything.

``server``: it starts a real server or other programs, or takes seconds. A test has this mark by the fixtures that
it uses; one that starts them itself is marked by hand. Whoever is without it finds no server to start, so that a
forgotten mark shows.
``slow``: it is not of the middle tier, which shows in minutes whether all is well. ``once``: it takes long and says
nothing about the server's version, so the matrix leaves it out; such a test is slow, too.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable

import pytest

from sessionlock.embedded.binary import SERVER_VARIABLE

# Whoever uses one of these, directly or by another fixture, has a server.
STARTS_A_SERVER = frozenset({"five", "node", "own_server", "server", "shared_cluster", "store", "three", "topology"})
NO_SERVER = "/a server is only for tests that are marked so"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if STARTS_A_SERVER.intersection(getattr(item, "fixturenames", ())) and not _in_memory(item):
            item.add_marker("server")
        if item.get_closest_marker("once") is not None:
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("server") is not None:
        return (yield)
    before = os.environ.get(SERVER_VARIABLE)
    os.environ[SERVER_VARIABLE] = NO_SERVER
    try:
        return (yield)
    finally:
        if before is None:
            del os.environ[SERVER_VARIABLE]
        else:
            os.environ[SERVER_VARIABLE] = before


def _in_memory(item: pytest.Item) -> bool:
    """The topology of the conformance suite that is no server."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and str(callspec.params.get("topology", "")).startswith("memory")
