"""What the tests are made with: servers to harm, processes to kill, sites to visit, and ledgers to judge them by."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sessionlock

__all__ = ["ROOT", "import_path", "stable_name"]

ROOT = Path(__file__).resolve().parents[2]


def import_path(*more: str | Path) -> str:
    """``PYTHONPATH`` of a child: the very package that is tested here, wherever that is, then these helpers."""
    return os.pathsep.join(map(str, (Path(sessionlock.__file__).parent.parent, ROOT, *more)))


def stable_name(parameter: object) -> str:
    """What a case is called in every run, whatever the address of what it is given."""
    return re.sub(r" at 0x\w+", "", ascii(parameter))[:40]
