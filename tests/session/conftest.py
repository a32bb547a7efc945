"""What the tests of sessions have in common: nodes, a look at the server, a deadline for each test."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

from tests.harness.deadline import pytest_pyfunc_call as pytest_pyfunc_call

# A real server in the loop: an example's time says nothing about the code.
_UNHURRIED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("ci", max_examples=500, print_blob=True, **_UNHURRIED)
settings.register_profile("nightly", max_examples=10_000, print_blob=True, **_UNHURRIED)
settings.register_profile("quick", max_examples=50, **_UNHURRIED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
