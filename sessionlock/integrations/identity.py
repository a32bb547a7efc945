"""Who is logged in, as far as a session tells."""

from __future__ import annotations

from typing import Any

__all__ = ["IDENTITY", "same_person"]

# Keys under which applications and their extensions keep who is logged in. When one of them gets another value, the
# session gets a new id: somebody may have planted the old one.
IDENTITY = ("user_id", "_user_id", "userid", "uid", "user", "username", "account_id", "_auth_user_id")
# Where such a key holds an object, what tells one person from another. All else in it may change: a name, a last visit.
TELLING = ("sub", "id", "_id", "pk", "oid", "user_id", "uid", "uuid", "username", "login", "email")


def same_person(before: Any, after: Any) -> bool:
    """Whether two values of one such key stand for the same user."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return bool(before == after)
    told = [name for name in TELLING if name in before or name in after]
    if not told:
        return before == after
    return all(before.get(name) == after.get(name) for name in told)
