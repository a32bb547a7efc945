"""``sessionlock inspect``, ``release`` and ``logout``: see one session, take its lock, end it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...operate import Inspection, Operator, SessionField, SessionState
from ..failure import Failure, one_line
from ..printed import print_json
from ..tables import Column, Page, Table, print_page
from ..units import count, duration, size
from .asking import answered, answered_user, ask
from .rows import as_json, who

__all__ = ["run_inspect", "run_logout", "run_release"]

KEYS = (Column("key", cut=True), Column("size", right=True), Column("value", rank=1, cut=True))
LABEL = 11


class _Named(NamedTuple):
    """What the command line names, and what that is taken for."""

    digest: str
    hint: str  # for the answer that there is no such thing: what was named may not be what it was taken for


class _Looked(NamedTuple):
    named: _Named
    seen: Inspection
    fields: Sequence[SessionField]
    values: dict[str, Any]


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print who holds, who waits, and what the record is. The session id is never printed: only its digest."""

    said = answered(arguments.session)

    async def look(operator: Operator) -> _Looked:
        named = _named(operator, said, arguments)
        seen = await operator.inspect(named.digest)
        fields = await operator.fields(named.digest) if arguments.keys else ()
        return _Looked(named, seen, fields, await operator.values(named.digest, arguments.value))

    named, seen, fields, values = looked = ask(arguments, look)
    if arguments.json:
        print_json("inspect", **_as_json(looked, arguments))
    else:
        tables = []
        if arguments.keys:
            tables.append(Table("keys", KEYS[:2], [(field.key, size(field.bytes)) for field in fields]))
        if arguments.value:
            rows = [(key, "", json.dumps(values[key], default=repr)) for key in arguments.value if key in values]
            tables.append(Table("values", (KEYS[0], KEYS[2]), [(row[0], row[2]) for row in rows], "no such key"))
        lines = [f"{label:<{LABEL}}{text}" for label, text in _lines(seen)]
        doubt = named.hint and not seen.known
        print_page(Page(lines, tables, [f"nothing is known of it{named.hint}"] if doubt else []))
    return 0 if seen.known else 1


def run_release(arguments: argparse.Namespace) -> int:
    """Take the lock from the holder with that token, or from whoever was shown before the question."""

    token, said = arguments.token, answered(arguments.session)

    async def find(operator: Operator) -> tuple[_Named, Inspection]:
        named = _named(operator, said, arguments)
        return named, await operator.inspect(named.digest)

    if token is None:
        named, seen = ask(arguments, find)
        holder = seen.lock.holder
        if holder is None:
            hint = "" if seen.known else named.hint
            return _told(arguments, "release", False, f"nothing was released: nobody holds that lock{hint}")
        held = "for an unknown time" if holder.held_for is None else f"for {duration(holder.held_for)}"
        if not _agreed(arguments, f"Take the lock of {seen.lock.digest} from {one_line(who(holder))}, held {held}?"):
            return _told(arguments, "release", False, "nothing was released")
        token = holder.token

    async def release(operator: Operator) -> tuple[_Named, bool]:
        named = _named(operator, said, arguments)
        return named, await operator.release(named.digest, token)

    named, released = ask(arguments, release)
    if released:
        told = "released; the next waiter has the lock if there is one, and that holder's late save will be refused"
        return _told(arguments, "release", True, told)
    told = f"nothing was released: that token does not hold the lock any more{named.hint}"
    return _told(arguments, "release", False, told)


def run_logout(arguments: argparse.Namespace) -> int:
    """End one session, or all of a user."""
    if (arguments.session is None) == (arguments.user is None):
        raise Failure("say which session, or --user and whose")
    if arguments.user is None:
        return _log_out_one(arguments)
    user = answered_user(arguments)
    theirs = ask(arguments, lambda operator: operator.sessions_of(user))
    if not theirs:
        told = "nothing was ended: no session is bound to that user (by guard.bind, as docs/cli.md has it)"
        return _told(arguments, "logout", False, told, ended=0)
    if not _agreed(arguments, f"End {count(len(theirs), 'session')} of this user?"):
        return _told(arguments, "logout", False, "nothing was ended", ended=0)
    ended = ask(arguments, lambda operator: operator.destroy_all(user))
    return _told(arguments, "logout", ended > 0, f"ended {count(ended, 'session')}", ended=ended)


