"""A Django site that is switched over.

``python -m tests.harness.django_takeover ENGINE URL FOLDER``; silent if all is well.

Old nodes and new ones are test clients of one process, with their own settings and the same visitors.
"""

from __future__ import annotations

import random
import sys
from contextlib import AbstractContextManager
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client, override_settings
from django.urls import path

OURS = "sessionlock.integrations.django"
DJANGOS = "django.contrib.sessions"
SIGNED_COOKIES = f"{DJANGOS}.backends.signed_cookies"


def show(request: HttpRequest) -> HttpResponse:
    return JsonResponse({key: value for key, value in request.session.items() if key[:1] != "_"})


def add(request: HttpRequest) -> HttpResponse:
    request.session["cart"] = [*request.session.get("cart", []), request.GET["item"]]
    return show(request)


def login(request: HttpRequest) -> HttpResponse:
    request.session["user_id"] = request.GET["user"]
    request.session.cycle_key()
    return show(request)


def logout(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


urlpatterns = [path("", show), path("add", add), path("login", login), path("logout", logout)]


def configure(engine: str, url: str, folder: str) -> None:
    settings.configure(
        SECRET_KEY="for tests only",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=[DJANGOS],
        MIDDLEWARE=[f"{DJANGOS}.middleware.SessionMiddleware"],
        SESSION_ENGINE=engine,
        SESSION_FILE_PATH=folder,
        SESSION_LOCK_URL=url,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/db.sqlite3"}},
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


class Site:
    def __init__(self, engine: str) -> None:
        self.engine = engine

    def node(self, new: bool, read_from: Any = None) -> AbstractContextManager[None]:
        said: dict[str, Any] = {"SESSION_LOCK_READ_FROM": read_from or self.engine}
        if new:
            said |= {"SESSION_ENGINE": OURS, "MIDDLEWARE": [f"{OURS}.SessionLockMiddleware"]}
        return override_settings(**said)  # type: ignore[no-any-return]

    def ask(self, visitor: Client, where: str, *, new: bool, read_from: Any = None) -> Any:
        """One request of ``visitor``, to a node that is started for it."""
        with self.node(new, read_from):
            client = Client()
            client.cookies = visitor.cookies
            answer = client.post(where) if where else client.get("/")
            visitor.cookies = client.cookies
        assert answer.status_code == 200, answer.content
        return answer.json() if answer.content else None


def switched_over(site: Site) -> None:
    visitor = Client()
    site.ask(visitor, "/login?user=ada", new=False)
    site.ask(visitor, "/add?item=A", new=False)
    before = visitor.cookies["sessionid"].value
    assert site.ask(visitor, "", new=True) == {"user_id": "ada", "cart": ["A"]}
    assert site.ask(visitor, "/add?item=B", new=True) == {"user_id": "ada", "cart": ["A", "B"]}
    kept = visitor.cookies["sessionid"].value == before
    assert kept != (site.engine == SIGNED_COOKIES), "only what stood in a cookie gets a key"
    assert len(visitor.cookies["sessionid"].value) <= 40
    site.ask(visitor, "/logout", new=True)
    visitor.cookies["sessionid"] = before
    assert site.ask(visitor, "", new=True) == {}, "the logout was undone"
    if site.engine != SIGNED_COOKIES:
        visitor.cookies["sessionid"] = before
        assert site.ask(visitor, "", new=False) == {}, "the old session lives on"
    stranger = Client()
    stranger.cookies["sessionid"] = "chosenbyastranger"
    assert site.ask(stranger, "", new=True) == {}


def side_by_side(site: Site) -> None:
    from sessionlock.integrations.takeover.django import DjangoEngine

    origin, dice = DjangoEngine(site.engine, write_back=True), random.Random(7)
    visitors = [Client() for _ in range(10)]
    for number, visitor in enumerate(visitors):
        site.ask(visitor, f"/login?user={number}", new=dice.random() < 0.5, read_from=origin)
    for click in range(1, 7):
        for number, visitor in enumerate(visitors):
            seen = site.ask(visitor, f"/add?item={click}", new=dice.random() < 0.5, read_from=origin)
            assert seen == {"user_id": str(number), "cart": [str(n + 1) for n in range(click)]}, seen
    for visitor in visitors:
        site.ask(visitor, "/logout", new=dice.random() < 0.5, read_from=origin)
        assert site.ask(visitor, "", new=False, read_from=origin) == {}
        assert site.ask(visitor, "", new=True, read_from=origin) == {}


def main() -> None:
    engine, url, folder = sys.argv[1:]
    configure(engine, url, folder)
    site = Site(engine)
    switched_over(site)
    if engine != SIGNED_COOKIES:
        side_by_side(site)


if __name__ == "__main__":
    main()
