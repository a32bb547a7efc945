"""``SESSION_SERIALIZER``: what a project's own one takes is taken, and comes back as that gives it back."""

from __future__ import annotations

import base64
import json
import pickle
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.core.signing import JSONSerializer as SigningSerializer
from django.test import Client

from sessionlock import CodecError, FernetCodec, JsonCodec, SessionConflict
from sessionlock.integrations.django.serializing import DEFAULT
from sessionlock.integrations.django.store import SessionStore
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect
from tests.harness.django_site import override_settings

pytestmark = pytest.mark.usefixtures("site")

Using = Callable[..., AbstractContextManager[None]]
HERE = __name__
urlpatterns: list[Any] = []


@pytest.fixture
def using() -> Using:
    def use(name: str, **more: Any) -> AbstractContextManager[None]:
        return override_settings(SESSION_SERIALIZER=f"{HERE}.{name}", **more)

    return use


@dataclass(frozen=True)
class Money:
    cents: int


class WithDates:
    """As many projects have it: the encoder that Django has for its own API."""

    def dumps(self, obj: Any) -> bytes:
        return json.dumps(obj, cls=DjangoJSONEncoder).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class WithMoney:
    """Knows a class of the project, in both directions."""

    def dumps(self, obj: Any) -> bytes:
        return json.dumps(obj, default=lambda money: {"cents": money.cents}).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data, object_hook=lambda found: Money(**found) if set(found) == {"cents"} else found)


class Sealed:
    """Keeps what Redis holds secret, and writes the same value in another way each time."""

    def dumps(self, obj: Any) -> bytes:
        pad = secrets.token_bytes(8)
        plain = json.dumps(obj).encode()
        return pad + bytes(byte ^ pad[at % 8] for at, byte in enumerate(plain))

    def loads(self, data: bytes) -> Any:
        pad, sealed = data[:8], data[8:]
        return json.loads(bytes(byte ^ pad[at % 8] for at, byte in enumerate(sealed)))


class Pickled:
    def dumps(self, obj: Any) -> bytes:
        return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


class Text:
    def dumps(self, obj: Any) -> str:
        return json.dumps(obj)

    def loads(self, data: str) -> Any:
        return json.loads(data)


class Forgetful(WithDates):
    def loads(self, data: bytes) -> Any:
        return {}


def saved(**data: Any) -> SessionStore:
    store = SessionStore()
    store.update(data)
    store.save()
    return store


def again(store: SessionStore) -> SessionStore:
    return SessionStore(store.session_key)


def stored(url: str, store: SessionStore) -> dict[bytes, bytes]:
    with connect(url) as client:
        found = client.hgetall(keys_for("sl", str(store.session_key)).session)
    assert isinstance(found, dict)
    return found


def test_what_it_turns_into_something_else_comes_back_so(using: Using) -> None:
    with using("WithDates"):
        store = again(saved(since=date(2026, 1, 2), at=datetime(2026, 1, 2, 3, 4, 5), keys={1: "a"}, pair=(1, 2)))
        assert dict(store.items()) == {
            "since": "2026-01-02",
            "at": "2026-01-02T03:04:05",
            "keys": {"1": "a"},
            "pair": [1, 2],
        }


def test_a_class_of_the_project_comes_back(using: Using) -> None:
    with using("WithMoney"):
        store = again(saved(price=Money(5), prices=[Money(1), Money(2)]))
        assert (store["price"], store["prices"]) == (Money(5), [Money(1), Money(2)])


def test_what_it_refuses_is_refused(using: Using) -> None:
    with using("WithDates"), pytest.raises(CodecError, match=f"{HERE}.WithDates refuses 'thing'"):
        saved(thing=object())


def test_the_field_says_what_it_holds(using: Using, redis_url: str) -> None:
    with using("WithMoney"):
        fields = stored(redis_url, saved(price=Money(5)))
    assert json.loads(fields[b"price"]) == {"sessionlock:serialized": '{"price": {"cents": 5}}'}


@pytest.mark.parametrize("name", ["Sealed", "Pickled"])
def test_what_it_keeps_secret_is_secret(using: Using, redis_url: str, name: str) -> None:
    """Each value goes through it, also those that JSON could hold."""
    with using(name, SESSION_LOCK_PICKLE=True):
        store = saved(number=1234567, word="in the clear", nothing=None)
        held = b"".join(stored(redis_url, store).values())
        assert b"1234567" not in held
        assert b"in the clear" not in held
        assert dict(again(store).items()) == {"number": 1234567, "word": "in the clear", "nothing": None}


