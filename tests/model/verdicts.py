"""What a walk over all states of a model is to come to."""

from __future__ import annotations

from typing import Any

from tests.model.explore import Model, explore

__all__ = ["breaks_no_promise", "is_found"]


def breaks_no_promise(model: Model[Any], *, at_most: int) -> None:
    found = explore(model, at_most=at_most)
    print(f"{found.states:,} states, {found.steps:,} steps")
    assert not found.complaint, "\n".join((found.complaint, *found.trace))


def is_found(model: Model[Any], complaint: str, *, at_most: int) -> None:
    """Of a model without one of its protections."""
    found = explore(model, at_most=at_most)
    assert complaint in found.complaint
    assert found.trace
