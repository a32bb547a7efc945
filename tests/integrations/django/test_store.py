"""What Django documents of ``request.session``, on a store that is made by hand, in its sync and its async form."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db.models import TextChoices
from django.utils.safestring import mark_safe

from sessionlock import CodecError, NotDurable, Replicated, SessionConflict
from sessionlock.integrations.django.homes import home_of_threads
from sessionlock.integrations.django.store import SessionStore
from sessionlock.integrations.web.rules import RequestMode
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import aged, connect
from tests.harness.django_site import override_settings

pytestmark = pytest.mark.usefixtures("site")

AGE = 1_209_600
Run = Callable[[Any], Any]


class Twin:
    """A store whose methods are called in one form: ``twin.save()`` is ``save()``, or ``asave()`` on a loop."""

    def __init__(self, form: str, key: str | None = None) -> None:
        self.form = form
        self.store = SessionStore(key)

    def again(self) -> Twin:
        """The same session as another request finds it."""
        return Twin(self.form, self.store.session_key)

    def __getattr__(self, name: str) -> Any:
        where: Any = self.store.sessionlock if name == "incr" else self.store
        if self.form == "sync":
            return getattr(where, name)
        method: Callable[..., Awaitable[Any]] = getattr(where, f"a{name}")
        return lambda *args, **kwargs: asyncio.run(_awaited(method(*args, **kwargs)))

    def set(self, key: str, value: Any) -> None:
        if self.form == "sync":
            self.store[key] = value
        else:
            asyncio.run(_awaited(self.store.aset(key, value)))


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


@pytest.fixture(params=["sync", "async"])
def twin(request: pytest.FixtureRequest) -> Twin:
    return Twin(request.param)


def seconds_left(url: str, key: str | None) -> float:
    assert key is not None
    with connect(url) as client:
        left = client.pttl(keys_for("sl", key).session)
    assert isinstance(left, int)
    return left / 1000


def test_modified_and_accessed(twin: Twin) -> None:
    assert (twin.store.modified, twin.store.accessed) == (False, False)
    assert twin.get("a") is None
    assert (twin.store.modified, twin.store.accessed) == (False, True)
    twin.set("a", 1)
    assert twin.store.modified


def test_what_was_saved_is_there(twin: Twin) -> None:
    twin.set("a", [1, {"b": (2, 3)}])
    twin.save()
    assert twin.again().get("a") == [1, {"b": (2, 3)}]
    assert twin.exists(twin.store.session_key)


def test_one_field_per_key(twin: Twin, redis_url: str) -> None:
    twin.update({"number": 7, "text": "x"})
    twin.save()
    with connect(redis_url) as client:
        stored = client.hgetall(keys_for("sl", str(twin.store.session_key)).session)
    assert isinstance(stored, dict)
    assert (stored[b"number"], stored[b"text"]) == (b"7", b'"x"')


def test_an_empty_session_can_be_saved(twin: Twin) -> None:
    twin.save()
    assert twin.exists(twin.store.session_key)
    assert dict(twin.again().items()) == {}


def test_two_who_change_different_keys_lose_nothing(twin: Twin) -> None:
    twin.save()
    first, second = twin.again(), twin.again()
    first.get("x")
    second.get("x")
    first.set("a", 1)
    second.set("b", 2)
    first.save()
    second.save()
    assert dict(twin.again().items()) == {"a": 1, "b": 2}


def test_two_who_change_the_same_key(twin: Twin) -> None:
    twin.save()
    first, second = twin.again(), twin.again()
    for store, value in ((first, 1), (second, 2)):
        store.get("a")
        store.set("a", value)
    first.save()
    with pytest.raises(SessionConflict):
        second.save()
    assert twin.again().get("a") == 1


def test_what_was_destroyed_is_not_revived(twin: Twin) -> None:
    twin.set("a", 1)
    twin.save()
    other = twin.again()
    other.get("a")
    twin.delete()
    other.set("a", 2)
    with pytest.raises(UpdateError):
        other.save()
    assert other.load() == {}
    assert not twin.exists(twin.store.session_key)


def test_a_key_that_is_taken(twin: Twin) -> None:
    twin.save()
    with pytest.raises(CreateError):
        twin.again().save(must_create=True)


def test_an_unknown_key_is_not_adopted(twin: Twin) -> None:
    for key in ("unknownunknown", "1", "", "x" * 600, "line\nbreak", None):
        other = Twin(twin.form, key)
        assert other.load() == {}
        assert other.store.session_key is None
        assert not other.exists(key)
        other.delete(key)
        other.save()
        assert other.store.session_key not in (key, None)


def test_flush(twin: Twin) -> None:
    twin.set("a", 1)
    twin.save()
    before = twin.store.session_key
    twin.flush()
    assert (twin.store.session_key, twin.store.modified, twin.get("a")) == (None, True, None)
    assert not twin.exists(before)
    twin.set("b", 2)
    twin.save()
    assert twin.store.session_key != before
    assert dict(twin.again().items()) == {"b": 2}


def test_clear_keeps_the_key(twin: Twin) -> None:
    twin.update({"a": 1, "b": 2})
    twin.save()
    other = twin.again()
    other.store.clear()  # has no async form, for it awaits nothing
    other.set("b", 3)
    other.save()
    assert other.store.session_key == twin.store.session_key
    assert dict(twin.again().items()) == {"b": 3}


def test_cycle_key_of_a_visitor(twin: Twin) -> None:
    twin.set("a", 1)
    twin.save()
    before = twin.store.session_key
    twin.cycle_key()
    assert twin.store.session_key not in (before, None)
    assert twin.store.modified
    assert not twin.exists(before)  # who planted it does not share the login
    assert twin.again().get("a") == 1


def test_cycle_key_of_a_user_has_a_grace(twin: Twin) -> None:
    twin.set("_auth_user_id", "1")
    twin.save()
    before = twin.again()
    twin.cycle_key()
    assert before.get("_auth_user_id") == "1"
    assert before.store.sessionlock.outdated
    assert not twin.again().store.sessionlock.outdated
    with override_settings(SESSION_LOCK_GRACE=0):
        second = twin.store.session_key
        twin.cycle_key()
        assert not twin.exists(second)


DURABLE = {"durability": Replicated(replicas=1, within=0.05, required=True)}


def test_cycle_key_without_enough_replicas(twin: Twin) -> None:
    """That is an error, and the new key is the session's nevertheless."""
    twin.set("a", 1)
    twin.save()
    before = twin.store.session_key
    with override_settings(SESSION_LOCK_OPTIONS=DURABLE), pytest.raises(NotDurable):
        twin.cycle_key()
    assert twin.store.session_key != before
    assert not twin.exists(before)
    assert twin.again().get("a") == 1


