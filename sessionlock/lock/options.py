"""The options of a block as type checkers see them, whichever face takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from tenacity import AsyncRetrying

    from ..codecs.base import Codec
    from ..policies import LeasePolicy, SessionPolicy, WaitPolicy

__all__ = ["AttemptOptions", "LockOptions", "Missing", "Mode", "SharedOptions", "TransactionOptions", "ViewOptions"]

Missing = Literal["create", "reject"]
Mode = Literal["lock", "read", "optimistic", "last_write_wins"]


class _Options(TypedDict, total=False):
    lease: LeasePolicy | None
    wait: WaitPolicy | float | None
    session: SessionPolicy | None
    save_on_error: bool
    label: str | None
    name: str | None  # its former name; for one release


class SharedOptions(_Options, total=False):
    """Of a block that holds several sessions together."""

    missing: Missing


class LockOptions(SharedOptions, total=False):
    """Of a block around one session; :meth:`sessionlock.SessionGuard.session_lock` explains them."""

    mode: Mode
    expected_version: int | None
    serializable: bool
    codec: Codec | None


class TransactionOptions(TypedDict, total=False):
    """Of a transaction, of either face."""

    missing: Missing
    session: SessionPolicy | None


class AttemptOptions(TransactionOptions, total=False):
    """What :meth:`sessionlock.SessionGuard.attempts` and :meth:`sessionlock.SessionGuard.transaction` take."""

    retry: AsyncRetrying | None


class ViewOptions(_Options, total=False):
    """Of a view that ``@session_locked`` decorates. ``missing`` None: as the source of its ids has it."""

    mode: Mode
    missing: Missing | None
