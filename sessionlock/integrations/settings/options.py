"""The options that every face takes, typed for whoever calls it, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ...guard import GuardOptions, SessionGuard
from ..takeover.taking import Origin
from ..web.identity import IDENTITY
from ..web.problems import Problems
from ..web.rules import INHERITED, Mode, PolicyOptions, RoutePolicy, Rules
from . import nearest

__all__ = ["FaceOptions", "FaceSettings", "check_options"]


class FaceOptions(PolicyOptions, total=False):
    """What every face takes by keyword, beside its guard. Left out, or None: the default. ``docs/settings.md`` has the
    defaults, and the names that the options have in the settings of Django, Flask and Quart.
    """

    mode: Mode | None
    """How requests use their session that neither a decorator nor ``routes`` says anything about."""
    routes: Mapping[str, RoutePolicy | Mode] | None
    """A mode or policy for paths: see :class:`~sessionlock.integrations.web.rules.Rules`."""
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
        problems = said.get("problems", Problems())
        if not isinstance(problems, Problems):
            raise ConfigurationError(
                f"problems (SESSION_LOCK_PROBLEMS) must be a Problems, not {problems!r}: a dotted path is for Django"
            )
        policy: Any = {name: said[name] for name in INHERITED if name in said}
        return cls(
            Rules(RoutePolicy.of(said.get("mode", "auto"), policy), said.get("routes")),
            problems,
            tuple(said.get("identity", identity)),
            said.get("read_from"),
        )


def check_options(spelled: str, options: Mapping[str, Any]) -> None:
    """Whether a guard takes ``options``, which are called ``spelled``; without making anything of a URL.

    Raises:
        ConfigurationError: one that it does not know, with the nearest that it does; a value that makes no sense.
    """
    known = {name: name for name in GuardOptions.__annotations__}
    for name in options:
        if name not in known:
            raise ConfigurationError(f"{spelled}: there is no option {name!r}. {nearest(str(name), known)}")
    quorum = options.get("quorum")
    if quorum is not None:
        from ...quorum.config import Quorum

        if not isinstance(quorum, Quorum):
            raise ConfigurationError(f"{spelled}: quorum must be a Quorum, not {quorum!r}")
    try:
        SessionGuard.from_url("redis://", **{name: value for name, value in options.items() if name != "quorum"})
    except ConfigurationError as error:
        raise ConfigurationError(f"{spelled}: {error}") from None
