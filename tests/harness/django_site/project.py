"""A project as people have them: a database, the admin, and packages that keep something in the session.

For server processes: ``tests.harness.django_site.project:wsgi()`` and ``asgi()``; :func:`prepare` makes the
database before.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import django
from django.conf import settings

Asked = Any
PASSWORD = "a-long-one-7"


def configured() -> None:
    """``WAY`` "usual" is without us: Django's own sessions in the cache."""
    if settings.configured:
        return
    store, guarded = os.environ["STORE"], os.environ["WAY"] == "guarded"
    ours = "sessionlock.integrations.django"
    theirs = "django.contrib.sessions"
    settings.configure(
        SECRET_KEY="for tests only",
        DEBUG=False,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        SESSION_ENGINE=ours if guarded else f"{theirs}.backends.cache",
        SESSION_LOCK_URL=store,
        CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": store}},
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": Path(os.environ["GATES"]) / "db.sqlite3",
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=wal"},
                "ATOMIC_REQUESTS": "ATOMIC" in os.environ,
            }
        },
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            f"{ours}.SessionLockMiddleware" if guarded else f"{theirs}.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "session_security.middleware.SessionSecurityMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "allauth.account.middleware.AccountMiddleware",
            "hijack.middleware.HijackUserMiddleware",
        ],
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            theirs,
            "django.contrib.messages",
            "allauth",
            "allauth.account",
            "rest_framework",
            "formtools",
            "hijack",
            "channels",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        AUTHENTICATION_BACKENDS=[
            "django.contrib.auth.backends.ModelBackend",
            "allauth.account.auth_backends.AuthenticationBackend",
        ],
        ACCOUNT_EMAIL_VERIFICATION="none",
        ACCOUNT_RATE_LIMITS=False,
        EMAIL_BACKEND="django.core.mail.backends.dummy.EmailBackend",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        SESSION_SECURITY_EXPIRE_AFTER=600,
        SESSION_SECURITY_WARN_AFTER=540,
        SESSION_EXPIRE_AT_BROWSER_CLOSE=True,  # django-session-security insists
        LOGIN_REDIRECT_URL="/who",
        STATIC_URL="/static/",
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        REST_FRAMEWORK={"DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"]},
    )
    django.setup()
    _views()


urlpatterns: list[Any] = []


def _views() -> None:
    from django import forms
    from django.contrib import admin, messages
    from django.contrib.auth import views as auth_views
    from django.http import HttpResponse, JsonResponse
    from django.urls import include, path
    from formtools.wizard.views import SessionWizardView
    from rest_framework.permissions import IsAuthenticated
    from rest_framework.response import Response
    from rest_framework.views import APIView

    def pid(request: Asked) -> Any:
        return JsonResponse(os.getpid(), safe=False)

    def who(request: Asked) -> Any:
        return JsonResponse({"user": request.user.username, "cart": request.session.get("cart", [])})

    def add(request: Asked) -> Any:
        cart = request.session.get("cart", [])
        time.sleep(0.005)
        request.session["cart"] = [*cart, request.GET["item"]]
        messages.success(request, f"added {request.GET['item']}")
        return JsonResponse({"pid": os.getpid()})

    def told(request: Asked) -> Any:
        return JsonResponse([str(message) for message in messages.get_messages(request)], safe=False)

    class Cart(APIView):  # type: ignore[misc]
        permission_classes = (IsAuthenticated,)

        def get(self, request: Asked) -> Any:
            return Response({"items": request.session.get("cart", [])})

        def post(self, request: Asked) -> Any:
            request.session.setdefault("cart", []).append(request.data["item"])
            return Response({"items": request.session["cart"]})

    class Name(forms.Form):  # type: ignore[misc]
        name = forms.CharField()

    class Age(forms.Form):  # type: ignore[misc]
        age = forms.IntegerField()

    class Wizard(SessionWizardView):  # type: ignore[misc]
        form_list = (("name", Name), ("age", Age))

        def render(self, form: Any = None, **kwargs: Any) -> Any:
            return JsonResponse({"step": self.steps.current, "errors": (form or self.get_form()).errors})

        def done(self, form_list: Any, **kwargs: Any) -> Any:
            return JsonResponse({"done": self.get_all_cleaned_data()})

    def home(request: Asked) -> Any:
        return HttpResponse("home")

    urlpatterns[:] = [
        path("", home),
        path("pid", pid),
        path("who", who),
        path("add", add),
        path("told", told),
        path("api/cart", Cart.as_view()),
        path("wizard", Wizard.as_view()),
        *_sessions(admin.site),
        path("admin/", admin.site.urls),
        path("accounts/", include("allauth.urls")),
        path("hijack/", include("hijack.urls")),
        path("password", auth_views.PasswordChangeView.as_view(success_url="/who")),
        path("session_security/", include("session_security.urls")),
    ]


def _sessions(site: Any) -> list[Any]:
    """The page over the sessions, where they are ours."""
    from django.urls import include, path

    if os.environ["WAY"] != "guarded":
        return []
    from sessionlock.integrations.django.admin import sessions_admin

    return [path("admin/sessions/", include(sessions_admin(site)))]


def prepare() -> None:
    """The database, with ada who may do everything, bob who may not, and cleo who may log in to the admin."""
    configured()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("ada", "ada@example.com", PASSWORD)
    User.objects.create_user("bob", "bob@example.com", PASSWORD)
    User.objects.create_user("cleo", "cleo@example.com", PASSWORD, is_staff=True)


def wsgi() -> Any:
    configured()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def asgi() -> Any:
    """With websockets by Channels."""
    configured()
    from channels.auth import AuthMiddlewareStack
    from channels.db import database_sync_to_async
    from channels.generic.websocket import AsyncJsonWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.core.asgi import get_asgi_application
    from django.urls import path

    class Consumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            session = self.scope["session"]
            cart = await database_sync_to_async(session.get)("cart", [])
            await self.send_json({"user": self.scope["user"].username, "cart": cart})

        async def receive_json(self, content: Any, **_: Any) -> None:
            """Stores what it is told, as Channels documents it."""
            session = self.scope["session"]
            session["said"] = content["say"]
            await database_sync_to_async(session.save)()
            await self.send_json({"saved": True})

    http = get_asgi_application()
    sockets = AuthMiddlewareStack(URLRouter([path("socket", Consumer.as_asgi())]))
    return ProtocolTypeRouter({"http": http, "websocket": sockets})
