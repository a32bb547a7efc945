"""A process that has not looked at any server yet, and a deadline for tests of real deployments."""

from __future__ import annotations

import pytest

from sessionlock.checkup import capabilities
from tests.harness.deadline import within

pytest_pyfunc_call = within(180.0)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_known", {})
    monkeypatch.setattr(capabilities, "_begun", {})
    monkeypatch.setattr(capabilities, "_told", set())
