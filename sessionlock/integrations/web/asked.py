"""What is known of a request before its session is opened, and the ways to open it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ...codecs.base import Codec
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...selfcalls.check import refusing
from ...selfcalls.nesting import held_here, refuse_nested
from ...selfcalls.sockets import Client
from ...session.block import SessionBlock
from ...views.cookies import CookieSettings
from ..takeover.taking import Origin, TakeOver
from .identity import IDENTITY
from .learning import Learnt
from .naming import RouteName
from .rules import SAFE_METHODS, RequestMode, RoutePolicy, Rules

__all__ = ["Asked"]

LONGEST = 100  # characters of a path by which a page is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. ``sid``: what its cookie says, if it says anything usable; ``told``: the id that the browser has.

    ``name``: how others see it, and logs and errors. ``client``: who sent it. ``learnt``: the face runs safe requests
    again that met a conflict, and remembers them by ``page``.
    ``identity``: keys whose change gives a new id. ``codec``, ``lifetime``: others than the guard's. ``old``: where
    sessions are that visitors had before.
    """

    guard: SessionGuard
    cookie: CookieSettings
    policy: RoutePolicy
    sid: str | None
    told: str | None
    method: str
    name: RouteName
    page: str
    https: bool
    client: Client | None
    learnt: Learnt | None
    identity: tuple[str, ...]
    codec: Codec | None
    lifetime: SessionPolicy
    old: TakeOver | None

    @classmethod
    def of(
        cls,
        guard: SessionGuard,
        cookie: CookieSettings,
        policy: RoutePolicy,
        sid: str | None,
        *,
        method: str = "GET",
        path: str = "/",
        route: Callable[[], str | None] | None = None,
        https: bool = False,
        client: Client | None = None,
        rules: Rules | None = None,
        identity: Iterable[str] = IDENTITY,
        codec: Codec | None = None,
        lifetime: SessionPolicy | None = None,
        origin: Origin | None = None,
        old_cookie: str | None = None,
    ) -> Asked:
        """What a face knows. ``route``: the pattern of its router that fits; None, or where there is no
        router that it knows: the rule that fits. ``rules`` None: it cannot run a request again. ``old_cookie``: what
        ``origin``'s cookie says (see :mod:`..takeover`).
        """

        def pattern() -> str | None:
            found = None if route is None else route()
            return found or (None if rules is None else rules.pattern_for(method, path))

        lifetime = lifetime or guard.session_policy
        old = None
        if origin is not None and (old_cookie is not None or origin.write_back):
            old = TakeOver(origin, guard, old_cookie or "", lifetime, codec)
        method = method.upper()
        return cls(
            guard=guard,
            cookie=cookie.lasting(lifetime.idle),
            policy=policy,
            sid=sid,
            told=sid,
            method=method,
            name=RouteName(method, pattern),
            page=f"{method} {path}"[:LONGEST],
            https=https,
            client=client,
            learnt=rules.learnt if rules is not None else None,
            identity=tuple(identity),
            codec=codec,
            lifetime=lifetime,
            old=old,
        )

    def under_the_lock(self, sid: str | None) -> Asked:
        """The same request once more."""
        return replace(self, policy=replace(self.policy, mode="lock"), sid=sid, learnt=None)

    @property
    def seen_as(self) -> str:
        """By those who wait for this request, and who read the log: its route."""
        return str(self.name)

    @property
    def is_safe(self) -> bool:
        """Whether its method is one that changes nothing by HTTP's rules."""
        return self.method in SAFE_METHODS

    @property
    def ends_on_loss(self) -> bool:
        """Whether a request that has changed its session ends when its lease is lost."""
        return (self.policy.lease or self.guard.lease_policy).on_lost == "cancel"

    def block(self, sid: str, mode: RequestMode, *, yields: bool) -> SessionBlock:
        """The way to the stored session ``sid``. ``yields``: without the lock, it commits nothing while another request
        holds it, for that one's save could meet it as a conflict.
        """
        return self._locked(sid) if mode == "lock" else self._loaded(sid, mode, yields)

    def _locked(self, sid: str) -> SessionBlock:
        refuse_nested(self.guard, sid)
        options = self.policy.options()
        lease = options.pop("lease", self.guard.lease_policy)
        block: Any = self.guard.session_lock(
            sid,
            missing="reject",
            label=self.seen_as,
            session=self.lifetime,
            codec=self.codec,
            lease=replace(lease, on_lost="flag"),  # who changed nothing may go on
            **options,
        )
        held: SessionBlock = block
        held.when_waiting(refusing(self.client))
        return held

    def _loaded(self, sid: str, mode: Any, yields: bool) -> SessionBlock:
        mode = "read" if mode == "off" else mode
        yields = yields and held_here(self.guard, sid) is None  # or the holder would wait for itself
        return self.guard.unlocked(sid, mode, missing="reject", session=self.lifetime, codec=self.codec, yields=yields)

    def beginning(self, mode: Any = "optimistic") -> SessionBlock:
        """An empty session, stored under an id of its own if something is put in."""
        return self.guard.beginning(mode, self.lifetime, self.codec)
