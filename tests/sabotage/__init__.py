"""The protections of the package, a table for each subject, and the runner that takes them out one at a time.

A table's entries: name, number or name of the attack, file in the package, old text, new text, tests that must fail;
and a server, where it shows itself on that one only.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Table"]

Texts: TypeAlias = "str | tuple[str, ...]"
Entry: TypeAlias = "tuple[str, int | str, str, Texts, Texts, Texts]"
OnOneServer: TypeAlias = "tuple[str, int | str, str, Texts, Texts, Texts, str]"
Table: TypeAlias = "list[Entry | OnOneServer]"
