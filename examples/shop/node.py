"""One node, a process that ends when its standard input does: ``python -m examples.shop.node NAME SOCKET``"""

from __future__ import annotations

import os
import sys
import threading

import uvicorn

from .app import node_app

LAST_ANSWERS = 5  # seconds that requests under way get at the end


def main() -> None:
    name, path = sys.argv[1:]
    app = node_app(os.environ["SHOP_REDIS"], name, lambda: not server.should_exit)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            uds=path,
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
    )
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run()


def _end_with_parent(server: uvicorn.Server) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


if __name__ == "__main__":
    main()
