"""The few places of a Quart application that a session interface does not reach."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from quart import Quart
from quart.ctx import RequestContext
from quart.globals import _cv_request, _cv_websocket
from quart.wrappers import Request, Websocket

from ...errors import SessionLockError
from ..flask_family.application import EXTENSION
from .again import QuartRun, twice_if_need_be
from .session import QuartUse, ours

if TYPE_CHECKING:
    from .interface import SessionLockInterface

__all__ = ["GuardedQuart", "use_here"]


class GuardedQuart(Quart):
    """What an application is from ``init_app`` on, beside its own class."""

    def _is_guarded(self) -> bool:
        """Whether nobody has put another session interface in our place."""
        interface = cast("SessionLockInterface", self.extensions[EXTENSION])
        return cast(Any, self.session_interface) is interface or interface.tell_replaced(self)

    async def handle_request(self, request: Request) -> Any:
        """As Quart's; a safe request whose session met a conflict once more, before anything of it is sent."""
        if not self._is_guarded():
            return await super().handle_request(request)
        return await twice_if_need_be(self, super().handle_request, request)

    async def handle_websocket(self, websocket: Websocket) -> Any:
        """As Quart's; one whose client has gone keeps what it has written, as one that ended by itself."""
        if not self._is_guarded():
            return await super().handle_websocket(websocket)
        interface = cast("SessionLockInterface", self.session_interface)
        run, handle = QuartRun(websocket), super().handle_websocket

        async def handled(websocket: Websocket) -> Any:
            try:
                return await handle(websocket)
            except asyncio.CancelledError:
                if run.use is not None:
                    await interface.end_socket(run.use)
                raise

        return await run.handled(handled)

    async def full_dispatch_request(self, request_context: RequestContext | None = None) -> Any:
        """As Quart's; an error of the session in a hook after the view, or that its lock was lost, is answered, too."""
        try:
            return await super().full_dispatch_request(request_context)
        except SessionLockError as error:
            trouble: SessionLockError = error
        except asyncio.CancelledError as cancelled:
            run = QuartRun.of((request_context or _cv_request.get()).request)
            lost = run.loss(cancelled) if run is not None else None
            if lost is None:
                raise
            trouble = lost
        result = await self.handle_user_exception(trouble)
        return await self.finalize_request(cast(Any, result), request_context, from_error_handler=True)

    async def handle_user_exception(self, error: Exception) -> Any:
        """As Quart's; from here on a session that could not be had is no error any more."""
        use = use_here()
        if use is not None and isinstance(error, SessionLockError):
            use.answer_is_ready()
        return await super().handle_user_exception(error)

    async def process_response(self, response: Any, request_context: RequestContext | None = None) -> Any:
        """As Quart's; nothing of ours takes the place of an error's answer."""
        use = use_here()
        if use is not None and response.status_code >= 500:
            use.answer_is_ready()
        return await super().process_response(response, request_context)


def use_here() -> QuartUse | None:
    """Of the request, or the websocket, that is being handled; without counting as a look at it."""
    context: Any = _cv_request.get(None) or _cv_websocket.get(None)
    return None if context is None else ours(context.session)
