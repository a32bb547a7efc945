"""For the page of settings: the objects that they take, field by field, and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, NamedTuple

from sessionlock.guard import SessionGuard
from sessionlock.integrations.web.problems import Problems
from sessionlock.integrations.web.rules import RoutePolicy
from sessionlock.policies import LeasePolicy, Replicated, SessionPolicy, WaitPolicy
from sessionlock.views.cookies import CookieSettings

__all__ = ["ENVIRONMENT", "FRAMEWORK", "PARTS", "Field", "Part", "default_of", "field_names"]


class Field(NamedTuple):
    type: str
    unit: str
    effect: str
    default: str | None = None
    """In words, where the code has None for something else."""


class Part(NamedTuple):
    """``spelled``: how it is made. ``about``: a sentence below the title."""

    made: Any
    spelled: str
    about: str
    fields: Mapping[str, Field]


PARTS = (
    Part(
        SessionGuard,
        "SessionGuard.from_url(url, …)",
        "Also `SessionGuard(client, …)`, `sessionlock.configure(url, …)`, and Django's `SESSION_LOCK_OPTIONS`.",
        {
            "prefix": Field("str", "", "Begins every key in Redis"),
            "lease": Field("`LeasePolicy`", "", "How long a lock is held", "`LeasePolicy()`"),
            "wait": Field(
                "number or `WaitPolicy`", "seconds", "How long a request waits for its turn", "`WaitPolicy()`"
            ),
            "session": Field("`SessionPolicy`", "", "How a session lives and how it is saved", "`SessionPolicy()`"),
            "codec": Field("`Codec`", "", "How values become bytes: exact JSON, orjson, msgspec, encrypted", "JSON"),
            "label": Field("str", "", "Names this node where others see who holds a lock", "host:pid"),
            "name": Field("str", "", "The former name of `label`, for one release", "None"),
            "reply_within": Field("number", "seconds", "For one reply of Redis"),
            "retry_for": Field(
                "number", "seconds", "A Redis that does not answer is tried again for so long, then: `RedisUnavailable`"
            ),
            "push_limit": Field("int", "bytes", "Larger sessions are not pushed to the next in the queue, but loaded"),
            "commit_by": Field(
                "`auto` `script` `watch`", "", "How saves without the lock are made: a script, or WATCH/MULTI/EXEC"
            ),
            "durability": Field("`Replicated`", "", "For which replicas, and whose disks, a save waits", "no replica"),
            "check": Field(
                "bool",
                "",
                "Each process looks once at its server, logs what weakens a promise, refuses one that cannot do",
                "`True`, unless `SESSIONLOCK_CHECK=0`",
            ),
            "observer": Field(
                "function, or several", "", "Told what happens: logs, metrics, traces (`docs/observe.md`)", "none"
            ),
            "quorum": Field("`Quorum`", "", "Independent masters that hold the locks (`docs/quorum.md`)", "none"),
        },
    ),
    Part(
        LeasePolicy,
        "LeasePolicy(…)",
        "",
        {
            "ttl": Field("number", "seconds", "After which Redis frees the lock of a holder that died"),
            "renew": Field("bool", "", "Extend it while the request runs"),
            "max_hold": Field(
                "number", "seconds", "For which it is extended at the most", "60; around a lock alone a day"
            ),
            "claim": Field("number", "seconds", "Within which a waiter that was handed the lock must take it up"),
            "safety_margin": Field(
                "number",
                "seconds",
                "By which a holder stops earlier than Redis does",
                "1 % of `ttl` and 2 ms, at most 0.1",
            ),
            "on_lost": Field("`cancel` `flag`", "", "What a lost lease does to the code that runs under it"),
        },
    ),
    Part(
        WaitPolicy,
        "WaitPolicy(…)",
        "`WaitPolicy.seconds(5)` gives up after 5 s, `WaitPolicy.never()` takes a free lock or raises at once.",
        {
            "stop": Field("tenacity `stop_…`", "", "When `WaitTimedOut` is raised"),
            "wait": Field(
                "tenacity `wait_…`", "", "How often the first in the queue looks by itself, should a push be lost"
            ),
            "before_sleep": Field("function", "", "Called before each pause, as tenacity does"),
            "max_waiters": Field(
                "int",
                "requests",
                "More than that are refused: `QueueFull`. Counted are those in the queue in Redis and, beside it, those"
                " of the own process, up to half as many: over `p` processes up to 64 + 32 `p` may wait",
                "64; for a lock alone 10,000",
            ),
        },
    ),
    Part(
        SessionPolicy,
        "SessionPolicy(…)",
        "In Django, Flask and Quart the framework's own lifetimes win.",
        {
            "idle": Field("number", "seconds", "Without a request, after which a session ends"),
            "absolute": Field("number", "seconds", "After its beginning, at which it ends in any case", "never"),
            "refresh_below": Field(
                "number from 0 to 1", "share", "The idle time begins anew when less than that is left"
            ),
            "save": Field("`end_of_request` `immediate`", "", "When changes are saved"),
            "merge": Field(
                "dict",
                "",
                "Strategy by key: `critical`, `counter`, `append`, `deliver_once`, `union`, `by_id`, `set_once`,"
                " `last_write_wins`, or a function `(base, ours, theirs)`; `*` for all others",
                "`critical`; `deliver_once` for `_flashes`",
            ),
            "tombstone": Field("number", "seconds", "For which the id of a destroyed session stays refused"),
            "max_field": Field("int", "bytes", "Of one key's value"),
            "max_session": Field("int", "bytes", "Of all of them"),
        },
    ),
    Part(
        RoutePolicy,
        "RoutePolicy(…)",
        "For `routes`, and what the decorators say: `@locks_session(wait=1)`, `@session_readonly`,"
        ' `@session_lock_exempt`, `@session_policy(on_conflict="answer")`. `None`: as for all routes.',
        {
            "mode": Field("see `mode` above", "", "How requests of this route use their session"),
            "wait": Field("number or `WaitPolicy`", "seconds", "As above"),
            "lease": Field("`LeasePolicy`", "", "As above"),
            "save_on_error": Field("bool", "", "As above"),
            "body_limit": Field("int", "bytes", "As above"),
            "on_conflict": Field("`again` `answer`", "", "As above"),
        },
    ),
    Part(
        CookieSettings,
        "CookieSettings(…)",
        "For ASGI and aiohttp; Litestar's `SessionLockConfig` has them by its own names.",
        {
            "name": Field("str", "", "`__Host-…` and `__Secure-…` imply `secure`"),
            "max_age": Field(
                "int, `idle` or `None`",
                "seconds",
                "How long the browser keeps it; as long as the session; until it closes",
            ),
            "rolling": Field("bool", "", "Sent again, with a new age, as the session's life begins anew"),
            "path": Field("str", "", "Where it is sent"),
            "domain": Field("str", "", "Where it is sent", "this host only"),
            "secure": Field("bool or `auto`", "", "By https only; `auto`: where the request came by https"),
            "httponly": Field("bool", "", "Scripts cannot read it"),
            "samesite": Field("`lax` `strict` `none` `None`", "", "Whether other sites' requests carry it"),
            "partitioned": Field("bool", "", "A jar of its own within each other site (CHIPS)"),
        },
    ),
    Part(
        Problems,
        "Problems(…)",
        "",
        {
            "statuses": Field("dict", "", "Status by error class: `{WaitTimedOut: 423}`", "503, 429, 409, 413"),
            "retry_after": Field("int", "seconds", "Told to the client with a 503 or 429"),
            "change": Field(
                "function", "", "`(error, problem)` returns another problem, or `None`: the framework gets the error"
            ),
        },
    ),
    Part(
        Replicated,
        "Replicated(…)",
        "",
        {
            "replicas": Field("int", "replicas", "That must have a save before it counts as done"),
            "within": Field("number", "seconds", "For which they are waited for"),
            "aof": Field("bool", "", "It must be on their disks and the master's, too (`WAITAOF`)"),
            "required": Field("bool", "", "A shortfall raises `NotDurable`, and is not only told in `session.saved`"),
        },
    ),
)

ENVIRONMENT: Mapping[str, tuple[str, str, str]] = {
    "SESSIONLOCK_CHECK": ("`0`", "look", "`0`: no process looks at its server as it begins (`check=`)"),
    "SESSIONLOCK_SELF_CALLS": (
        "`wait`",
        "refuse",
        "`wait`: a request made to the own application while handling another one of the same session waits; it is not"
        " answered 409 at once. For tests whose client lives in the server's process",
    ),
    "SESSIONLOCK_SERVER": (
        "path",
        "on `PATH`, else the extra `embedded`",
        "The server program that `embedded://` starts",
    ),
}

# Settings of the frameworks' own that hold here, too; they are read at each request.
FRAMEWORK: Mapping[str, Mapping[str, str]] = {
    "Django": {
        "SESSION_ENGINE": '`"sessionlock.integrations.django"`, or a module with a subclass of its `SessionStore`',
        "SESSION_SERIALIZER": "What its `dumps` takes is taken, and comes back as its `loads` gives it",
        "SESSION_COOKIE_AGE, SESSION_EXPIRE_AT_BROWSER_CLOSE": "How long record and cookie live; `set_expiry()` wins",
        "SESSION_SAVE_EVERY_REQUEST": "Every request prolongs that, also one that changes nothing",
        "SESSION_COOKIE_NAME, _PATH, _DOMAIN, _SECURE, _HTTPONLY, _SAMESITE": "The cookie",
        "MESSAGE_STORAGE": '`"django.contrib.messages.storage.session.SessionStorage"`, or messages are not guarded',
    },
    "Flask, Quart": {
        "PERMANENT_SESSION_LIFETIME": "How long record and cookie live",
        "SESSION_REFRESH_EACH_REQUEST": "Every request prolongs that",
        "SESSION_COOKIE_NAME, _PATH, _DOMAIN, _SECURE, _HTTPONLY, _SAMESITE, _PARTITIONED": (
            "The cookie; without a `SESSION_COOKIE_SAMESITE` it is `Lax`"
        ),
    },
    "Litestar": {
        "key, max_age, path, domain, secure, httponly, samesite": "The cookie, in `SessionLockConfig`",
        "exclude, exclude_opt_key, scopes": "Which paths, handlers (`skip_session=True`), kinds of requests have none",
    },
}


def field_names(part: Part) -> tuple[str, ...]:
    """What can be said of it, in order."""
    return tuple(_defaults(part.made))


def default_of(part: Part, name: str) -> str:
    """As the code has it."""
    told = part.fields[name].default
    return told if told is not None else _shown(_defaults(part.made)[name])


def _defaults(made: Any) -> dict[str, Any]:
    if is_dataclass(made):
        return {field.name: _default(field) for field in fields(made)}
    return {
        name: parameter.default
        for name, parameter in signature(made).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }


def _default(field: Any) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'`"{value}"`'
    if type(value).__module__.startswith("tenacity"):
        return f"`{_tenacity(value)}`"
    if isinstance(value, float) and value.is_integer():
        return f"{int(value)}" if value < 86_400 else f"{int(value)} ({value / 86_400:g} days)"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 65_536:
        return f"{value} ({value // 1024} KiB)" if value < 1_048_576 else f"{value} ({value // 1_048_576} MiB)"
    return f"`{value!r}`"


def _tenacity(value: Any) -> str:
    """A tenacity object as it is made."""
    told = dict(vars(value))
    parts = told.pop("wait_funcs", None) or told.pop("stops", None)
    if parts:
        return " + ".join(_tenacity(part) for part in parts)
    shown = ", ".join(f"{getattr(each, 'value', each):g}" for each in told.values())
    return f"{type(value).__name__}({shown})"