@pytest.mark.parametrize("mode", ["lock", "optimistic"])
def test_cycle_key_of_an_outdated_one(mode: RequestMode) -> None:
    """Who has stolen an older key must not get a lasting one for it, and the older one never goes into a cookie."""
    first = SessionStore()
    first["_auth_user_id"] = "1"
    first.save()
    before = first.session_key
    first.cycle_key()
    late = SessionStore(before)
    late.sessionlock.prepare(home_of_threads(), mode, {}, None)
    late.sessionlock.begin()
    assert late.sessionlock.outdated
    with pytest.raises(SessionInterrupted, match="given another key"):
        late.cycle_key()
    assert late.session_key == before
    assert late.sessionlock.outdated
    late.sessionlock.close()
    assert SessionStore(first.session_key)["_auth_user_id"] == "1"


def test_cycle_key_of_a_session_that_is_not_stored(twin: Twin) -> None:
    twin.set("a", 1)
    twin.cycle_key()
    assert twin.again().get("a") == 1


def test_test_cookie(twin: Twin) -> None:
    twin.set_test_cookie()
    assert twin.test_cookie_worked()
    twin.delete_test_cookie()
    assert not twin.test_cookie_worked()


@pytest.mark.parametrize(
    ("value", "age", "at_close"),
    [
        (None, AGE, False),
        (0, AGE, True),
        (600, 600, False),
        (timedelta(seconds=600), 600, False),
        (lambda: datetime.now(timezone.utc) + timedelta(seconds=600), 600, False),
    ],
    ids=["usual", "at close", "seconds", "timedelta", "datetime"],
)
def test_expiry(twin: Twin, redis_url: str, value: Any, age: int, at_close: bool) -> None:
    twin.set_expiry(value() if callable(value) else value)
    assert age - 2 <= twin.get_expiry_age() <= age
    assert abs((twin.get_expiry_date() - datetime.now(timezone.utc)).total_seconds() - age) < 2
    assert twin.get_expire_at_browser_close() is at_close
    twin.save()
    assert age - 3 < seconds_left(redis_url, twin.store.session_key) <= age


