"""What is asked for, when somebody wants a lock."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import fields
from operator import attrgetter
from typing import Any

from ..errors import ConfigurationError
from ..policies import LeasePolicy, SessionPolicy, WaitPolicy, quickly_frozen
from ..protocol.keys import SessionKeys
from ..protocol.replies import Holder

__all__ = ["LockRequest", "OnWait", "Question", "check_label"]


@quickly_frozen
class LockRequest:
    """``label``: what others see of the holder. ``session`` None: only the lock, for storage of one's own; then with
    its ``name``, which is no secret as a session's id is. ``longest``: seconds for the whole wait, inf where its kind
    does not tell; for who does not wait, for one reply.

    ``missing``: whether a session without a record is begun or refused. ``push_limit``: a larger session is not pushed
    with a grant. ``for_itself``: it may wait although the caller holds that lock. ``began``: when the wait did, by the
    monotonic clock, where it is for other locks as well; None: when it is asked for.
    """

    keys: SessionKeys
    label: str
    lease: LeasePolicy
    wait: WaitPolicy
    session: SessionPolicy | None
    missing: str
    push_limit: int
    for_itself: bool = False
    name: str = ""
    longest: float = math.inf
    began: float | None = None

    def labelled(self, label: str) -> LockRequest:
        """The same under another label; quicker than :func:`dataclasses.replace`."""
        other = LockRequest(*_everything(self))
        object.__setattr__(other, "label", label)
        return other

    @property
    def title(self) -> str:
        """What is locked, for people."""
        return f"lock {self.name!r}" if self.name else f"session {self.digest}"

    @property
    def digest(self) -> str:
        """The name of the session's record: what errors and logs call it."""
        return self.keys.digest


_everything: Callable[[LockRequest], tuple[Any, ...]] = attrgetter(*(field.name for field in fields(LockRequest)))
# What may speak against a wait: awaited beside it; what that raises ends the wait, unless the grant comes first.
Question = Callable[[], Coroutine[Any, Any, None]]
# Called once, as the wait begins, with who is waited for; None: there is no question.
OnWait = Callable[[LockRequest, Holder], "Question | None"]


def check_label(label: str | None) -> str:
    """What others are to see of a node, or of what it does with the lock; "" for None."""
    if label is None:
        return ""
    if not isinstance(label, str) or not label.isprintable() or len(label) > 120:
        raise ConfigurationError(
            f"label, what others see of a holder, must be a printable str of at most 120 characters, not {label!r:.200}"
        )
    return label
