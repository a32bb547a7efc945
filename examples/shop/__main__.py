"""Opens the shop: a server of its own (or ``--redis URL``), two nodes, and the switch before them."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from contextlib import ExitStack

import uvicorn

from sessionlock.embedded import EmbeddedServer, EmbeddedServerUnavailable

from .nodes import Nodes
from .switch import Switch

LAST_ANSWERS = 5  # seconds that requests under way get when the shop closes


class Door(uvicorn.Server):
    """The switch's server. The nodes go first: then their streams end, and ours with them."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        super().__init__(
            uvicorn.Config(
                Switch(nodes.sockets),
                log_level="warning",
                access_log=False,
                server_header=False,  # the nodes say these
                date_header=False,
                lifespan="on",
                timeout_graceful_shutdown=LAST_ANSWERS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._nodes.tell_to_end()
        await super().shutdown(sockets)


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; then leave nothing behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve(_arguments())
    except KeyboardInterrupt:
        return 0
    except EmbeddedServerUnavailable as error:
        print(f"shop: {error}", file=sys.stderr)
        return 2


def _serve(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        door = stack.enter_context(socket.create_server(("127.0.0.1", arguments.port)))
        redis = arguments.redis or stack.enter_context(EmbeddedServer()).unix_url
        nodes = stack.enter_context(Nodes(redis))
        for name, pid in nodes.pids.items():
            print(f"node {name}: process {pid}")
        print(f"the shop is open: http://127.0.0.1:{door.getsockname()[1]}  (Ctrl-C closes it)", flush=True)
        Door(nodes).run(sockets=[door])
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument("--redis", metavar="URL", help="a Redis or Valkey of yours (default: a private one)")
    parser.add_argument("--port", type=int, default=0, help="on the loopback interface (default: a free one)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
