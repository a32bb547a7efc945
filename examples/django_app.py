"""A cart in Django that loses nothing: `python examples/django_app.py [redis://…]`, then open the printed address.

`SESSION_LOCK_URL=redis://localhost gunicorn -w 2 --threads 4 examples.django_app:wsgi`, or, natively async,
`SESSION_LOCK_URL=redis://localhost uvicorn --workers 2 examples.django_app:asgi`.
"""

import os
import sys

from django.conf import settings
from django.contrib import messages
from django.core.asgi import get_asgi_application
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

# The three lines: the engine, where it keeps sessions, and its middleware in the place of Django's SessionMiddleware.
SESSION_ENGINE = "sessionlock.integrations.django"
SESSION_LOCK_URL = os.environ.get("SESSION_LOCK_URL", "embedded://")
if __name__ == "__main__" and sys.argv[1:]:
    SESSION_LOCK_URL = sys.argv[1]
MIDDLEWARE = [
    "sessionlock.integrations.django.SessionLockMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

settings.configure(
    SECRET_KEY="for this example only",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage",
    SESSION_ENGINE=SESSION_ENGINE,
    SESSION_LOCK_URL=SESSION_LOCK_URL,
    MIDDLEWARE=MIDDLEWARE,
)

from sessionlock.integrations.django.decorators import locks_session, session_readonly  # noqa: E402  (settings come first)


def add(request: HttpRequest, product: str) -> JsonResponse:
    request.session.setdefault("cart", []).append(product)  # a POST: held since before the view, saved with the answer
    messages.info(request, f"{product} is in your cart")
    return JsonResponse({"cart": request.session["cart"]})


def show(request: HttpRequest) -> JsonResponse:
    news = [str(message) for message in messages.get_messages(request)]
    return JsonResponse({"cart": request.session.get("cart", []), "news": news})


@session_readonly
async def count(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"products": len(await request.session.aget("cart", []))})


@locks_session(wait=1)
def login(request: HttpRequest, user: str) -> JsonResponse:
    request.session["user"] = user
    request.session.cycle_key()  # a new key, against session fixation
    return JsonResponse({"hello": user})


urlpatterns = [
    path("", show),
    path("add/<product>", add),
    path("count", count),
    path("login/<user>", login),
]
wsgi = get_wsgi_application()
asgi = get_asgi_application()

if __name__ == "__main__":
    server = ThreadedWSGIServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), WSGIRequestHandler)
    server.daemon_threads = True
    server.set_app(wsgi)
    print(f"running on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
