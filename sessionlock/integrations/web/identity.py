"""Who is logged in, as far as a session tells. When that changes, the session gets a new id: somebody may have planted
the old one in the visitor's browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...session.mapping import Session

__all__ = ["IDENTITY", "Login", "Persons", "same_person", "tells_a_person"]

LIKE = "*"
# Keys under which applications and their extensions keep who is logged in: another value is another user. "*" stands
# for every key whose name looks like it, for nobody can know them all: with its first value somebody logged in.
IDENTITY = ("user_id", "_user_id", "userid", "uid", "user", "username", "account_id", "_auth_user_id", LIKE)
# Where such a key holds an object, what tells one person from another. All else in it may change: a name, a last visit.
TELLING = ("sub", "id", "_id", "pk", "oid", "user_id", "uid", "uuid", "username", "login", "email")
GRACE = 30.0  # seconds for requests in flight, where the old id was that of somebody who had logged in already
_LOOKS_LIKE = re.compile(
    r"user|log(ged|in|on)|sign(ed)?_?in|auth(?!or)|account|customer|member|admin|staff|saml|oidc|cas_|token|e-?mail"
    r"|profile|ident|subject|principal|person(?!al)|claims|credential",
    re.IGNORECASE,
)
# What a login keeps while it is under way, what a form protects itself by, and what is no name at all.
_IS_NONE = re.compile(
    r"csrf|xsrf|state|nonce|verif|challenge|next|redirect|return|referr?er|flow|pending|attempt|fail|request|agent|lang"
    r"|locale|theme|error|message|flash|hint|form|draft|wizard|filter|sort|search|seen|visit|count|time|expir|_at$|date",
    re.IGNORECASE,
)


def same_person(before: Any, after: Any) -> bool:
    """Whether two values of one such key stand for the same user."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return bool(before == after)
    # Where none of these names tells, it is a profile of somebody who was logged in already.
    return all(before.get(name) == after.get(name) for name in TELLING if name in before or name in after)


def looks_like_one(key: str) -> bool:
    """Whether a key of this name probably tells who is logged in."""
    return _LOOKS_LIKE.search(key) is not None and _IS_NONE.search(key) is None


def tells_a_person(content: Mapping[str, Any]) -> bool:
    """Whether somebody is logged in in a session with this content."""
    return any(value and (key in IDENTITY or looks_like_one(key)) for key, value in content.items())


class Persons:
    """Who was logged in when ``session`` was loaded, and whether somebody else is now. ``keys`` as :data:`IDENTITY`."""

    def __init__(self, keys: Iterable[str], session: Session) -> None:
        self._keys = [key for key in keys if key != LIKE]
        self._guesses = LIKE in keys
        self._stored = session.data.encoded()

    def grace_for_another(self, session: Session) -> float | None:
        """None: it is still the same user, or nobody. Else the seconds for which the replaced id may work on."""
        for key in self._keys:
            after = session.peek(key)
            if after is not None and not same_person(self._before(session, key), after):
                return 0.0
        if not self._guesses:
            return None
        if not any(
            session.peek(key) and not self._before(session, key) for key in filter(looks_like_one, session.data.given())
        ):
            return None
        return GRACE if any(self._before(session, key) for key in self._stored if self._tells(key)) else 0.0

    def _tells(self, key: str) -> bool:
        return key in self._keys or looks_like_one(key)

    def _before(self, session: Session, key: str) -> Any:
        return session.data.decoded(key, self._stored.get(key))


class Login:
    """Whether a request logs somebody in, and so gives its session a new id, once. ``keys`` as :data:`IDENTITY`."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self._persons: Persons | None = None
        self._is_told = False
        self.is_done: bool = False
        self.came_by: str | None = None
        """The id of the stored session that the request came to, if there was one."""

    def anew(self, keys: Iterable[str]) -> Login:
        """For the same request, once the session was opened again."""
        other = Login(keys)
        other._is_told, other.is_done = self._is_told, self.is_done
        return other

    def came(self, sid: str) -> None:
        """The request came to the stored session of this id."""
        self.came_by = sid

    def watch(self, session: Session) -> None:
        """From now on ``session`` is looked at."""
        self._persons = Persons(self._keys, session)

    def tell(self) -> None:
        """Somebody logged in, and no key in the session tells."""
        self._is_told = True

    def done(self) -> None:
        """The session has got its new id."""
        self.is_done = True

    def grace(self, session: Session) -> float | None:
        """Seconds for which the id that is replaced may work on; None: there is no reason for a new one."""
        if self.is_done or self._persons is None:
            return None
        return 0.0 if self._is_told else self._persons.grace_for_another(session)
