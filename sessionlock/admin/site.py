"""What the admin page answers. No server, no framework: :class:`PageRequest` comes in, :class:`PageAnswer` goes out.

Sessions are named by their digest, in addresses, too. What is typed into the search (perhaps an id, or a user's name)
is sent in a body, so that it stands in no log. Whatever changes something is a POST with a token of its own, from this
very page, and for those only who may act.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, quote

from ..errors import CodecError, ConfigurationError, InvalidSessionId, SessionLockError
from ..operate import Operator
from ..protocol.keys import user_digest
from . import html

__all__ = ["COOKIE", "MOST_BODY", "Access", "PageAnswer", "PageRequest", "Site"]

Access = Literal["look", "act"] | bool | None

COOKIE = "sessionlock_admin"
MOST_BODY = 10_000  # bytes
SEARCH_FOR = 1.5  # seconds for which all keys are looked through
MOST_ROWS = 100
SESSION = re.compile(r"/session/([a-z0-9]{14})(/release|/destroy|/value)?")
USER = re.compile(r"/user/([A-Za-z0-9_-]{24})(/destroy)?")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """``path``: below ``root``, where the page is mounted. ``secure``: it came by https. ``forms_are_ours``: False
    where the framework has checked the form that came, and marks those that go by ``marks``.
    """

    method: str
    path: str
    root: str
    cookies: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    secure: bool = False
    access: Access = None
    forms_are_ours: bool = True
    marks: str = ""


class PageAnswer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _GoTo(Exception):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Site:
    """The page over an :class:`~sessionlock.operate.Operator`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def answer(self, asked: PageRequest) -> PageAnswer:
        """Never raises for what a visitor or Redis does: it answers with a page that says so."""
        token = asked.cookies.get(COOKIE, "")
        if asked.forms_are_ours and len(token) < 20:
            token = secrets.token_urlsafe(24)
        nonce = secrets.token_urlsafe(16)
        frame = html.Frame(
            asked.root.rstrip("/"), nonce, asked.marks or token, asked.access == "act", asked.marks != ""
        )
        status, page = 200, ""
        try:
            self._check(asked, token)
            page = await (self._done(asked, frame) if asked.method == "POST" else self._page(asked.path, frame))
        except _GoTo as there:
            return _redirection(asked.root, there.path)
        except _Refused as refused:
            status, page = refused.status, frame.page("Sessions and locks", html.message(str(refused)))
        except SessionLockError as error:
            status, page = 503, frame.page("Sessions and locks", html.message(str(error)))
        headers = [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("x-frame-options", "DENY"),
            (
                "content-security-policy",
                f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self';"
                " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            ),
        ]
        if asked.forms_are_ours and asked.cookies.get(COOKIE) != token:
            secure = "; Secure" if asked.secure else ""
            path = quote(asked.root or "/", safe="/")
            headers.append(("set-cookie", f"{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"))
        body = b"" if asked.method == "HEAD" else page.encode()
        return PageAnswer(status, headers, body)

    def _check(self, asked: PageRequest, token: str) -> None:
        if asked.access not in (True, "look", "act"):
            raise _Refused(403, "You may not see this page. Ask whoever runs the application.")
        if asked.method in ("GET", "HEAD"):
            return
        if asked.method != "POST":
            raise _Refused(405, f"{asked.method} is not understood here.")
        if len(asked.body) > MOST_BODY:
            raise _Refused(413, "That is more than a form of this page sends.")
        if asked.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _Refused(403, "This was sent by another site. Nothing was changed.")
        try:
            given = _form(asked).get("token", "")
        except ValueError:
            raise _Refused(400, "That is not a form of this page.") from None
        if asked.forms_are_ours and not hmac.compare_digest(given.encode(), token.encode()):
            raise _Refused(
                403, "This form is too old, or was not sent by this page. Nothing was changed: load it again."
            )

    # --- pages

    async def _page(self, path: str, frame: html.Frame) -> str:
        operator = self._operator
        if path in ("", "/"):
            seen = await operator.locks(within=SEARCH_FOR)
            return frame.page(
                "Sessions and locks", html.search(frame), live=html.overview(frame, operator.name, seen, MOST_ROWS)
            )
        if match := SESSION.fullmatch(path):
            digest, what = match.groups()
            if what is None:
                found = await operator.inspect(digest)
                fields = await operator.fields(digest) if found.session.exists else ()
                return frame.page(f"Session {digest}", "", live=html.session(frame, found, fields))
        if match := USER.fullmatch(path):
            user, what = match.groups()
            if what is None:
                theirs = await operator.sessions_of(user, is_digest=True)
                return frame.page(f"User {user}", html.user(frame, user, theirs))
        raise _Refused(404, "There is no such page here.")

    # --- what forms ask for

    async def _done(self, asked: PageRequest, frame: html.Frame) -> str:
        form, operator = _form(asked), self._operator
        if asked.path == "/find":
            try:
                raise _GoTo(f"/session/{operator.digest(form.get('session', '').strip())}")
            except (InvalidSessionId, ConfigurationError) as error:
                raise _Refused(400, str(error)) from None
        if asked.path == "/user":
            name = form.get("user", "").strip()
            if not name:
                raise _Refused(400, "Name a user as the application names them where it binds a session to one.")
            raise _GoTo(f"/user/{user_digest(name)}")
        whose, user = SESSION.fullmatch(asked.path), USER.fullmatch(asked.path)
        if whose is not None and whose[2] == "/value":
            return await self._value(whose[1], form.get("key", ""), frame)
        if asked.access != "act":
            raise _Refused(403, "You may look, and change nothing.")
        if user is not None and user[2]:
            await operator.destroy_all(user[1], is_digest=True)
        elif whose is not None and whose[2] == "/release":
            await operator.release(whose[1], form.get("holder", ""))
        elif whose is not None and whose[2] == "/destroy":
            await operator.destroy(whose[1])
        else:
            raise _Refused(404, "There is no such page here.")
        raise _GoTo(asked.path.rpartition("/")[0])

    async def _value(self, digest: str, key: str, frame: html.Frame) -> str:
        try:
            values = await self._operator.values(digest, [key])
            shown = html.one_value(frame, digest, key, repr(values[key]) if key in values else None)
        except CodecError as error:
            shown = html.message(str(error))
        return frame.page(f"Session {digest}", shown)


def _form(asked: PageRequest) -> dict[str, str]:
    fields = parse_qs(asked.body.decode(errors="replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[0] for name, values in fields.items()}


def _redirection(root: str, path: str) -> PageAnswer:
    location = quote(root.rstrip("/") + path)
    return PageAnswer(303, [("location", location), ("cache-control", "no-store"), ("content-length", "0")], b"")
