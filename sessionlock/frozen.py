"""Values that are frozen for the type checker, and quick to make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda decorator: decorator


__all__ = ["quickly_frozen"]

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def quickly_frozen(cls: type[C]) -> type[C]:
    """A dataclass that is frozen for the type checker only: at run time that would take three times as long to make."""
    return dataclass(slots=True)(cls)
