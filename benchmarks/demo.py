"""What ``python -m sessionlock demo`` prints."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.commands import Options, main
from benchmarks.report import Report

WITHIN = 120.0  # seconds


def run(options: Options) -> Report:
    """Run it.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "sessionlock", "demo"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WITHIN).stdout
    return Report("demo", "The demo", "`python -m sessionlock demo`", [], [], [], printed=printed.strip())


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
