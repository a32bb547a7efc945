"""Fixtures of the tests that run single calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.harness.commands import connect


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A blocking client of an empty server, which answers in bytes."""
    with connect(redis_url) as client:
        yield client
