"""The protections of the package, a table for each subject, and the runner that takes them out one at a time.

A table's entries: name, number or name of the attack, file in the package, old text, new text, tests that must fail.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Table"]

Texts: TypeAlias = "str | tuple[str, ...]"
Table: TypeAlias = "list[tuple[str, int | str, str, Texts, Texts, Texts]]"
