"""A visited application, for the tests of ASGI."""

from __future__ import annotations

import pytest

from sessionlock import SessionGuard
from tests.harness.asgi_visits import Visits


@pytest.fixture
def visits(guard: SessionGuard, sid: str) -> Visits:
    return Visits(guard, sid)
