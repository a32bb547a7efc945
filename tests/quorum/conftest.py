"""A deadline for each test: of real deployments, which take their time to start and to fail over."""

from __future__ import annotations

from tests.harness.deadline import within

pytest_pyfunc_call = within(180.0)