@pytest.mark.parametrize("name", ["Sealed", "WithDates", "WithMoney"])
def test_what_nobody_changed_is_not_saved(using: Using, name: str) -> None:
    with using(name):
        store = again(saved(cart=["a", {"b": 1}], n=1))
        assert (store["cart"], store["n"]) == (["a", {"b": 1}], 1)
        assert not store.sessionlock.changed
        store["cart"].append("c")
        assert store.sessionlock.changed


@pytest.mark.parametrize("name", ["Sealed", "WithMoney"])
def test_nothing_is_lost_with_it(using: Using, name: str) -> None:
    with using(name, SESSION_LOCK_MERGE={"cart": "append"}):
        first = again(store := saved(cart=["a"], n=1))
        second = again(store)
        first["cart"].append("b")
        second["cart"].append("c")
        first.save()
        second.save()
        assert again(store)["cart"] == ["a", "b", "c"]
        first, second = again(store), again(store)
        first["n"] += 1
        second["n"] += 1
        first.save()
        with pytest.raises(SessionConflict):
            second.save()


def test_what_begins_like_a_pickle_by_chance(using: Using, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda size: b"\x80\x05" + b"x" * (size - 2))
    with using("Sealed"):
        assert again(saved(n=1))["n"] == 1


def test_pickled_objects(using: Using) -> None:
    with using("Pickled", SESSION_LOCK_PICKLE=True):
        store = again(saved(price=Money(5), keys={1: {2, 3}}, at=datetime(2026, 1, 2)))
        assert dict(store.items()) == {"price": Money(5), "keys": {1: {2, 3}}, "at": datetime(2026, 1, 2)}
        assert not store.sessionlock.changed


def test_what_looks_like_what_it_wrote_is_only_a_value(using: Using) -> None:
    """What a visitor sends may become a value, and must not be unpickled."""
    evil = {
        "sessionlock:serialized-base64": base64.b64encode(pickle.dumps({"value": "unpickled"})).decode(),
    }
    with using("Pickled", SESSION_LOCK_PICKLE=True):
        assert again(saved(value=evil))["value"] == evil
    for name in ("Sealed", "WithDates"):
        with using(name):
            assert again(saved(value=evil, text={"sessionlock:serialized": "1"}))["value"] == evil


def test_what_was_stored_before_it_was_set(using: Using) -> None:
    store = saved(n=1, cart=["a"])
    with using("Sealed"):
        later = again(store)
        assert (later["n"], later["cart"]) == (1, ["a"])
        later["cart"].append("b")
        later.save()
        assert again(store)["cart"] == ["a", "b"]


def test_within_a_codec_that_seals(using: Using, redis_url: str) -> None:
    key = base64.urlsafe_b64encode(secrets.token_bytes(32))
    with using("WithMoney", SESSION_LOCK_OPTIONS={"codec": FernetCodec(JsonCodec(), key)}):
        store = saved(price=Money(5))
        assert stored(redis_url, store)[b"price"].startswith(b"gAAAA")
        assert again(store)["price"] == Money(5)
        assert not again(store).sessionlock.changed


@pytest.mark.parametrize("path", [f"{HERE}.Text", f"{HERE}.Forgetful", f"{HERE}.Missing", "nowhere.at.all"])
def test_one_that_is_none_is_told_at_the_start(path: str) -> None:
    with override_settings(SESSION_SERIALIZER=path), pytest.raises(ImproperlyConfigured, match="SESSION_SERIALIZER"):
        Client().get("/")


def test_one_that_pickles_must_be_allowed(using: Using) -> None:
    with using("Pickled"), pytest.raises(ImproperlyConfigured, match="SESSION_LOCK_PICKLE = True"):
        Client().get("/")


def test_djangos_own_stays_exact(redis_url: str) -> None:
    with override_settings(SESSION_SERIALIZER=DEFAULT):
        store = saved(n=7, at=date(2026, 1, 2), pair=(1, 2))
        assert dict(again(store).items()) == {"n": 7, "at": date(2026, 1, 2), "pair": (1, 2)}
        assert stored(redis_url, store)[b"n"] == b"7"


def test_the_one_that_signs_cookies_is_one_too() -> None:
    """The same class by another name of Django's; it is not known by its name, so its form is kept as it writes it."""
    name = f"{SigningSerializer.__module__}.{SigningSerializer.__qualname__}"
    with override_settings(SESSION_SERIALIZER=name):
        assert again(saved(pair=(1, 2)))["pair"] == [1, 2]
