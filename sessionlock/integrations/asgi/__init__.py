"""Sessions for ASGI applications: Starlette, FastAPI, Litestar, and whatever else speaks ASGI."""

from .middleware import SessionLockMiddleware, visit_of

__all__ = ["SessionLockMiddleware", "visit_of"]