def _log_out_one(arguments: argparse.Namespace) -> int:
    said = answered(arguments.session)

    async def look(operator: Operator) -> tuple[_Named, Inspection]:
        named = _named(operator, said, arguments)
        return named, await operator.inspect(named.digest)

    async def end(operator: Operator) -> bool:
        return await operator.destroy(_named(operator, said, arguments).digest)

    named, seen = ask(arguments, look)
    if not seen.session.exists:
        hint = "" if seen.known else named.hint
        return _told(arguments, "logout", False, f"nothing was ended: there is no such session{hint}", ended=0)
    if not _agreed(arguments, f"End the session {seen.session.digest} ({_record(seen.session)})?"):
        return _told(arguments, "logout", False, "nothing was ended", ended=0)
    ended = ask(arguments, end)
    return _told(arguments, "logout", ended, "ended" if ended else "it had ended already", ended=int(ended))


def _named(operator: Operator, said: str, arguments: argparse.Namespace) -> _Named:
    digest = operator.digest(said, is_id=arguments.id)
    if arguments.id or operator.is_digest(said):
        return _Named(digest, "")
    return _Named(digest, f". What you gave was taken for a session's id; a digest has all of {len(digest)} characters")


def _agreed(arguments: argparse.Namespace, question: str) -> bool:
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise Failure(f"{question} Nobody can be asked here: give --yes to agree beforehand")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _told(arguments: argparse.Namespace, what: str, done: bool, text: str, **more: Any) -> int:
    if arguments.json:
        print_json(what, done=done, told=text, **more)
    else:
        print(text, file=sys.stdout if done else sys.stderr)
    return 0 if done else 1


# --- telling


def _lines(seen: Inspection) -> Iterator[tuple[str, str]]:
    lock, session = seen.lock, seen.session
    yield "session", session.digest
    yield "record", _record(session)
    if session.exists:
        yield "data", _data(session)
    if session.user:
        yield "user", f"{session.user} (a digest)"
    holder = lock.holder
    if holder is None:
        yield "held by", "nobody"
    else:
        since = "for an unknown time" if holder.held_for is None else f"for {duration(holder.held_for)}"
        ends = "without an end" if holder.lease_left is None else f"lease ends in {duration(holder.lease_left)}"
        yield "held by", f"{one_line(who(holder))}, {since}, {ends}"
        yield "token", one_line(holder.token)
        if holder.trace:
            yield "trace", one_line(holder.trace)
    yield "fence", str(lock.fence) if lock.fence else "none yet"
    yield "waiters", f"{lock.waiting:,}" if lock.waiting else "none"
    for place, waiter in enumerate(lock.waiters, 1):
        waited = "" if waiter.waited is None else f", for {duration(waiter.waited)}"
        yield "", f"{place}. {one_line(f'{waiter.node} {waiter.route}'.strip() or 'unknown')}{waited}"
    if lock.queue > len(lock.waiters):
        yield "", f"and {lock.queue - len(lock.waiters):,} more"
    if holder is not None and holder.riders:
        yield "", f"{'and ' if lock.queue else ''}{holder.riders:,} in the holder's process, as it was granted the lock"


def _record(session: SessionState) -> str:
    if session.destroyed:
        return "destroyed; its id stays refused for a while"
    if not session.exists:
        return "none"
    expires = "never expires" if session.expires_in is None else f"expires in {duration(session.expires_in)}"
    ends = "" if session.ends_in is None else f", ends in any case in {duration(session.ends_in)}"
    return f"version {session.version}, {expires}{ends}"


def _data(session: SessionState) -> str:
    weighs = "" if session.bytes is None else f", {size(session.bytes)} of memory"
    began = "" if session.age is None else f", began {duration(session.age)} ago"
    return f"{count(session.keys, 'key')}{weighs}{began}"


def _as_json(looked: _Looked, arguments: argparse.Namespace) -> dict[str, Any]:
    """``name`` to ``riders`` are what this command told before there was ``lock`` and ``session``; they stay."""
    lock, session = looked.seen.lock, looked.seen.session
    holder = lock.holder
    told: dict[str, Any] = {
        "name": session.digest,
        "holder": holder
        and {
            "token": holder.token,
            "label": who(holder),
            "age": holder.held_for,
            "remaining": holder.lease_left,
        },
        "fencing_token": lock.fence,
        "waiters": [f"{waiter.node} {waiter.route}".strip() for waiter in lock.waiters],
        "exists": session.exists,
        "destroyed": session.destroyed,
        "version": session.version,
        "expires_in": session.expires_in,
        "riders": holder.riders if holder is not None else 0,
        "lock": as_json(lock),
        "session": as_json(session),
    }
    if arguments.keys:
        told["keys"] = [{"key": field.key, "bytes": field.bytes} for field in looked.fields]
    if arguments.value:
        told["values"] = looked.values
    return told
