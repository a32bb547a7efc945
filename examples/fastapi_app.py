"""FastAPI: locked where a path operation asks for it.  REDIS_URL=redis://localhost:6379/0 python fastapi_app.py"""

import os

import uvicorn
from fastapi import FastAPI, Request

from sessionlock.integrations.asgi.middleware import SessionLockMiddleware
from sessionlock.integrations.fastapi import LockedSession

app = FastAPI()
app.add_middleware(
    SessionLockMiddleware, guard=os.environ.get("REDIS_URL", "redis://localhost:6379/0"), mode="optimistic"
)


@app.get("/")
async def show(request: Request) -> list[str]:
    return list(request.session.get("cart", []))  # reads without waiting


@app.post("/add/{item}")
async def add(item: str, session: LockedSession) -> list[str]:
    cart: list[str] = session.setdefault("cart", [])
    cart.append(item)  # nobody else has this session now, on any node
    return cart


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
