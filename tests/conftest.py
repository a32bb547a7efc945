"""Fixtures for all tests: real servers, private to this run."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sessionlock.embedded import EmbeddedServerUnavailable, find_server
from tests.harness.choice import choose_server, in_chosen_protocol
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.scripts import forget_scripts

# A shell that starts the tests in its background makes them ignore Ctrl-C, and with them every program that a test
# interrupts: a handler is not inherited, to ignore is.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.harness.fixtures", "tests.harness.tiers"]


# A real server in the loop, and a busy machine: an example's time says nothing about the code.
_UNHURRIED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("ci", max_examples=500, print_blob=True, **_UNHURRIED)
settings.register_profile("nightly", max_examples=10_000, print_blob=True, **_UNHURRIED)
settings.register_profile("quick", max_examples=50, **_UNHURRIED)


def pytest_configure(config: pytest.Config) -> None:
    # The tier of after each change makes fewer examples; the one of before a commit has the same tests.
    usual = "quick" if config.getoption("markexpr") == "not server" else "ci"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", usual))
    choose_server()
    # What a server is asked once per process would spoil exact counts; tests of that say check=True.
    os.environ["SESSIONLOCK_CHECK"] = "0"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected lives to the end. The garbage collector looked at all of it again and again: a quarter of the
    time of the shortest tier."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_report_header() -> str:
    try:
        return f"server: {find_server()}"
    except EmbeddedServerUnavailable as why:
        return f"server: none ({why})"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything here runs on asyncio, because redis-py does."""
    return "asyncio"


@pytest.fixture(scope="session")
def server() -> Iterator[FaultyServer]:
    """The run's shared server, on TCP and on a unix socket. Tests that harm their server take ``own_server``."""
    with FaultyServer(tcp=True) as server:
        yield server


@pytest.fixture
def redis_url(server: FaultyServer, flush: None) -> str:
    """The unix url of the shared server, which holds nothing when the test begins."""
    return in_chosen_protocol(server.unix_url)


@pytest.fixture
def tcp_url(server: FaultyServer, flush: None) -> str:
    """The TCP url of the shared server, which holds nothing when the test begins."""
    return in_chosen_protocol(server.tcp_url)


@pytest.fixture
def flush(server: FaultyServer) -> Iterator[None]:
    """Empties the shared server before and after the test: data in every database and the script cache."""
    _empty(server)
    yield
    _empty(server)


@pytest.fixture
def own_server() -> Iterator[Callable[..., FaultyServer]]:
    """``own_server(tcp=True, config={...})`` starts a server for this test alone, to kill, pause or restart."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> FaultyServer:
            return stack.enter_context(FaultyServer(*arguments, **options))

        yield start


def _empty(server: FaultyServer) -> None:
    with connect(server.unix_url) as client:
        client.flushall()
        forget_scripts(client)
