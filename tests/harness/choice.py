"""Which server the tests run on, and by which protocol their guards speak to it: chosen by the environment.

``SESSIONLOCK_TEST_SERVER=redis70``: a server by its name, fetched by ``python -m tests.servers`` if need be. Without
it the library's own choice holds: ``SESSIONLOCK_SERVER`` (a path), ``PATH``, wheels.

``SESSIONLOCK_TEST_PROTOCOL=3`` (or 2): RESP3 or RESP2 for guards, by the urls of the shared server, of
clusters, Sentinels and quorums.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from sessionlock.embedded import EmbeddedServer
from sessionlock.embedded.binary import SERVER_VARIABLE
from tests.servers import ServerNotHad, provide

__all__ = ["NO_RESP3", "by_default", "choose_server", "in_chosen_protocol", "speaks_resp3"]

NAME_VARIABLE = "SESSIONLOCK_TEST_SERVER"
PROTOCOL_VARIABLE = "SESSIONLOCK_TEST_PROTOCOL"
NO_RESP3 = "this server is older than RESP3 (Redis 6.0)"


def choose_server() -> None:
    """Make the named server everybody's, the processes that the tests start included.

    Raises:
        pytest.UsageError: it cannot be had; the message says why.
    """
    name = os.environ.get(NAME_VARIABLE)
    if not name:
        return
    try:
        os.environ[SERVER_VARIABLE] = str(provide(name).path)
    except ServerNotHad as why:
        raise pytest.UsageError(f"{NAME_VARIABLE}={name}: {why}") from None


def in_chosen_protocol(url: str) -> str:
    """The url, asking for the protocol that was chosen for this run, if one was."""
    protocol = os.environ.get(PROTOCOL_VARIABLE)
    if not protocol:
        return url
    return f"{url}{'&' if '?' in url else '?'}protocol={protocol}"


def by_default(server: EmbeddedServer) -> dict[str, Any]:
    """Options of an application's own client: redis-py chooses the protocol, where the server leaves it a choice."""
    return {} if speaks_resp3(server) else {"protocol": 2}


def speaks_resp3(server: EmbeddedServer) -> bool:
    """Redis 5, the oldest that is supported, does not know HELLO."""
    return server.binary.version >= (6,)
