"""Names in Redis: session id → digest → keys of one hash slot; field names; random tokens.

A session id is a bearer secret. Only its digest reaches Redis, logs and errors; it cannot be turned back.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache

from .errors import ConfigurationError, InvalidSessionId

__all__ = ["SessionKeys", "check_sid", "field_name", "key_of_field", "keys_for", "new_sid", "new_token"]

MAX_SID = 512
RESERVED = b"#"
RENEWED = "sl1."
_RENEWED_SID = re.compile(r"sl1\.([A-Za-z0-9_-]{24})\.[A-Za-z0-9_-]{43}")


def check_sid(sid: object) -> str:
    """Return ``sid`` if it is usable as a session id.

    Raises:
        InvalidSessionId: not a str, empty, over 512 characters, or with control characters, surrogates or
            line separators. The offending id itself is never shown.
    """
    if not isinstance(sid, str):
        raise InvalidSessionId(f"a session id must be a str, not {type(sid).__name__}")
    if not sid:
        raise InvalidSessionId("the session id is empty")
    if len(sid) > MAX_SID:
        raise InvalidSessionId(f"the session id has {len(sid)} characters, more than {MAX_SID}")
    if not sid.isprintable():
        raise InvalidSessionId("the session id contains control or other unprintable characters")
    return sid


def new_sid() -> str:
    """A new session id: 256 bits from the operating system's secure source, URL-safe."""
    return secrets.token_urlsafe(32)


def new_token() -> str:
    """A name for one acquisition: 132 random bits, never reused, derived from nothing."""
    return secrets.token_urlsafe(17)[:22]


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The Redis keys of one session. All share the hash tag ``{digest}``, hence one Cluster slot.

    ``digest`` names the record. ``proof`` is what a session id must show to see it: ``p:`` and the digest for an id
    from which the record's name was made, ``s:`` and the id's own digest for one that :func:`renewed_sid` made.
    """

    prefix: str
    digest: str
    proof: str
    lock: bytes
    queue: bytes
    waiters: bytes
    session: bytes
    receipts: bytes

    @property
    def all(self) -> tuple[bytes, ...]:
        """In the order in which every script takes them."""
        return (self.lock, self.queue, self.waiters, self.session, self.receipts)


def check_prefix(prefix: str) -> str:
    if not isinstance(prefix, str) or not prefix or not prefix.isprintable() or any(c in prefix for c in "{} "):
        raise ConfigurationError(f"prefix must be printable, without braces and spaces, not {prefix!r}")
    return prefix


def digest_of(sid: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(sid.encode()).digest()[:18]).decode()


@lru_cache(maxsize=4096)
def _keys_for_digest(prefix: str, digest: str, proof: str) -> SessionKeys:
    stem = f"{prefix}:{{{digest}}}:".encode()
    parts = (b"lock", b"queue", b"waiters", b"session", b"receipts")
    return SessionKeys(prefix, digest, proof, *(stem + part for part in parts))


def keys_for(prefix: str, sid: str) -> SessionKeys:
    """The keys of a (checked) session id."""
    own = digest_of(sid)
    if sid.startswith(RENEWED):
        match = _RENEWED_SID.fullmatch(sid)
        if match is not None:
            return _keys_for_digest(prefix, match[1], f"s:{own}")
    return _keys_for_digest(prefix, own, f"p:{own}")


def keys_of_record(prefix: str, digest: str) -> SessionKeys:
    """The keys of a record whose name is known, for maintenance: it proves nothing about an id."""
    return _keys_for_digest(prefix, digest, "*")


def renewed_sid(keys: SessionKeys) -> str:
    """A new id for an existing record: its (public) name and 256 new secret bits.

    So the record stays in its slot, and finding it by the new id costs no look-up.
    """
    return f"{RENEWED}{keys.digest}.{secrets.token_urlsafe(32)}"


def user_digest(user: str) -> str:
    """A user's name as it stands in Redis."""
    return digest_of(f"user {user}")


def user_key(prefix: str, digest: str) -> bytes:
    """The index of a user's sessions."""
    return f"{prefix}:user:{{{digest}}}".encode()


def field_name(key: str) -> bytes:
    """The hash field of a top-level session key; a key that begins like a reserved field is escaped."""
    name = key.encode()
    return RESERVED + name if name.startswith(RESERVED) else name


@lru_cache(maxsize=4096)
def key_of_field(name: bytes) -> str | None:
    """The session key of a hash field, None for a reserved one."""
    if name.startswith(RESERVED):
        if not name.startswith(RESERVED * 2):
            return None
        name = name[1:]
    return name.decode()
