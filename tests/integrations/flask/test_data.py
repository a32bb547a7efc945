"""A session as people use one: any value that Flask's own takes, any key, wherever a dict may stand (A8, B3, B7)."""

from __future__ import annotations

import copy
import json
import math
import uuid
from collections import OrderedDict, UserString, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from flask import Flask, jsonify, render_template_string, session
from flask.json.tag import JSONTag, TaggedJSONSerializer
from flask.sessions import SessionMixin
from markupsafe import Markup

from sessionlock.errors import CodecError
from sessionlock.integrations.flask.handle import GuardedSession
from sessionlock.integrations.flask.session import LockedSession
from tests.harness.flask_apps import asked, close, guard_of, guarded, sid_of
from tests.harness.values import Colour, Items, Level, Token


class Point(NamedTuple):
    x: int
    y: int


class Number(int):
    pass


class Text(str):
    """As a lazy string of an extension."""


@dataclass
class Address:
    city: str


VALUES = {
    "tuple": (1, ("a", 2)),
    "bytes": b"\x00\xff",
    "markup": Markup("<b>"),
    "uuid": uuid.UUID(int=7),
    "datetime": datetime(2024, 2, 29, 12, 30, 15, tzinfo=timezone.utc),
    "date": date(2024, 2, 29),
    "decimal": Decimal("1.50"),
    "token": Token(access_token="x", expires_at=7, scopes=["a"]),
    "items": Items([1, Items([2])]),
    "ordered": OrderedDict(b=1, a=2),
    "default": defaultdict(list, a=[1]),
    "point": Point(1, 2),
    "number": Number(5),
    "text": Text("lazy"),
    "colour": Colour.RED,
    "level": Level.HIGH,
    "int keys": {1: "a", 2: {3: "b"}},
    "none key": {None: 1},
    "bool key": {True: 1},
    "float key": {1.5: 1},
    "nan": math.nan,
    "infinity": [math.inf, -math.inf],
    "dataclass": Address("Berlin"),
    "tag-like": {" t": [1]},
    "deep": {"a": [Token(x=(1, Markup("<i>")))]},
    "emoji": "👍 \u2028",
    "surrogate": "\ud800",
    "long int": 2**80,
    "nothing": None,
    "empty": {},
}


def as_flask_has_it(app: Flask, value: Any) -> Any:
    with app.app_context():
        serializer = TaggedJSONSerializer()
        return serializer.loads(serializer.dumps(value))


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url)
    yield app
    close(app)


@pytest.mark.parametrize("name", VALUES)
def test_what_flask_takes_is_taken(app: Flask, name: str) -> None:
    value = VALUES[name]
    seen: list[Any] = []

    @app.post("/put")
    def put() -> str:
        session["value"] = value
        assert session["value"] is value or name == "nan"
        return ""

    @app.get("/get")
    def get() -> str:
        seen.append(session["value"])
        return ""

    @app.post("/other")
    def other() -> str:
        session["other"] = 1
        return ""

    client = app.test_client()
    client.post("/put")
    sid = sid_of(client)
    with guard_of(app) as guard:
        version = guard.read(sid).version
    client.get("/get")  # a look changes nothing
    with guard_of(app) as guard:
        assert guard.read(sid).version == version
    client.post("/other")
    client.get("/get")
    exact, flasks = value, as_flask_has_it(app, value)
    for found in seen:
        if name in ("nan", "infinity"):
            assert repr(found) == repr(flasks)
        else:
            assert (found == exact and type(found) is type(exact)) or (found == flasks and type(found) is type(flasks))


@pytest.mark.parametrize("value", [object(), {1, 2} and object, b"x".__len__, {("a", "b"): 1}, UserString("x")])
def test_what_flask_refuses_is_refused(app: Flask, value: Any) -> None:
    with pytest.raises(TypeError):
        as_flask_has_it(app, value)

    @app.post("/put")
    def put() -> str:
        session["value"] = value
        return ""

    with pytest.raises(CodecError, match="value") as refused:
        app.test_client().post("/put")
    assert isinstance(refused.value.__cause__, TypeError)


def test_a_tag_of_ones_own(app: Flask) -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    class MoneyTag(JSONTag):
        key = " money"

        def check(self, value: Any) -> bool:
            return isinstance(value, Money)

        def to_json(self, value: Any) -> Any:
            return value.cents

        def to_python(self, value: Any) -> Any:
            return Money(value)

    interface: Any = app.session_interface
    interface.serializer = TaggedJSONSerializer()
    interface.serializer.register(MoneyTag)

    @app.post("/put")
    def put() -> str:
        session["price"] = [Money(5)]
        return ""

    @app.get("/get")
    def get() -> str:
        return f"{type(session['price'][0]).__name__} {session['price'][0].cents}"

    client = app.test_client()
    client.post("/put")
    assert client.get("/get").text == "Money 5"


