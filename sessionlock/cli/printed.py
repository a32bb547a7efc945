"""What commands print in JSON: each object tells its schema and its command."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["SCHEMA", "print_json"]

SCHEMA = 1  # raised when a name that JSON output has is taken away or gets another meaning


def print_json(what: str, *, indent: int | None = None, **content: Any) -> None:
    """One object, in one line unless ``indent`` says otherwise."""
    print(json.dumps({"schema": SCHEMA, "command": what, **content}, default=str, indent=indent), flush=True)
