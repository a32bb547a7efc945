"""A deadline for each test."""

from __future__ import annotations

from tests.harness.deadline import pytest_pyfunc_call as pytest_pyfunc_call
