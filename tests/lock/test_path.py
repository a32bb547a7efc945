"""How many modules one request without contention runs through: whoever reads the path has to open these."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import pytest

import sessionlock
from sessionlock import SessionGuard

pytestmark = pytest.mark.anyio

PACKAGE = Path(sessionlock.__file__).parent
MOST = 23


async def test_few_modules_run_in_a_request_that_waits_for_nobody(redis_url: str) -> None:
    """The codec is not counted: it is the application's choice."""
    ran: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        place = Path(frame.f_code.co_filename)
        if event == "call" and place.is_relative_to(PACKAGE):
            ran.add(place.relative_to(PACKAGE).as_posix())

    async with SessionGuard.from_url(redis_url) as guard:
        for n in range(2):
            sys.setprofile(note if n else None)
            try:
                async with guard.session_lock("s") as session:
                    session["n"] = n
            finally:
                sys.setprofile(None)
    on_the_path = {module for module in ran if not module.startswith("codecs/")}
    assert {"guard.py", "lock/context.py", "lock/acquire.py", "transport/wire.py"} <= on_the_path
    assert len(on_the_path) <= MOST, " ".join(sorted(on_the_path))