def test_deep_changes_of_such_values_are_noticed(app: Flask) -> None:
    @app.post("/put")
    def put() -> str:
        session["token"] = Token(x=1)
        session["pair"] = ([1], 2)
        session["numbers"] = {1: []}
        return ""

    @app.post("/change")
    def change() -> str:
        session["token"]["y"] = 2
        session["pair"][0].append(2)
        session["numbers"]["1"].append("x")
        return ""

    client = app.test_client()
    client.post("/put")
    client.post("/change")
    with client.session_transaction() as seen:
        assert dict(seen) == {"token": {"x": 1, "y": 2}, "pair": ([1, 2], 2), "numbers": {"1": ["x"]}}


# --- A8: the name space is the user's


def test_nothing_of_ours_is_among_the_attributes() -> None:
    ours = {name for name in dir(LockedSession) if not name.startswith("_")} - set(dir(dict))
    assert ours == {"sessionlock", "new", "modified", "accessed", "permanent"}
    assert set(dir(SessionMixin)) - set(dir(LockedSession)) == set()


def test_attributes_in_templates_are_keys(app: Flask) -> None:
    names = sorted(
        {name for name in dir(GuardedSession) if not name.startswith("_")} | {"id", "user", "visit", "finish"}
    )
    source = "|".join(f"{{{{ session.{name} }}}}" for name in names)

    @app.get("/page")
    def page() -> str:
        return render_template_string(source)

    @app.post("/fill")
    def fill() -> str:
        session.update({name: f"my {name}" for name in names})
        return ""

    client = app.test_client()
    assert client.get("/page").text == "|" * (len(names) - 1)
    client.post("/fill")
    assert client.get("/page").text == "|".join(f"my {name}" for name in names)


def test_an_old_spelling_tells_the_new_one(app: Flask) -> None:
    with app.test_request_context(), pytest.raises(AttributeError, match=r"session\.sessionlock\.regenerate"):
        session.regenerate()  # type: ignore[attr-defined]


# --- B7: a dict is a dict


@pytest.mark.parametrize("touched", [True, False])
def test_wherever_a_dict_may_stand(app: Flask, touched: bool) -> None:
    content = {"a": 1, "b": [1, 2]}

    @app.get("/all")
    def all_of_it() -> str:
        own: Any = session._get_current_object()  # type: ignore[attr-defined]
        if touched:
            assert own["a"] == 1
        for view in (own.items, own.keys, own.values):
            assert list(reversed(view())) == list(view())[::-1]
        assert json.loads(json.dumps(own)) == content
        assert session | {"c": 1} == {**content, "c": 1}  # type: ignore[operator]
        assert {"c": 1} | session == {**content, "c": 1}  # type: ignore[operator]
        assert copy.copy(session) == copy.deepcopy(own) == dict(own) == {**session} == content
        assert type(copy.deepcopy(own)) is dict
        assert isinstance(session, dict)
        assert own == content
        return ""

    @app.get("/returned")
    def returned() -> Any:
        return session._get_current_object()  # type: ignore[attr-defined]

    @app.get("/jsonified")
    def jsonified() -> Any:
        return jsonify(session._get_current_object())  # type: ignore[attr-defined]

    @app.get("/template")
    def template() -> str:
        return render_template_string("{{ dict(session)|tojson }}")

    with guard_of(app) as guard:
        sid = guard.create(content).sid
    for path in ("/all", "/returned", "/jsonified", "/template"):
        answer = asked(app, sid, path)
        assert answer.status_code == 200
        assert path == "/all" or json.loads(answer.text) == content


def test_the_same_by_a_session_that_is_not_there(app: Flask) -> None:
    app.add_url_rule("/", view_func=lambda: session._get_current_object())  # type: ignore[attr-defined]
    answer = app.test_client().get("/")
    assert answer.json == {}
    assert "Set-Cookie" not in answer.headers


def test_methods_of_a_dict(app: Flask) -> None:
    @app.post("/")
    def view() -> str:
        session.update({"a": 1}, b=2)
        assert session.setdefault("c", []) == []
        session["c"].append(1)
        assert session.pop("a") == 1
        assert session.pop("a", None) is None
        with pytest.raises(KeyError):
            session.pop("a")
        assert session.popitem() == ("c", [1])
        session["d"] = session.get("b")
        del session["b"]
        own: Any = session._get_current_object()  # type: ignore[attr-defined]
        own |= {"e": 3}
        assert (list(session), len(session), bool(session)) == (["d", "e"], 2, True)
        assert list(session.items()) == [("d", 2), ("e", 3)]
        return ""

    client = app.test_client()
    client.post("/")
    with client.session_transaction() as seen:
        assert dict(seen) == {"d": 2, "e": 3}


def test_keys_as_json_has_them(app: Flask) -> None:
    keys: list[Any] = [1, False, None, 1.5, Colour.RED, Level.HIGH, Text("lazy"), Markup("<b>")]

    @app.post("/")
    def view() -> str:
        own: Any = session
        for key in keys:
            own[key] = [1]
            assert key in own
            own[key].append(2)
        del own[1.5]
        return ""

    @app.get("/")
    def look() -> str:
        own: Any = session
        assert own[1] == own["1"] == [1, 2]
        return jsonify(sorted(own))  # type: ignore[return-value]

    client = app.test_client()
    client.post("/")
    assert client.get("/").json == sorted(json.loads(json.dumps({key: 1 for key in keys if key != 1.5})))
