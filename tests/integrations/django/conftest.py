"""The Django site that the tests visit, and who visits it. A module with a site of its own replaces the fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.test import Client

from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.embedded import EmbeddedServer
from tests.harness.django_site import configure


@pytest.fixture
def site(server: EmbeddedServer, flush: None) -> None:
    configure(server.unix_url)
    from tests.harness.django_site import urls

    urls.entered.clear()
    urls.go_on.clear()


@pytest.fixture
def client() -> Client:
    """A browser with a session."""
    client = Client()
    assert client.post("/add/first").status_code == 200
    return client


@pytest.fixture
def who_put() -> Client:
    """A browser whose session holds ``first``, for a module whose site has ``/put``."""
    client = Client()
    client.post("/put?first=1")
    return client


@pytest.fixture
def holder(redis_url: str) -> Iterator[Callable[[str], Any]]:
    """``with holder(sid)``: another node holds the session."""
    with BlockingGuard.from_url(redis_url) as guard:
        yield guard.session_lock


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool
