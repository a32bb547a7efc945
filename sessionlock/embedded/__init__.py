"""A private redis-server for trying out and for tests: ``embedded://``, or ``with EmbeddedServer() as server``."""

from ..errors import EmbeddedServerUnavailable
from .binary import ServerBinary, find_server
from .server import EmbeddedServer, EmbeddedServerFailed, shared_server

__all__ = [
    "EmbeddedServer",
    "EmbeddedServerFailed",
    "EmbeddedServerUnavailable",
    "ServerBinary",
    "find_server",
    "shared_server",
]
