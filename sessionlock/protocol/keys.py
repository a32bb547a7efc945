"""Ids, and names in Redis: session id → digest → keys of one hash slot; field names; random tokens.

A session id is a bearer secret. Only its digest reaches Redis, logs and errors; it cannot be turned back.

Every id given out is 32 to 40 characters of [a-z0-9], which is what cookies, columns and validators expect. One that
:func:`renewed_sid` made has to hold its record's name as well, so a name must be short; too short to be the only
thing that keeps two sessions apart. The record therefore holds the longer *proof* of the ids that may see it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache

from ..errors import ConfigurationError, InvalidSessionId

__all__ = ["SessionKeys", "check_sid", "field_name", "key_of_field", "keys_for", "new_sid", "new_token"]

MAX_SID = 512
RESERVED = b"#"
RECORD = "[a-z0-9]{14}"  # a record's name, as a regular expression
NAME_LENGTH = 14  # 72 bits
FRESH_LENGTH = 32  # 160 bits and more
SECRET_LENGTH = 24  # of a renewed id: 120 bits and more
_RENEWED_SID = re.compile(f"sl({RECORD})[a-z0-9]{{{SECRET_LENGTH}}}")
# A byte to a character. No character stands for more than 8 of the 256 bytes: 5 bits each for whoever guesses.
_CHARACTERS = bytes(b"0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36] for byte in range(256))


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
    """A new session id: 32 characters of [a-z0-9] from the operating system's secure source, 160 bits and more."""
    return _random(FRESH_LENGTH)


def _random(length: int) -> str:
    return secrets.token_bytes(length).translate(_CHARACTERS).decode()


def new_token() -> str:
    """A name for one acquisition: 132 random bits, never reused, derived from nothing."""
    return secrets.token_urlsafe(17)[:22]


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The Redis keys of one session. All share the hash tag ``{digest}``, hence one Cluster slot.

    ``digest`` names the record. ``proof`` is what a session id must show to see it: 144 bits of its SHA-256, behind
    ``p:`` for an id from which the record's name was made, ``s:`` for one that :func:`renewed_sid` made.
    """

    prefix: str
    digest: str
    proof: str
    lock: bytes
    queue: bytes
    waiters: bytes
    session: bytes
    receipts: bytes
    sent: bytes
    """All of them, as they stand in a command."""
    read: bytes
    """The command that reads the session, as it is sent."""

    @property
    def all(self) -> tuple[bytes, ...]:
        """In the order in which every script takes them."""
        return (self.lock, self.queue, self.waiters, self.session, self.receipts)


def check_prefix(prefix: str) -> str:
    if not isinstance(prefix, str) or not prefix or not prefix.isprintable() or any(c in prefix for c in "{} "):
        raise ConfigurationError(f"prefix must be printable, without braces and spaces, not {prefix!r}")
    return prefix


def digest_of(text: str) -> str:
    """144 bits of SHA-256 in 24 characters."""
    return _encoded(hashlib.sha256(text.encode()).digest())


def _encoded(sha: bytes) -> str:
    return base64.urlsafe_b64encode(sha[:18]).decode()


def record_name(sha: bytes) -> str:
    """The name that an id with this SHA-256 gives to its record: 72 bits of it as 14 characters of [a-z0-9]."""
    return sha[:NAME_LENGTH].translate(_CHARACTERS).decode()


@lru_cache(maxsize=4096)
def _keys_for_digest(prefix: str, digest: str, proof: str) -> SessionKeys:
    stem = f"{prefix}:{{{digest}}}:".encode()
    parts = (b"lock", b"queue", b"waiters", b"session", b"receipts")
    keys = [stem + part for part in parts]
    sent = [b"$%d\r\n%b\r\n" % (len(key), key) for key in keys]
    read = b"*2\r\n$7\r\nHGETALL\r\n" + sent[parts.index(b"session")]
    keys += (b"".join(sent), read)
    return SessionKeys(prefix, digest, proof, *keys)


def keys_for(prefix: str, sid: str) -> SessionKeys:
    """The keys of a (checked) session id."""
    sha = hashlib.sha256(sid.encode()).digest()
    match = _RENEWED_SID.fullmatch(sid)
    if match is not None:
        return _keys_for_digest(prefix, match[1], f"s:{_encoded(sha)}")
    return _keys_for_digest(prefix, record_name(sha), f"p:{_encoded(sha)}")


def keys_of_record(prefix: str, digest: str) -> SessionKeys:
    """The keys of a record whose name is known, for maintenance: it proves nothing about an id."""
    return _keys_for_digest(prefix, digest, "*")


def renewed_sid(keys: SessionKeys) -> str:
    """A new id for an existing record: ``sl``, its (public) name and 24 new secret characters; 40 in all.

    So the record stays in its slot, and finding it by the new id costs no look-up.
    """
    return f"sl{keys.digest}{_random(SECRET_LENGTH)}"


def user_digest(user: str) -> str:
    """A user's name as it stands in Redis."""
    return digest_of(f"user {user}")


def user_key(prefix: str, digest: str) -> bytes:
    """The index of a user's sessions."""
    return f"{prefix}:user:{{{digest}}}".encode()


@lru_cache(maxsize=4096)
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
