"""Servers of many versions for the tests: fetched when first asked for, kept in a cache, checked to be what they claim.

Run it from the root of the repository::

    python -m tests.servers list                  # the servers, where each comes from, which are cached
    python -m tests.servers fetch redis70 redis50 # or --all
    python -m tests.servers path redis70          # the program's path, fetched if need be
    python -m tests.servers run redis70 -- --port 0 --unixsocket /tmp/s
    python -m tests.servers python 3.14           # the path of a Python that the system lacks, for tox
    python -m tests.servers matrix                # the part of the suite that meets the server, on each; a table

The tests take one by its name: ``SESSIONLOCK_TEST_SERVER=redis70 python -m pytest tests/conformance``. See README.md
beside this file.
"""

from __future__ import annotations

from .cache import Provided, ServerNotHad, cached, provide
from .recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Provided", "Recipe", "ServerNotHad", "cached", "provide"]
