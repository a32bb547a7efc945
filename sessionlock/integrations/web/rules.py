"""What is done for which request: lock, or read without waiting."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, cast

from ...errors import ConfigurationError
from ...policies import LeasePolicy, WaitPolicy
from .learning import Learnt

__all__ = [
    "BODY_LIMIT",
    "SAFE_METHODS",
    "PolicyOptions",
    "RequestMode",
    "RoutePolicy",
    "Rules",
]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
OnConflict = Literal["again", "answer"]
Mode = Literal["auto", "lock", "read", "optimistic", "last_write_wins", "off"]
RequestMode = Literal["lock", "read", "optimistic", "last_write_wins", "off"]
MODES = ("auto", "lock", "read", "optimistic", "last_write_wins", "off")
MARK = "sessionlock_policy"  # the attribute by which a view says how it uses its session
BODY_LIMIT = 64 * 1_048_576
_RULE = re.compile(r"(?:([A-Za-z|]+)\s+)?(/\S*|\*\*)")
_WILD = re.compile(r"\*\*|\*|\{[^{}]*\}")


class PolicyOptions(TypedDict, total=False):
    """What may be said about a route or a view beside its mode: see :class:`RoutePolicy`. None: nothing is said."""

    wait: WaitPolicy | float | None
    """A policy, or seconds for which a request waits for its turn."""
    lease: LeasePolicy | float | None
    """A policy, or seconds for which the lock outlives a process that died."""
    save_on_error: bool | None
    """Save even where the answer is a 5xx."""
    body_limit: int | None
    """Bytes of a request's body that are received before its lock is taken."""
    on_conflict: OnConflict | None
    """Whether a safe request that met a conflict is run again, or answered 409."""


