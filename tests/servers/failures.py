"""How a server that cannot be had is told."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ServerNotHad", "obtain"]

PATIENCE = 600.0  # seconds for one command; a mirror may be slow, but a test run must not hang for ever


class ServerNotHad(Exception):
    """This server cannot be had on this machine, now; the message says why in words."""


def obtain(
    doing: str, command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What the command printed.

    Raises:
        ServerNotHad: it is not there, failed, or took too long; ``doing`` says what it was for.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        raise ServerNotHad(f"{doing} needs {command[0]}, which this machine lacks") from None
    except subprocess.TimeoutExpired:
        raise ServerNotHad(f"{doing} took longer than {PATIENCE:g} s") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise ServerNotHad(f"{doing} failed:\n{_indented(_errors(said))}")
    return done.stdout.decode(errors="replace")


def _errors(said: str) -> str:
    """The lines that tell the failure, or the last ones where none is marked as such."""
    lines = said.splitlines()
    return "\n".join([line for line in lines if line.startswith(("E:", "ERROR", "dpkg"))] or lines[-5:])


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
