"""A cart in aiohttp that loses nothing: `python examples/aiohttp_app.py [redis://…]`, then open the printed address."""

import os
import sys

from aiohttp import web

from sessionlock.integrations.aiohttp import get_session, locks_session, setup

routes = web.RouteTableDef()


@routes.post("/cart/{product}")
async def add(request: web.Request) -> web.Response:
    session = await get_session(request)  # a dict: locked, loaded; saved and released before the answer begins
    session.setdefault("cart", []).append(request.match_info["product"])
    session.sessionlock.flash("news", "it is in your cart")
    return web.json_response(session["cart"])


@routes.get("/cart")
async def show(request: web.Request) -> web.Response:
    session = await get_session(request)  # a GET does not wait; should it meet a conflict, it runs again
    news = [text for _, text in session.sessionlock.pop_flashes()]
    return web.json_response({"cart": session.get("cart", []), "news": news})


@routes.post("/login/{user}")
@locks_session(wait=1)
async def login(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["user"] = user = request.match_info["user"]  # another user: a new id, against session fixation
    return web.Response(text=f"hello {user}")


setup(app := web.Application(), sys.argv[1] if sys.argv[1:] else os.environ.get("SESSION_LOCK_URL", "embedded://"))
app.add_routes(routes)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "5000")))
