"""What views know of a block and of the session in it, whichever face they come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import MutableMapping
from typing import Any

from ..session.block import Block
from ..session.mapping import Session

__all__ = ["Block", "SessionOfThread", "core_of", "is_session"]


class SessionOfThread(MutableMapping[str, Any]):
    """A session as a thread sees it. Here one knows no more of it than where the real one is."""

    @property
    @abstractmethod
    def core(self) -> Session:
        """The session that lives in the event loop."""


SESSIONS = (Session, SessionOfThread)


def core_of(session: Session | SessionOfThread) -> Session:
    return session.core if isinstance(session, SessionOfThread) else session


def is_session(thing: object) -> bool:
    """Whether it is a session, or a class of sessions."""
    return issubclass(thing, SESSIONS) if isinstance(thing, type) else isinstance(thing, SESSIONS)
