"""What the admin page answers. No server, no framework: :class:`PageRequest` comes in, :class:`PageAnswer` goes out.

Sessions are named by their digest, in addresses, too. What is typed into the search (perhaps an id, or a user's name)
is sent in a body, so that it stands in no log. Whatever changes something is a POST with a token of its own, from this
very page, and for those only who may act. What was done, or shown of a session's values, is logged with who did it.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ..errors import CodecError, ConfigurationError, InvalidSessionId, SessionLockError
from ..operate import Operator
from ..protocol.keys import user_digest
from . import html

__all__ = ["COOKIE", "MOST_BODY", "Access", "Done", "PageAnswer", "PageRequest", "Site"]

log: logging.Logger = logging.getLogger("sessionlock.admin")

Access = Literal["locks", "look", "act"] | bool | None

COOKIE = "sessionlock_admin"
MOST_BODY = 100_000  # bytes
SEARCH_FOR = 1.5  # seconds for which all keys are looked through
MOST_LOCKS = 5_000  # of which is read who holds them
MOST_ROWS = 100
MOST_KEYS = 200  # of a session on one page
OUTCOMES = {
    "released": "The lock was taken away. Its holder's late save will be refused.",
    "not-held": "Nothing was taken away: that holder did not have the lock any more.",
    "ended": "The session has ended.",
    "no-session": "Nothing was ended: there was no such session.",
}
SESSION = re.compile(r"/session/([a-z0-9]{14})(/release|/destroy|/value)?")
USER = re.compile(r"/user/([A-Za-z0-9_-]{24})(/destroy)?")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """``path``: below ``root``, where the page is mounted. ``secure``: it came by https. ``who``: its sender, for the
    log. ``forms_are_ours``: False where the framework has checked the form that came, and marks those that go by
    ``marks``. ``back``: where a link leads back to the host's own pages. ``users_are``: how one names them here.
    """

    method: str
    path: str
    root: str
    query: str = ""
    cookies: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    secure: bool = False
    access: Access = None
    who: str = ""
    forms_are_ours: bool = True
    marks: str = ""
    back: str = ""
    users_are: str = "as the application names them in guard.bind(sid, user)"


class Done(NamedTuple):
    """What was done: ``"show"`` a value, ``"release"`` a lock, ``"destroy"`` a session, ``"destroy_all"`` of a user.

    ``digest``: of the session, or of the user. ``number``: of what was done; 0: nothing was there any more. ``key``:
    of the value. ``who``: as the host named them, or "".
    """

    what: Literal["show", "release", "destroy", "destroy_all"]
    digest: str
    number: int
    key: str
    who: str


class PageAnswer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    done: Done | None = None


ELSEWHERE = "This was sent by another site. Nothing was changed."


class _GoTo(Exception):
    def __init__(self, path: str, outcome: str = "") -> None:
        super().__init__(path)
        self.path = path
        self.outcome = outcome


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Site:
    """The page over an :class:`~sessionlock.operate.Operator`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._was_done: Done | None = None

    async def answer(self, asked: PageRequest) -> PageAnswer:
        """Never raises for what a visitor or Redis does: it answers with a page that says so."""
        token = asked.cookies.get(COOKIE, "")
        if asked.forms_are_ours and len(token) < 20:
            token = secrets.token_urlsafe(24)
        nonce = secrets.token_urlsafe(16)
        frame = html.Frame(
            asked.root.rstrip("/"),
            nonce,
            asked.marks or token,
            asked.access == "act",
            asked.access != "locks",
            asked.marks != "",
            asked.back,
        )
        status, page = 200, ""
        try:
            self._check(asked, token)
            page = await (self._done(asked, frame) if asked.method == "POST" else self._page(asked, frame))
        except _GoTo as there:
            return _redirection(asked.root, there, self._was_done)
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
        if status == 405:
            headers.append(("allow", "GET, HEAD, POST"))
        body = b"" if asked.method == "HEAD" else page.encode(errors="replace")
        return PageAnswer(status, headers, body, self._was_done)

    def _check(self, asked: PageRequest, token: str) -> None:
        if asked.access not in (True, "locks", "look", "act"):
            if asked.access not in (False, None, ""):
                log.warning("allow(...) gave %r, which is none of 'locks', 'look', 'act', True", asked.access)
            raise _Refused(403, "You may not see this page. Ask whoever runs the application.")
        if asked.method in ("GET", "HEAD"):
            return
        if asked.method != "POST":
            raise _Refused(405, f"{asked.method} is not understood here.")
        if len(asked.body) > MOST_BODY:
            raise _Refused(413, "That is more than a form of this page sends.")
        if asked.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _Refused(403, ELSEWHERE)
        if asked.forms_are_ours and "sec-fetch-site" not in asked.headers and not _is_own(asked.headers):
            raise _Refused(403, f"{ELSEWHERE} Or a proxy in front of the application does not pass on the host.")
        try:
            given = _form(asked).get("token", "")
        except ValueError:
            raise _Refused(400, "That is not a form of this page.") from None
        if asked.forms_are_ours and not hmac.compare_digest(given.encode(), token.encode()):
            raise _Refused(
                403, "This form is too old, or was not sent by this page. Nothing was changed: load it again."
            )

    # --- pages

    async def _page(self, asked: PageRequest, frame: html.Frame) -> str:
        operator, path = self._operator, asked.path.rstrip("/")
        named = {name: values[0] for name, values in parse_qs(asked.query, max_num_fields=20).items()}
        said = _said(named.get("done", ""))
        if path == "":
            seen = await operator.locks(within=SEARCH_FOR, most=MOST_LOCKS)
            content = said + html.search(frame, asked.users_are)
            where = f"{operator.name}, prefix {operator.prefix}"
            return frame.page("Sessions and locks", content, live=html.overview(frame, where, seen, MOST_ROWS))
        if match := SESSION.fullmatch(path):
            digest, what = match.groups()
            if what is None:
                found = await operator.inspect(digest)
                part, begin = html.Part((), 0, 0), int(number) if (number := named.get("from", "0")).isdecimal() else 0
                if found.session.exists:
                    part = html.Part(*await operator.fields_from(digest, begin, MOST_KEYS), begin)
                live = html.session(frame, found, part, operator.prefix)
                return frame.page(f"Session {digest}", said, live=live)
        if match := USER.fullmatch(path):
            user, what = match.groups()
            if what is None:
                theirs = await operator.sessions_of(user, is_digest=True)
                return frame.page(f"User {user}", said + html.user(frame, user, theirs, asked.users_are, MOST_ROWS))
        raise _Refused(404, "There is no such page here.")

    # --- what forms ask for

    async def _done(self, asked: PageRequest, frame: html.Frame) -> str:
        form, operator, path = _form(asked), self._operator, asked.path.rstrip("/")
        if path == "/find":
            try:
                raise _GoTo(f"/session/{operator.digest(form.get('session', '').strip())}")
            except (InvalidSessionId, ConfigurationError) as error:
                raise _Refused(400, str(error)) from None
        if path == "/user":
            name = form.get("user", "").strip()
            if not name:
                raise _Refused(400, f"Name a user {asked.users_are}.")
            raise _GoTo(f"/user/{user_digest(name)}")
        whose, user = SESSION.fullmatch(path), USER.fullmatch(path)
        if whose is not None and whose[2] == "/value":
            if asked.access == "locks":
                raise _Refused(403, "You may not see values.")
            return await self._value(asked, whose[1], unquote(form.get("key", "")), frame)
        if asked.access != "act":
            raise _Refused(403, "You may look, and change nothing.")
        if user is not None and user[2]:
            count = await operator.destroy_all(user[1], is_digest=True)
            self._note(Done("destroy_all", user[1], count, "", asked.who))
            outcome = f"{count}"
        elif whose is not None and whose[2] == "/release":
            released = await operator.release(whose[1], form.get("holder", ""))
            self._note(Done("release", whose[1], int(released), "", asked.who))
            outcome = "released" if released else "not-held"
        elif whose is not None and whose[2] == "/destroy":
            existed = await operator.destroy(whose[1])
            self._note(Done("destroy", whose[1], int(existed), "", asked.who))
            outcome = "ended" if existed else "no-session"
        else:
            raise _Refused(404, "There is no such page here.")
        raise _GoTo(path.rpartition("/")[0], outcome)

    async def _value(self, asked: PageRequest, digest: str, key: str, frame: html.Frame) -> str:
        try:
            values = await self._operator.values(digest, [key])
            shown = html.one_value(frame, digest, key, repr(values[key]) if key in values else None)
            self._note(Done("show", digest, len(values), key, asked.who))
        except CodecError as error:
            shown = html.message(f"{error}. Is the page's codec= the one of the guard?")
        return frame.page(f"Session {digest}", shown)

    def _note(self, done: Done) -> None:
        self._was_done = done
        what = f"show the value of {done.key!r}" if done.what == "show" else done.what
        whose = "user" if done.what == "destroy_all" else "session"
        log.info("%s: %s, %s %s: %d", done.who or "somebody", what, whose, done.digest, done.number)