INHERITED = tuple(PolicyOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """How requests of one route use their session; None means: as the guard or the integration says.

    ``mode``: ``"auto"`` reads without waiting for safe methods (GET, HEAD, OPTIONS, TRACE; one that did change
    something commits optimistically, merging) and locks for the rest; ``"lock"``, ``"read"``, ``"optimistic"``,
    ``"last_write_wins"`` as :meth:`sessionlock.SessionGuard.session_lock` has them; ``"off"``: no session at all.
    ``on_conflict``: what becomes of a safe request in mode ``"auto"`` whose change met a conflict that no merge
    strategy resolves: ``"again"`` (default) runs it once more, under the lock, before anything of its answer is sent,
    so the view may run twice; ``"answer"`` answers 409.
    ``wait``: a policy, or seconds in the queue. ``save_on_error``: save also when the handler failed (5xx).
    ``body_limit``: bytes of the request's body that are received before its lock is taken (64 MiB; those over 1 MiB are
    kept in a temporary file), so that a slow upload holds up nobody; 0: the lock is taken first.
    """

    mode: Mode = "auto"
    wait: WaitPolicy | float | None = None
    lease: LeasePolicy | None = None
    save_on_error: bool | None = None
    body_limit: int | None = None
    on_conflict: OnConflict | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigurationError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.wait is not None and not isinstance(self.wait, WaitPolicy):
            WaitPolicy.seconds(self.wait)  # raises for what is no number of seconds
        if self.on_conflict not in (None, "again", "answer"):
            raise ConfigurationError(f"on_conflict must be 'again' or 'answer', not {self.on_conflict!r}")
        if self.body_limit is not None and (type(self.body_limit) is not int or self.body_limit < 0):
            raise ConfigurationError(f"body_limit must be a number of bytes, not {self.body_limit!r}")

    @classmethod
    def of(cls, mode: Mode, options: PolicyOptions) -> RoutePolicy:
        """The same, with a lease that may be a number: its ``ttl``.

        Raises:
            ConfigurationError: a value that makes no sense.
        """
        lease = options.get("lease")
        if lease is not None and not isinstance(lease, LeasePolicy):
            options = {**options, "lease": LeasePolicy(ttl=lease)}
        policy: Any = cls
        return cast("RoutePolicy", policy(mode, **options))

    def mode_for(self, method: str) -> RequestMode:
        """The mode of a request with this method."""
        if self.mode != "auto":
            return self.mode
        return "optimistic" if method.upper() in SAFE_METHODS else "lock"

    def may_run_again(self, method: str) -> bool:
        """Whether a conflict of a request with this method is nobody's business but ours."""
        return self.mode == "auto" and self.on_conflict != "answer" and method.upper() in SAFE_METHODS

    @property
    def body_ahead(self) -> int:
        """Bytes of a request's body that are received before its lock is taken."""
        return BODY_LIMIT if self.body_limit is None else self.body_limit

    def over(self, default: RoutePolicy) -> RoutePolicy:
        """This policy, and ``default`` where it says nothing."""
        said = {name: getattr(default, name) for name in INHERITED if getattr(self, name) is None}
        return replace(self, **said) if said else self

    def options(self) -> dict[str, Any]:
        """What :meth:`~sessionlock.SessionGuard.session_lock` takes of this under the lock."""
        given = {"wait": self.wait, "lease": self.lease, "save_on_error": self.save_on_error}
        return {name: value for name, value in given.items() if value is not None}


class Rules:
    """Which policy a request gets: of the first rule that fits, else the default.

    ``routes`` maps patterns to a :class:`RoutePolicy` or a mode. A pattern is a path: ``*`` and ``{name}`` stand for
    one segment, ``**`` and ``{name:path}`` for anything; methods may come before it::

        {"/static/**": "off", "GET|HEAD /checkout/{order}": RoutePolicy("lock", wait=1), "/feed/*": "read"}

    Raises:
        ConfigurationError: a pattern or mode that cannot be understood.
    """

    def __init__(
        self, default: RoutePolicy | Mode = "auto", routes: Mapping[str, RoutePolicy | Mode] | None = None
    ) -> None:
        self.default: RoutePolicy = _policy(default)
        self.learnt: Learnt = Learnt()
        self._rules = [
            (*_compiled(pattern), _policy(policy).over(self.default)) for pattern, policy in (routes or {}).items()
        ]

    def policy_for(self, method: str, path: str, view: object = None) -> RoutePolicy:
        """What holds for a request: what its ``view`` says, and where that says nothing, the first rule that fits.

        ``path``: without the query, decoded, within the application (no root path).
        """
        method = method.upper()
        policy = self.default
        for methods, pattern, _, by_rule in self._rules:
            if _fits(methods, pattern, method, path):
                policy = by_rule
                break
        own = None if view is None else policy_of(view, method)
        return policy if own is None else own.over(policy)

    def pattern_for(self, method: str, path: str) -> str | None:
        """The path of the first rule that fits, as it was written: a route's name, where there is no router to ask."""
        fits = (written for methods, pattern, written, _ in self._rules if _fits(methods, pattern, method, path))
        return next(fits, None)


def _fits(methods: frozenset[str] | None, pattern: re.Pattern[str], method: str, path: str) -> bool:
    return (methods is None or method in methods) and pattern.fullmatch(path) is not None


def policy_of(view: object, method: str) -> RoutePolicy | None:
    """What a decorator said about ``view``, or about the ``method`` of its class; None when none did."""
    of_class = view if isinstance(view, type) else getattr(view, "view_class", None)
    own = getattr(getattr(of_class, method.lower(), None), MARK, None)
    return cast("RoutePolicy | None", own or getattr(view, MARK, None))


def _policy(given: RoutePolicy | Mode) -> RoutePolicy:
    return given if isinstance(given, RoutePolicy) else RoutePolicy(given)


def _compiled(rule: str) -> tuple[frozenset[str] | None, re.Pattern[str], str]:
    found = _RULE.fullmatch(rule.strip())
    if found is None:
        raise ConfigurationError(
            f"a route is a path, perhaps with methods before it ('GET|HEAD /cart/*'), not {rule!r}"
        )
    methods, path = found.groups()
    literals = map(re.escape, _WILD.split(path))
    wilds = [".*" if wild == "**" or wild.endswith(":path}") else "[^/]+" for wild in _WILD.findall(path)]
    pattern = "".join(literal + wild for literal, wild in zip(literals, [*wilds, ""], strict=True))
    return frozenset(methods.upper().split("|")) if methods else None, re.compile(pattern, re.DOTALL), path
