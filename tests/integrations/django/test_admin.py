"""The admin page within Django's admin."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.urls import include, path

from sessionlock import ConfigurationError
from tests.harness.django_site import override_settings
from tests.harness.django_site.calls import sid_of

pytestmark = pytest.mark.usefixtures("site")

STAFF = {"HTTP_WHO": "staff"}
ADMIN = {"HTTP_WHO": "admin"}


class Site(AdminSite):
    def has_permission(self, request: HttpRequest) -> bool:
        return request.headers.get("who") in ("staff", "admin")

    def login(self, request: HttpRequest, extra_context: Any = None) -> Any:
        raise AssertionError("redirected to instead")


@pytest.fixture(autouse=True)
def urls(site: None) -> Iterator[None]:
    """The site's own, and the admin page."""
    from sessionlock.integrations.django.admin import sessions_admin
    from tests.harness.django_site import urls

    theirs = Site(name="ops")
    page = sessions_admin(theirs, allow=lambda request: "act" if request.headers.get("who") == "admin" else "look")
    module = ModuleType("urls_with_admin")
    module.urlpatterns = [  # type: ignore[attr-defined]
        path("ops/sessions/", include(page)),
        path("ops/", theirs.urls),
        *urls.urlpatterns,
    ]
    sys.modules[module.__name__] = module
    with override_settings(ROOT_URLCONF=module.__name__):
        yield
    del sys.modules[module.__name__]


def digest_of(client: Client) -> str:
    from sessionlock.protocol.keys import keys_for

    return keys_for("sl", sid_of(client)).digest


def test_only_staff(client: Client) -> None:
    answer = client.get("/ops/sessions/")
    assert answer.status_code == 302
    assert "/login/" in answer["Location"]


def test_staff_look(client: Client) -> None:
    page = client.get("/ops/sessions/", **STAFF)
    assert page.status_code == 200
    assert "Locks held" in page.content.decode()
    digest = digest_of(client)
    page = client.get(f"/ops/sessions/session/{digest}", **STAFF)
    assert "<code>cart</code>" in page.content.decode()
    assert "/destroy" not in page.content.decode()


def test_a_form_without_djangos_token() -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post("/ops/sessions/find", {"session": "abc"}, **ADMIN).status_code == 403


def test_a_value_and_a_log_out(client: Client) -> None:
    digest = digest_of(client)
    action = f"/ops/sessions/session/{digest}/destroy"
    other = Client(enforce_csrf_checks=True)
    page = other.get(f"/ops/sessions/session/{digest}", **ADMIN).content.decode()
    assert action in page
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    marked = {"csrfmiddlewaretoken": token[1]}
    shown = other.post(f"/ops/sessions/session/{digest}/value", {**marked, "key": "cart"}, **ADMIN)
    assert "first" in shown.content.decode()
    refused = other.post(action, marked, **STAFF)
    assert refused.status_code == 403
    done = other.post(action, marked, **ADMIN)
    assert (done.status_code, done["Location"]) == (303, f"/ops/sessions/session/{digest}?done=ended")
    assert client.get("/cart").json() == {"cart": []}


@pytest.mark.parametrize(
    ("powers", "shown"), [({"is_superuser": True}, {"value", "destroy"}), ({"is_staff": True}, set())]
)
def test_values_need_a_permission(client: Client, powers: dict[str, bool], shown: set[str]) -> None:
    """By default: Django's own of its sessions, which superusers have."""
    from django.contrib.auth.models import User

    from sessionlock.integrations.django.admin import sessions_admin

    [*_, below], _ = sessions_admin(Site(name="ops"))
    digest = digest_of(client)
    request = RequestFactory().get(f"/ops/sessions/session/{digest}", **STAFF)
    request.user = User(pk=7, **powers)
    page = below.callback(request, below=f"session/{digest}").content.decode()
    assert "<code>cart</code>" in page
    assert {action for action in ("value", "destroy") if f"{digest}/{action}" in page} == shown


def test_an_allow_that_nobody_awaits() -> None:
    from sessionlock.integrations.django.admin import sessions_admin

    async def allow(request: HttpRequest) -> str:
        return "act"

    with pytest.raises(ConfigurationError, match="plain function"):
        sessions_admin(Site(name="ops"), allow=allow)  # type: ignore[arg-type]