def _said(outcome: str) -> str:
    """A message for what came of an action."""
    if outcome.isdecimal():
        number = int(outcome[:9])
        return html.told(f"{number:,} session{'' if number == 1 else 's'} of this user ended.")
    return html.told(OUTCOMES[outcome]) if outcome in OUTCOMES else ""


def _is_own(headers: Mapping[str, str]) -> bool:
    """Whether a form comes from this host, for browsers that do not say so themselves: they say from where it comes.

    Another site's form cannot set the host, nor what a proxy says was the host.
    """
    came_from = headers.get("origin") or headers.get("referer")
    hosts = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    return came_from is None or any(_same_host(came_from, host.strip()) for host in hosts if host)


def _same_host(came_from: str, host: str) -> bool:
    try:
        theirs, ours = urlsplit(came_from), urlsplit(f"//{host}")
        usual = {"http": 80, "https": 443}.get(theirs.scheme)
        return theirs.hostname == ours.hostname and (theirs.port or usual) == (ours.port or usual)
    except ValueError:
        return False


def _form(asked: PageRequest) -> dict[str, str]:
    fields = parse_qs(asked.body.decode(errors="replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[0] for name, values in fields.items()}


def _redirection(root: str, there: _GoTo, done: Done | None) -> PageAnswer:
    location = quote(root.rstrip("/") + there.path) + (f"?done={there.outcome}" if there.outcome else "")
    headers = [("location", location), ("cache-control", "no-store"), ("content-length", "0")]
    return PageAnswer(303, headers, b"", done)
