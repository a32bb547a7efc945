"""How a request is named, to those who wait for it and in the log: by its route.

Never by its path, which has many values and may have a secret in it; nor by a method that HTTP does not know, for
anybody can send one. So there are no more names than the application has routes, times some methods.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["METHODS", "NO_ROUTE", "OTHER_METHOD", "RouteName", "label_of"]

# As OpenTelemetry's conventions have `http.request.method`; and how a websocket is called here.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
OTHER_METHOD = "_OTHER"
WEBSOCKET = "WEBSOCKET"
NO_ROUTE = "(no route)"  # the router has none that fits (it is answered 404 or 405), or there is no router to ask


def label_of(method: str, route: str | None) -> str:
    """The request as others see it, and as logs and errors name it. ``route``: the pattern of the router that fits."""
    if method not in METHODS and method != WEBSOCKET:
        method = OTHER_METHOD
    label = f"{method} {route or NO_ROUTE}"
    printable = label if label.isprintable() else "".join(c if c.isprintable() else "?" for c in label)
    return printable if len(printable) <= 100 else f"{printable[:99]}…"


class RouteName:
    """The name of one request, found when somebody wants it first. ``find``: the pattern of its route."""

    __slots__ = ("_find", "_label", "_method")

    def __init__(self, method: str, find: Callable[[], str | None]) -> None:
        self._method = method
        self._find = find
        self._label = ""

    def __str__(self) -> str:
        if not self._label:
            self._label = label_of(self._method, self._find())
        return self._label
