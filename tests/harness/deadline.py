"""A hook for the conftest of a folder whose asynchronous tests must fail rather than hang."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any

import anyio
import pytest

DEADLINE = 20.0  # seconds; an attack that succeeds by hanging must fail


def within(seconds: float) -> Callable[[pytest.Function], Generator[None, object, object]]:
    """The hook ``pytest_pyfunc_call``: every asynchronous test of the folder has so many seconds, or its mark's."""

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        test = pyfuncitem.obj
        marked = pyfuncitem.get_closest_marker("deadline")
        allowed = marked.args[0] if marked else seconds
        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def in_time(*args: Any, **kwargs: Any) -> None:
                with anyio.fail_after(allowed):
                    await test(*args, **kwargs)

            pyfuncitem.obj = in_time
        return (yield)

    return pytest_pyfunc_call


pytest_pyfunc_call = within(DEADLINE)
