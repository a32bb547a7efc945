"""The options that every face takes, typed for whoever calls it, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from ...policies import LeasePolicy, WaitPolicy
from ..takeover.taking import Origin
from ..web.identity import IDENTITY
from ..web.problems import Problems
from ..web.rules import INHERITED, Mode, OnConflict, RoutePolicy, Rules, lease_of

__all__ = ["FaceOptions", "FaceSettings"]


class FaceOptions(TypedDict, total=False):
    """What every face takes by keyword, beside its guard. Left out, or None: the default. ``docs/settings.md`` has the
    defaults, and the names that the options have in the settings of Django, Flask and Quart.
    """

    mode: Mode | None
    """How requests use their session that neither a decorator nor ``routes`` says anything about."""
    routes: Mapping[str, RoutePolicy | Mode] | None
    """A mode or policy for paths: see :class:`~sessionlock.integrations.web.rules.Rules`."""
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
    identity: Iterable[str] | None
    """Keys that tell who is logged in. When one gets another value, the session gets a new id."""
    problems: Problems | None
    """What errors of the session become."""
    read_from: Origin | None
    """Where the sessions are that visitors have already (:mod:`sessionlock.integrations.takeover`)."""


@dataclass(frozen=True, slots=True)
class FaceSettings:
    """What the options come to, for all requests of one application."""

    rules: Rules
    problems: Problems
    identity: tuple[str, ...]
    origin: Origin | None

    @classmethod
    def of(cls, options: FaceOptions | Mapping[str, Any], *, identity: Iterable[str] = IDENTITY) -> FaceSettings:
        """``options`` are checked already, by :func:`.check_arguments` or :func:`.checked`. ``identity``: the face's
        default.

        Raises:
            ConfigurationError: options that make no sense together.
        """
        said: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        inherited = {name: said[name] for name in INHERITED if name in said}
        if "lease" in said:
            inherited["lease"] = lease_of(said["lease"])
        return cls(
            Rules(RoutePolicy(said.get("mode", "auto"), **inherited), said.get("routes")),
            said.get("problems") or Problems(),
            tuple(said.get("identity", identity)),
            said.get("read_from"),
        )
