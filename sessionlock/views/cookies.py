"""The cookie that carries a session id: its settings, its two headers, finding it in a request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from ..errors import ConfigurationError, InvalidSessionId
from ..policies import SessionPolicy
from ..protocol.keys import check_sid

__all__ = ["CookieSettings", "usable_sid", "value_of"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110; a cookie's name
_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]*")  # RFC 6265; a cookie's value, unquoted
_ATTRIBUTE = re.compile(r"[ -:<-~]+")  # printable ASCII without the semicolon
_USUAL = math.ceil(SessionPolicy().idle)
_LONG_AGO = "Thu, 01 Jan 1970 00:00:00 GMT"


@dataclass(frozen=True, slots=True)
class CookieSettings:
    """How the session id travels.

    ``max_age``: seconds for which the browser keeps the cookie, None until it is closed; ``"idle"``: for as long as the
    session lives without a request (``SessionPolicy.idle``), so that both end together. ``rolling``: a request that
    used the session sends the cookie again, so that its ``max_age`` starts anew as the session's life does; one whose
    id was replaced meanwhile does not. ``secure``: True, False, or ``"auto"``: when the
    request came by https. Names that begin with ``__Host-`` or ``__Secure-`` imply it. ``samesite``: ``"lax"``,
    ``"strict"``, ``"none"``, or None for no such attribute. ``domain`` None: this host only. ``partitioned``: CHIPS.

    Raises:
        ConfigurationError: a name, path or domain that cannot be written; a prefix whose rules are not kept
            (``__Host-``: secure, path ``/``, no domain); ``samesite="none"`` or ``partitioned`` without ``secure``.
    """

    name: str = "session_id"
    max_age: int | Literal["idle"] | None = "idle"
    rolling: bool = True
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] = "auto"
    httponly: bool = True
    samesite: Literal["lax", "strict", "none"] | None = "lax"
    partitioned: bool = False

    def __post_init__(self) -> None:
        self._check_values()
        prefix = next((p for p in ("__Host-", "__Secure-") if self.name.lower().startswith(p.lower())), None)
        if prefix is not None and self.secure == "auto":
            object.__setattr__(self, "secure", True)
        if prefix is not None and self.secure is not True:
            raise ConfigurationError(f"a cookie named {self.name!r} must be secure: browsers refuse it otherwise")
        if prefix == "__Host-" and (self.path != "/" or self.domain is not None):
            raise ConfigurationError(f"a cookie named {self.name!r} must have path '/' and no domain")
        if self.samesite == "none" and self.secure is not True:
            raise ConfigurationError("samesite='none' needs secure=True: browsers refuse the cookie otherwise")
        if self.partitioned and self.secure is not True:
            raise ConfigurationError("a partitioned cookie needs secure=True: browsers refuse it otherwise")

    def _check_values(self) -> None:
        if not _TOKEN.fullmatch(self.name):
            raise ConfigurationError(f"{self.name!r} cannot be the name of a cookie")
        if not self.path.startswith("/") or not _ATTRIBUTE.fullmatch(self.path):
            raise ConfigurationError(f"a cookie's path begins with '/' and is plain ASCII, not {self.path!r}")
        if self.domain is not None and not _ATTRIBUTE.fullmatch(self.domain):
            raise ConfigurationError(f"{self.domain!r} cannot be the domain of a cookie")
        if self.samesite not in ("lax", "strict", "none", None):
            raise ConfigurationError(f"samesite must be lax, strict, none or None, not {self.samesite!r}")
        if self.secure not in (True, False, "auto"):
            raise ConfigurationError(f"secure must be True, False or 'auto', not {self.secure!r}")
        age = self.max_age
        if age not in (None, "idle") and (isinstance(age, bool) or not isinstance(age, int) or age <= 0):
            raise ConfigurationError(f"max_age must be a whole number of seconds above 0, 'idle' or None, not {age!r}")

    def lasting(self, idle: float) -> CookieSettings:
        """These settings for a session that lives ``idle`` seconds without a request."""
        return _lasting(self, math.ceil(idle)) if self.max_age == "idle" else self

    @property
    def _seconds(self) -> int | None:
        return _USUAL if self.max_age == "idle" else self.max_age

    def is_secure(self, https: bool) -> bool:
        """Whether a cookie for a request that came by https (or not) is marked Secure."""
        return https if self.secure == "auto" else self.secure

    def kwargs(self, *, https: bool = False) -> dict[str, Any]:
        """The settings for the ``set_cookie`` of Django, Werkzeug, Starlette and aiohttp, without the name."""
        return {
            "max_age": self._seconds,
            "path": self.path,
            "domain": self.domain,
            "secure": self.is_secure(https),
            "httponly": self.httponly,
            "samesite": self.samesite.capitalize() if self.samesite else None,
        }

    def render(self, sid: str, *, https: bool = False) -> str:
        """The value of the Set-Cookie header that gives ``sid`` to the browser.

        Raises:
            InvalidSessionId: the id has characters that no cookie can carry.
        """
        if not _VALUE.fullmatch(sid):
            raise InvalidSessionId("the session id has characters that a cookie cannot carry")
        age = "" if self._seconds is None else f"; Max-Age={self._seconds}"
        return f"{self.name}={sid}{age}{self._attributes(https)}"

    def render_deletion(self, *, https: bool = False) -> str:
        """The value of the Set-Cookie header that takes the cookie away."""
        return f"{self.name}=; Max-Age=0; Expires={_LONG_AGO}{self._attributes(https)}"

    def _attributes(self, https: bool) -> str:
        parts = [f"Path={self.path}"]
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.is_secure(https):
            parts.append("Secure")
        if self.httponly:
            parts.append("HttpOnly")
        if self.samesite is not None:
            parts.append(f"SameSite={self.samesite.capitalize()}")
        if self.partitioned:
            parts.append("Partitioned")
        return "".join(f"; {part}" for part in parts)

    def find(self, header: str) -> str | None:
        """The session id in a Cookie header; None when it is absent or cannot be an id.

        Of several cookies with this name the first counts: browsers send the one with the most specific path first.
        """
        return usable_sid(value_of(header, self.name))


def value_of(header: str, cookie: str) -> str | None:
    """The value of a cookie in a Cookie header: of the first with this name."""
    for part in header.split(";"):
        name, separator, value = part.partition("=")
        if separator and name.strip() == cookie:
            return value.strip().strip('"')
    return None


@lru_cache(maxsize=64)
def _lasting(settings: CookieSettings, seconds: int) -> CookieSettings:
    return replace(settings, max_age=seconds)


def usable_sid(value: str | None) -> str | None:
    """``value`` if it can be a session id, else None: what a browser sends is not an error."""
    try:
        return check_sid(value)
    except InvalidSessionId:
        return None
