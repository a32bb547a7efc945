"""Errors as responses, in the place of the application's: what others put on that stays."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import BadRequest
from django.http import HttpResponse
from django.utils.cache import patch_vary_headers

from ...errors import SessionLockError
from ..web.headers import stays
from ..web.problems import tell
from . import settings

__all__ = ["is_one", "is_ours", "made_of_an_error", "not_told_by_us", "problem", "replaced", "take_over"]


def is_one(error: SessionLockError) -> bool:
    """Whether the error is to be told to the client; else it is a mistake in the program, and a 500."""
    return settings.current().problems.answer(error) is not None


def problem(error: SessionLockError, request: Any) -> Any:
    """The error as a response, which is logged; None for a mistake in the program."""
    told = settings.current().problems.answer(error, request.META.get("HTTP_ACCEPT"))
    if told is None:
        return None
    tell(error, request.sessionlock_run.label)
    response = HttpResponse(told.content(), status=told.status)
    for name, value in told.headers():
        response.headers[name] = value
    response._sessionlock = response._has_been_logged = True  # Django would log a 5xx at ERROR, and mail it
    return response


def not_told_by_us(record: logging.LogRecord) -> bool:
    """A filter for Django's log: what we make an answer of, and tell, is not told again with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, SessionLockError) and isinstance(error, BadRequest))


def is_ours(response: Any) -> bool:
    """Whether it is one of these already."""
    return getattr(response, "_sessionlock", False)


def made_of_an_error(response: Any) -> bool:
    """Whether Django made it of an exception that a view or a middleware raised."""
    return response.status_code >= 500 or (response.status_code == 400 and getattr(response, "_has_been_logged", False))


def replaced(answer: Any, response: Any) -> Any:
    """``answer`` in the place of ``response``, with the headers and cookies that others have put on that."""
    take_over(answer, response)
    for name, value in response.items():
        if stays(name) and name not in answer:
            answer[name] = value
    for name, cookie in response.cookies.items():
        if name != django_settings.SESSION_COOKIE_NAME:
            answer.cookies[name] = cookie
    patch_vary_headers(answer, ("Cookie",))
    return answer


def take_over(answer: Any, response: Any) -> None:
    """What is to be closed with ``response``, which is not sent, is closed with ``answer``: the request ends once."""
    answer._resource_closers.extend(response._resource_closers)
    response._resource_closers.clear()
