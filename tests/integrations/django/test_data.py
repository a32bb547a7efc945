"""Names, values, lifetimes and identity, as Django has them."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.signing import JSONSerializer
from django.http import HttpResponse, JsonResponse
from django.template import Context, Engine
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.functional import lazy
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from sessionlock import CodecError
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django.decorators import session_readonly
from sessionlock.integrations.django.homes import close
from sessionlock.integrations.django.store import SessionStore
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect
from tests.harness.django_site import configure, override_settings
from tests.harness.values import Colour, Items, Level, Token

Request = Any


@pytest.fixture(autouse=True)
def site(server: EmbeddedServer, flush: None) -> Iterator[None]:
    configure(server.unix_url)
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def client(who_put: Client) -> Client:
    return who_put


def seconds_left(url: str, client: Any) -> float:
    with connect(url) as redis:
        left = redis.pttl(keys_for("sl", client.cookies["sessionid"].value).session)
    assert isinstance(left, int)
    return left / 1000


# --- views


def put(request: Request) -> HttpResponse:
    request.session.update(request.GET.dict())
    return HttpResponse()


def quiet(request: Request) -> HttpResponse:
    return HttpResponse()


def reads(request: Request) -> HttpResponse:
    return HttpResponse(request.session.get("first"))


def expires(request: Request) -> HttpResponse:
    """An application that ends idle sessions by itself: each request says how long it may be."""
    request.session.set_expiry(int(request.GET["in"]))
    return HttpResponse()


def expires_then(request: Request) -> HttpResponse:
    request.session.set_expiry(timedelta(seconds=int(request.GET["in"])))
    return HttpResponse()


def page(request: Request) -> HttpResponse:
    template = Engine().from_string(request.GET["template"])
    return HttpResponse(template.render(Context({"request": request})))


def log_in(request: Request) -> HttpResponse:
    """Without django.contrib.auth."""
    request.session["user_id"] = int(request.GET["user"])
    return HttpResponse()


def log_in_anew(request: Request) -> HttpResponse:
    request.session.clear()
    return log_in(request)


def log_out(request: Request) -> HttpResponse:
    del request.session["user_id"]
    return HttpResponse()


def clears(request: Request) -> HttpResponse:
    request.session.clear()
    return HttpResponse()


def pops(request: Request) -> HttpResponse:
    return JsonResponse({"popped": request.session.pop("message", None)})


views = (put, quiet, reads, expires, expires_then, page, log_in, log_in_anew, log_out, clears, pops)
urlpatterns = [path(view.__name__, view) for view in views]
urlpatterns += [path("readonly", session_readonly(quiet)), path("readonly_reads", session_readonly(reads))]


# --- names: in a template the session's are the user's

OURS = "mode saves_on_error outdated prepare begin abegin finish afinish close aclose incr aincr failure changed lease"


@pytest.mark.parametrize("name", [*OURS.split(), "has_changed", "name", "sid", "version", "run", "call", "told"])
def test_names_of_ours_do_not_show(client: Client, name: str) -> None:
    ask = f"{{{{ request.session.{name} }}}}|{{% if request.session.{name} %}}known{{% endif %}}"
    assert client.get("/page", {"template": ask}).content == b"|"
    assert client.post("/page?" + f"template={ask}".replace("%", "%25")).content == b"|"
    client.post(f"/put?{name}=mine")
    assert client.get("/page", {"template": ask}).content == b"mine|known"


def test_all_names_are_django_s_but_one() -> None:
    from django.contrib.sessions.backends.cache import SessionStore as Theirs

    def names(kind: Any) -> set[str]:
        return {name for name in dir(kind()) if not name.startswith("_")}

    of_the_cache = {"cache_key", "acache_key", "cache_key_prefix"}
    assert names(SessionStore) - names(Theirs) == {"sessionlock"}
    assert names(Theirs) - names(SessionStore) == of_the_cache


def test_an_old_spelling_says_where_it_is() -> None:
    for name in ("incr", "aincr", "mode"):
        with pytest.raises(AttributeError, match=rf"session\.sessionlock\.{name}"):
            getattr(SessionStore(), name)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        getattr(SessionStore(), "nothing_of_the_kind")  # noqa: B009


# --- values: what Django's serializer takes, in the form that it gives back


class Name(str):
    def __str__(self) -> str:
        return "shown otherwise"


TAKEN = [
    {1: "a", None: "b", False: "c", 1.5: "d"},
    {"outer": [{2: {3: 4}}]},
    {1: "a", "1": "b"},
    Colour.RED,
    [Level.HIGH, {Colour.RED: Level.HIGH}],
    Token(access_token="x", expires_in=3600),
    OrderedDict(b=1, a=2),
    defaultdict(list, {"x": [1]}),
    Items([1, Items([2])]),
    Name("x"),
    {Name("key"): Name("value")},
    mark_safe("<b>"),
    math.inf,
    [-math.inf, {"deep": math.inf}],
    "\ud83d",
    {"\udc00": "lone"},
    10**30,
]


@pytest.mark.parametrize("value", TAKEN, ids=repr)
def test_what_django_takes(client: Client, value: Any) -> None:
    expected = JSONSerializer().loads(JSONSerializer().dumps({"value": value}))["value"]
    store = SessionStore(client.cookies["sessionid"].value)
    store["value"] = value
    assert store["value"] is value
    store.save()
    assert not store.sessionlock.changed or store.modified
    back = SessionStore(store.session_key)["value"]
    assert back == expected
    assert json.dumps(back) == json.dumps(expected)


def test_nan(client: Client) -> None:
    store = SessionStore(client.cookies["sessionid"].value)
    store["value"] = {"ratio": math.nan}
    store.save()
    assert math.isnan(SessionStore(store.session_key)["value"]["ratio"])


@pytest.mark.parametrize("key", [1, 0, True, None, 2.5, Level.HIGH, Colour.RED, Name("key")], ids=repr)
def test_keys_that_are_no_str(client: Client, key: Any) -> None:
    (expected,) = JSONSerializer().loads(JSONSerializer().dumps({key: 0}))
    for store in (SessionStore(client.cookies["sessionid"].value), SessionStore()):
        store[key] = "x"
        assert (store[key], store.get(key), key in store, store.setdefault(key, "y")) == ("x", "x", True, "x")
        store.save()
        assert store[key] == "x"
        again = SessionStore(store.session_key)
        assert (again[expected], again[key]) == ("x", "x")
        assert again.pop(key) == "x"
        again.update({key: "z"})
        assert again[expected] == "z"
        del again[key]
        assert expected not in again


lazy_text = lazy(lambda: "text", str)


@pytest.mark.parametrize(
    "value", [object(), {(1, 2): 3}, gettext_lazy("x"), lazy_text()], ids=["object", "tuple", "_", "l"]
)
def test_what_django_refuses_too(value: Any) -> None:
    with pytest.raises(TypeError):
        JSONSerializer().dumps(value)
    store = SessionStore()
    store["value"] = value
    with pytest.raises(CodecError) as met:
        store.save()
    assert isinstance(met.value.__cause__, TypeError)


def test_a_key_that_django_refuses_too() -> None:
    store = SessionStore()
    store[(1, 2)] = 3
    with pytest.raises(CodecError):
        store.save()


# --- lifetimes: Django's settings at each request, cookie and record together

LIVES = [{"SESSION_COOKIE_AGE": 100}, {"SESSION_COOKIE_AGE": 7_000_000}]


@pytest.mark.parametrize("said", LIVES, ids=str)
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("where", ["/quiet", "/reads", "/put?a=b", "/readonly", "/readonly_reads"])
def test_every_request_prolongs_it(
    client: Client, redis_url: str, said: dict[str, int], method: str, where: str
) -> None:
    age = said["SESSION_COOKIE_AGE"]
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True, **said):
        answer = getattr(client, method)(where)
    assert answer.status_code == 200
    assert answer.cookies["sessionid"]["max-age"] == age
    assert age - 3 < seconds_left(redis_url, client) <= age


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("where", ["/quiet", "/reads"])
def test_by_default_only_a_change_does(client: Client, redis_url: str, method: str, where: str) -> None:
    with override_settings(SESSION_COOKIE_AGE=100):
        answer = getattr(client, method)(where)
    assert "sessionid" not in answer.cookies
    assert seconds_left(redis_url, client) > 100


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_expiry_that_each_request_sets(client: Client, redis_url: str, method: str) -> None:
    for seconds in (60, 300, 60):
        answer = getattr(client, method)(f"/expires?in={seconds}")
        assert answer.cookies["sessionid"]["max-age"] == seconds
        assert seconds - 3 < seconds_left(redis_url, client) <= seconds


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_fixed_end_does_not_move(client: Client, redis_url: str, method: str) -> None:
    getattr(client, method)("/expires_then?in=100")
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        answer = getattr(client, method)("/put?a=b")
    assert 95 <= answer.cookies["sessionid"]["max-age"] <= 100
    assert 95 < seconds_left(redis_url, client) <= 100


@pytest.mark.parametrize("method", ["get", "post"])
def test_until_the_browser_closes(client: Client, redis_url: str, method: str) -> None:
    answer = getattr(client, method)("/expires?in=0")
    assert answer.cookies["sessionid"]["max-age"] == ""
    assert seconds_left(redis_url, client) > 1_000_000


@pytest.mark.anyio
async def test_lifetimes_under_asgi(redis_url: str) -> None:
    for name in ("get", "post"):
        client = AsyncClient()
        await client.post("/put?first=1")
        method = getattr(client, name)
        with override_settings(SESSION_SAVE_EVERY_REQUEST=True, SESSION_COOKIE_AGE=100):
            answer = await method("/quiet")
        assert answer.cookies["sessionid"]["max-age"] == 100
        assert 97 < seconds_left(redis_url, client) <= 100
        answer = await method("/expires?in=500")
        assert answer.cookies["sessionid"]["max-age"] == 500
        assert 497 < seconds_left(redis_url, client) <= 500
    await close()


def test_an_atomic_counter_leaves_the_end_where_it_is(client: Client, redis_url: str) -> None:
    client.post("/expires?in=60")
    SessionStore(client.cookies["sessionid"].value).sessionlock.incr("n")
    assert 57 < seconds_left(redis_url, client) <= 60


# --- identity


@pytest.mark.parametrize("where", ["/log_in", "/log_in_anew"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_who_logs_in_without_django_gets_a_new_key(client: Client, where: str, method: str) -> None:
    planted = client.cookies["sessionid"].value
    getattr(client, method)(f"{where}?user=7")
    new = client.cookies["sessionid"].value
    assert new != planted
    assert SessionStore(new)["user_id"] == 7
    assert not SessionStore().exists(planted)
    getattr(client, method)(f"{where}?user=7")  # the same again
    assert client.cookies["sessionid"].value == new or where == "/log_in_anew"
    client.post("/log_out")
    client.post("/put?a=b")
    assert SessionStore(client.cookies["sessionid"].value).get("user_id") is None


def test_a_new_visitor_who_logs_in() -> None:
    client = Client()
    client.post("/log_in?user=7")
    first = client.cookies["sessionid"].value
    client.post("/log_in?user=8")
    assert client.cookies["sessionid"].value != first
    assert not SessionStore().exists(first)


def test_keys_that_columns_take(client: Client) -> None:
    """32 to 40 of [a-z0-9], also after a login."""
    for where in ("/put?a=b", "/log_in?user=7", "/log_in?user=8"):
        client.post(where)
        key = client.cookies["sessionid"].value
        assert 32 <= len(key) <= 40
        assert key.isalnum()
        assert key == key.lower()


# --- emptied is not ended


def test_the_last_message_and_a_cart(client: Client) -> None:
    """A page takes the only thing there is; a cart that is stored meanwhile, and acknowledged, stays."""
    store = SessionStore(client.cookies["sessionid"].value)
    del store["first"]
    store["message"] = "hello"
    store.save()
    page, shop = (SessionStore(store.session_key) for _ in range(2))
    assert page.pop("message") == "hello"
    shop["cart"] = ["A"]
    shop.save()
    page.save()
    assert dict(SessionStore(store.session_key).items()) == {"cart": ["A"]}


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_emptied_session_keeps_its_key(client: Client, method: str) -> None:
    client.post("/put?message=hello")
    key = client.cookies["sessionid"].value
    getattr(client, method)("/clears")
    assert SessionStore().exists(key)
    client.post("/put?cart=A")
    assert client.cookies["sessionid"].value == key
    assert dict(client.session.items()) == {"cart": "A"}
