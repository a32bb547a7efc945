"""What all integrations share, free of any framework: cookies, rules, answers to errors, one request's session."""

from ..cookies import CookieSettings, usable_sid
from .mapping import WebSession
from .nesting import Held, held_here, refuse_nested
from .problems import Problem, Problems, tell
from .rules import SAFE_METHODS, RequestMode, RoutePolicy, Rules, label_of
from .starting import look_at_start
from .values import for_framework
from .visit import IDENTITY, RunAgain, Visit

__all__ = [
    "IDENTITY",
    "SAFE_METHODS",
    "CookieSettings",
    "Held",
    "Problem",
    "Problems",
    "RequestMode",
    "RoutePolicy",
    "Rules",
    "RunAgain",
    "Visit",
    "WebSession",
    "for_framework",
    "held_here",
    "label_of",
    "look_at_start",
    "refuse_nested",
    "tell",
    "usable_sid",
]
