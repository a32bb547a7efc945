"""Fields that Redis, its backups and its operators cannot read or change unnoticed.

What is promised: the value is secret, a changed byte is noticed, and a field moved to another key of a
session is refused. What is not: the names of the keys and the length of a value stay visible; whoever can
write to Redis can put back an older value of the same key, or copy one from another session.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

from ..errors import CodecError, ConfigurationError
from .base import Codec

__all__ = ["FernetCodec"]

_LENGTH_BYTES = 4


class FernetCodec:
    """Seals what ``inner`` encodes with Fernet (AES-128-CBC and HMAC-SHA256, from ``cryptography``).

    ``keys`` is one Fernet key or several: the first one seals, every one opens. To rotate, put the new key in
    front, and drop the old one when every session that was sealed with it has been saved again or is gone.

    Sealing the same value twice gives different bytes. To tell whether a value changed, compare the encodings
    of ``inner``, which ``unseal`` gives back. A sealed int is no number to Redis: HINCRBY refuses it.

    Raises ConfigurationError for no key or a malformed one, ImportError when ``cryptography`` is not installed.
    """

    def __init__(self, inner: Codec, keys: str | bytes | Iterable[str | bytes]) -> None:
        try:
            fernet = import_module("cryptography.fernet")
        except ImportError as exc:
            raise ImportError('cryptography is not installed; pip install "sessionlock[crypto]" brings it') from exc
        ring = [keys] if isinstance(keys, (str, bytes)) else list(keys)
        if not ring:
            raise ConfigurationError("FernetCodec needs at least one key")
        self.name: str = f"fernet({inner.name})"
        self.inner = inner
        try:
            self._box = fernet.MultiFernet([fernet.Fernet(key) for key in ring])
        except ValueError as error:  # it does not show the key
            raise ConfigurationError(f"FernetCodec was given a malformed key: {error}") from None
        self._invalid: type[Exception] = fernet.InvalidToken

    def encode(self, key: str, value: object) -> bytes:
        """Return ``value`` encoded by ``inner`` and sealed. Raises CodecError as ``inner`` does."""
        return self.seal(key, self.inner.encode(key, value))

    def decode(self, key: str, data: bytes) -> object:
        """Return the value sealed in ``data``. Raises CodecError, also for data of another key."""
        return self.inner.decode(key, self.unseal(key, data))

    def seal(self, key: str, data: bytes) -> bytes:
        """Encrypt and sign ``data`` for the field ``key``."""
        sealed: bytes = self._box.encrypt(_bound(key) + data)
        return sealed

    def unseal(self, key: str, data: bytes) -> bytes:
        """Return what was sealed for the field ``key``.

        Raises CodecError when ``data`` was changed, or sealed with an unknown key, for another field or not
        at all.
        """
        opened: bytes | None = None
        with suppress(self._invalid, TypeError):  # InvalidToken says nothing more, on purpose
            opened = self._box.decrypt(data)
        if opened is None:
            raise _unreadable(key, "it was changed, or not sealed with any of the keys")
        name = _bound(key)
        if not opened.startswith(name):
            raise _unreadable(key, "it was sealed for another field")
        return opened[len(name) :]


def _unreadable(key: str, reason: str) -> CodecError:
    return CodecError(f"stored field {key} cannot be read: {reason}", key=key, path=key)


def _bound(key: str) -> bytes:
    """Return the field's name so that no name and data can be mistaken for another name and data."""
    try:
        name = key.encode()
    except UnicodeEncodeError:
        name = None
    if name is None:
        raise CodecError("a key with a lone surrogate is not valid text", key=key, path=key)
    return len(name).to_bytes(_LENGTH_BYTES, "big") + name
