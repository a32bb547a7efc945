"""What all integrations share, free of any framework: rules of routes, answers to errors, one request's session."""

from .mapping import WebSession
from .problems import Problem
from .rules import RoutePolicy

__all__ = ["Problem", "RoutePolicy", "WebSession"]
