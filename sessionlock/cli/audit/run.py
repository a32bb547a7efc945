"""``sessionlock audit URL|FILE``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading

from ...audit.detector import Detector
from ...audit.verdict import Verdict
from ..address import chosen_url
from ..failure import without_secrets
from ..printed import print_json
from ..terminal import Progress, columns_of, spelled, style_of
from .page import COST, page
from .reading import named_database, read_capture, watch

__all__ = ["run_audit"]

SECONDS = 10.0  # of a server, where nothing else is said
STATUS = {"loses": 1, "likely": 1, "none": 0, "unknown": 3}


def run_audit(arguments: argparse.Namespace) -> int:
    """Read, and say what was found. 0: nothing was lost; 1: something was; 3: there was nothing to judge.

    Raises:
        Failure: there is nothing to read.
    """
    source = chosen_url(arguments)
    live = "://" in source
    detector = Detector(arguments.match, database=named_database(source) if live else None)
    stopped = ""
    _end_as_interrupted()
    if live:
        if not _agreed(arguments.yes):
            print("sessionlock: nothing was read", file=sys.stderr)
            return 2
        try:
            stopped = asyncio.run(_watch(source, arguments.seconds or SECONDS, detector))
        except KeyboardInterrupt:
            stopped = "interrupted"  # what was read until then is told
    else:
        try:
            read_capture(source, detector, arguments.seconds)
        except KeyboardInterrupt:
            stopped = "interrupted"
    verdict = detector.finish(stopped)
    where = without_secrets(source) if live else source
    if arguments.json:
        print_json("audit", indent=2, source=where, **verdict.as_json())
    else:
        _print(verdict, where)
    return STATUS[verdict.told]


def _end_as_interrupted() -> None:
    """``timeout`` and the like end with a signal: what was read until then is told, too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _agreed(yes: bool) -> bool:
    """Say what it costs, and ask where somebody can answer."""
    print(f"sessionlock: {spelled(COST, sys.stderr)}", file=sys.stderr)
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _watch(url: str, seconds: float, detector: Detector) -> str:
    style = style_of(sys.stderr)
    progress = Progress(sys.stderr if style.live else None, style)
    try:
        return await watch(
            url,
            seconds,
            detector,
            lambda over: progress.doing(f"{over:.0f} of {seconds:g} s, {detector.commands} commands"),
        )
    finally:
        progress.clear()


def _print(verdict: Verdict, where: str) -> None:
    text = "\n".join(page(verdict, where, style_of(sys.stdout), columns_of(sys.stdout)))
    print(spelled(text, sys.stdout))