def test_expiry_counts_from_the_last_save_and_not_from_reading(twin: Twin, redis_url: str) -> None:
    twin.set_expiry(600)
    twin.save()
    key = twin.store.session_key
    with connect(redis_url) as client:
        aged(client, keys_for("sl", str(key)).session, 5000)
    assert twin.again().get("_session_expiry") == 600
    assert seconds_left(redis_url, key) <= 5
    other = twin.again()
    other.set("a", 1)
    other.save()
    assert seconds_left(redis_url, key) > 500
    other.set_expiry(60)
    other.save()
    assert seconds_left(redis_url, key) <= 60


def test_an_expiry_in_the_past_ends_the_session_at_once(twin: Twin) -> None:
    twin.save()
    twin.set_expiry(-10)
    twin.save()
    assert not twin.exists(twin.store.session_key)
    other = Twin(twin.form)
    other.set_expiry(-10)
    other.save()
    assert not other.exists(other.store.session_key)


@override_settings(SESSION_LOCK_ABSOLUTE=60)
def test_an_absolute_end_is_never_passed(twin: Twin, redis_url: str) -> None:
    twin.save()
    twin.set("a", 1)
    twin.save()
    assert seconds_left(redis_url, twin.store.session_key) <= 60


def test_clear_expired_has_nothing_to_do(twin: Twin) -> None:
    twin.save()
    SessionStore.clear_expired()
    asyncio.run(SessionStore.aclear_expired())
    call_command("clearsessions")
    assert twin.exists(twin.store.session_key)


def test_incr(twin: Twin) -> None:
    twin.set("n", 1)
    twin.save()
    assert twin.incr("n") == 2
    assert twin.again().incr("n", 5) == 7
    assert twin.again().get("n") == 7


def test_a_value_that_is_held_stays_part_of_the_session(twin: Twin) -> None:
    cart = twin.setdefault("cart", [])
    twin.save()
    cart.append("x")
    assert twin.store.sessionlock.changed
    twin.save()
    assert twin.again().get("cart") == ["x"]


def test_what_cannot_be_stored_is_a_clear_error(twin: Twin) -> None:
    twin.set("a", object())
    with pytest.raises(CodecError, match="a"):
        twin.save()


def test_subclasses_of_plain_types_come_back_plain_as_django_has_it(twin: Twin) -> None:
    class Size(TextChoices):
        LARGE = "L", "large"

    twin.set("a", [mark_safe("<b>"), {"size": Size.LARGE}, defaultdict(int, {"n": 1})])
    twin.set("size", Size.LARGE)
    twin.save()
    twin.store.modified = False
    assert not twin.store.sessionlock.changed
    back = twin.again().get("a")
    assert back == ["<b>", {"size": "L"}, {"n": 1}]
    assert [type(part) for part in (back[0], back[1]["size"], back[2])] == [str, str, dict]
    assert type(twin.again().get("size")) is str


def test_messages_of_two_requests_are_merged(twin: Twin) -> None:
    twin.set("_messages", '["one"]')
    twin.save()
    shows, adds = twin.again(), twin.again()
    assert (shows.get("_messages"), adds.get("_messages")) == ('["one"]', '["one"]')
    adds.set("_messages", '["one","two"]')
    adds.save()
    shows.pop("_messages")
    shows.save()
    assert twin.again().get("_messages") == '["two"]'


def test_a_message_is_shown_once(twin: Twin) -> None:
    """Two pages that both show it: the second one is run again, and finds none."""
    twin.set("_messages", '["one"]')
    twin.save()
    first, second = twin.again(), twin.again()
    assert (first.get("_messages"), second.get("_messages")) == ('["one"]', '["one"]')
    first.pop("_messages")
    first.save()
    second.pop("_messages")
    with pytest.raises(SessionConflict, match="_messages"):
        second.save()


def test_sync_use_within_an_event_loop_is_refused() -> None:
    async def use() -> None:
        SessionStore("a" * 32)["x"]

    with pytest.raises(SynchronousOnlyOperation, match="aget"):
        asyncio.run(use())


def test_every_method_that_waits_has_its_async_form() -> None:
    for name in ("load", "save", "create", "delete", "exists", "flush", "cycle_key", "clear_expired"):
        assert inspect.iscoroutinefunction(getattr(SessionStore, f"a{name}")), name
        assert f"a{name}" in SessionStore.__dict__, f"{name}: Django's own would move it into a thread"
