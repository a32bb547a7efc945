"""How a command ends where its streams are closed or full, or a signal ends it: never by a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Ended", "complain", "open_streams", "put_away_output", "signals_end_it", "what_failed"]

SIGNALS = ("SIGTERM", "SIGHUP")
OF_OUTPUT = {errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Ended(SystemExit):
    """By a signal. A SystemExit, for an event loop lets only these through, and what is open is closed on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.status: int = 128 + number


@contextmanager
def signals_end_it() -> Iterator[None]:
    """In the body a signal raises :class:`Ended`, unless somebody cares for it already: a terminal is left as it was,
    and a server without what was tried out there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: Any) -> None:
    raise Ended(number)


def open_streams() -> None:
    """Whoever started us may have closed them (``>&-``); then Python has none, and a socket could get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as we run


def complain(text: str) -> None:
    """One line on standard error, if that can be written."""
    with suppress(OSError):
        print(f"sessionlock: {text}", file=sys.stderr, flush=True)


def what_failed(error: OSError) -> str:
    """In one line."""
    said = error.strerror or str(error)
    if error.errno in OF_OUTPUT:
        return f"its output could not be written ({said}); what it had done by then is done"
    return said if error.filename is None else f"{error.filename}: {said}"


def put_away_output() -> None:
    """What is left in its buffer is for nobody: the interpreter must not fail over it once more as it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
