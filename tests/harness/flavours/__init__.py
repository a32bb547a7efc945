"""Servers as they are sold: what each refuses, as its documents say, and a proxy that refuses it before a real server.

What is not known of a flavour is refused here: the strictest reading of its documents.
"""

from __future__ import annotations

from tests.harness.flavours.catalogue import FLAVOURS
from tests.harness.flavours.flavour import Flavour
from tests.harness.flavours.proxy import RestrictedServer

__all__ = ["FLAVOURS", "FLAVOUR_VARIABLE", "Flavour", "RestrictedServer"]

FLAVOUR_VARIABLE = "SESSIONLOCK_TEST_FLAVOUR"  # names the one on which the conformance suite runs
