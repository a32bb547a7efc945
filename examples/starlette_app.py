"""Starlette with sessions that lose nothing.  REDIS_URL=redis://localhost:6379/0 python starlette_app.py"""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessionlock.integrations.asgi import SessionLockMiddleware


async def show(request: Request) -> JSONResponse:
    return JSONResponse(request.session.get("cart", []))


async def add(request: Request) -> JSONResponse:
    cart = request.session.setdefault("cart", [])
    cart.append(request.path_params["item"])  # deep changes are noticed
    return JSONResponse(cart)


routes = [Route("/", show), Route("/add/{item}", add, methods=["POST"])]
sessions = Middleware(SessionLockMiddleware, guard=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app = Starlette(routes=routes, middleware=[sessions])

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
