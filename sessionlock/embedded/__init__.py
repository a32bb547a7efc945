"""A private redis-server for trying out and for tests: ``embedded://``, or ``with EmbeddedServer() as server``."""

from ..errors import EmbeddedServerUnavailable
from .server import EmbeddedServer, EmbeddedServerFailed, ServerBinary, find_server, shared_server

__all__ = [
    "EmbeddedServer",
    "EmbeddedServerFailed",
    "EmbeddedServerUnavailable",
    "ServerBinary",
    "find_server",
    "shared_server",
]
