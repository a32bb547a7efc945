"""A codec is exact or loud: a value comes back as it was, or a CodecError says what is wrong and where."""

from __future__ import annotations

import base64
import enum
import json
import math
import random
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, localcontext
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessionlock import FernetCodec, JsonCodec, MsgspecCodec, OrjsonCodec
from sessionlock.codecs import (
    MAX_DEPTH,
    Codec,
    Sealing,
    default_codec,
    keeps_counters,
)
from sessionlock.codecs import json as codec_json
from sessionlock.codecs import tags as codec_tags
from sessionlock.errors import CodecError, ConfigurationError
from tests.harness import stable_name

ENGINES: dict[str, type[Codec]] = {"json": JsonCodec, "orjson": OrjsonCodec, "msgspec": MsgspecCodec}


@pytest.fixture(params=list(ENGINES), scope="module")
def codec(request: pytest.FixtureRequest) -> Codec:
    if request.param != "json":
        pytest.importorskip(request.param, reason=f"the {request.param} codec needs {request.param} installed")
    return ENGINES[request.param]()


def frozen(value: object) -> object:
    """Return something that is equal only for values of the same types, order, signs and folds."""
    kind = type(value)
    if isinstance(value, dict):
        return (kind, tuple((frozen(name), frozen(item)) for name, item in value.items()))
    if isinstance(value, (list, tuple)):
        return (kind, tuple(frozen(item) for item in value))
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset(frozen(item) for item in value))
    if isinstance(value, datetime):
        return (kind, value.replace(tzinfo=None, fold=0), zone_of(value.tzinfo), value.fold)
    if isinstance(value, time):
        return (kind, value.replace(tzinfo=None, fold=0), zone_of(value.tzinfo), value.fold)
    if isinstance(value, (float, Decimal)):
        return (kind, repr(value))
    return (kind, value)


def zone_of(zone: tzinfo | None) -> object:
    return None if zone is None else (type(zone), repr(zone))


def assert_round_trip(codec: Codec, value: object) -> bytes:
    data = codec.encode("k", value)
    assert type(data) is bytes
    assert frozen(codec.decode("k", data)) == frozen(value)
    return data


def refused(codec: Codec, value: object, key: str = "cart") -> CodecError:
    with pytest.raises(CodecError) as caught:
        codec.encode(key, value)
    assert caught.value.key == key
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the value, or the session, would travel with the error"
    return caught.value


def unreadable(codec: Codec, data: bytes, key: str = "cart") -> CodecError:
    with pytest.raises(CodecError) as caught:
        codec.decode(key, data)
    assert caught.value.key == key
    assert caught.value.__context__ is None, "the stored data would travel with the error"
    assert type(caught.value.path) is str
    return caught.value


def nested(levels: int, wrap: Callable[[object], object] = lambda inner: [inner]) -> object:
    value: object = 1
    for _ in range(levels):
        value = wrap(value)
    return value


# --- what is stored --------------------------------------------------------------------------------------

STORED = [
    (7, b"7"),
    (-12, b"-12"),
    (0, b"0"),
    (2**63 - 1, b"9223372036854775807"),
    (2**64, b"18446744073709551616"),
    (-(2**63) - 1, b"-9223372036854775809"),
    (10**40, b"1" + b"0" * 40),
    (True, b"true"),
    (False, b"false"),
    (None, b"null"),
    (1.0, b"1.0"),
    (-0.0, b"-0.0"),
    (1e16, b"1e+16"),
    (0.00001, b"1e-05"),
    (1.5e300, b"1.5e+300"),
    ("", b'""'),
    ("~dt", b'"~dt"'),
    ("hé\U0001f600", '"hé\U0001f600"'.encode()),
    ('"\\/\x00\x1f\x7f\n\r\t\b\f\u2028', '"\\"\\\\/\\u0000\\u001f\x7f\\n\\r\\t\\b\\f\u2028"'.encode()),
    ([], b"[]"),
    ({}, b"{}"),
    (["a", 1, True, None, 1.5], b'["a",1,true,null,1.5]'),
    ({"b": 1, "a": [{}]}, b'{"b":1,"a":[{}]}'),
    ((), b'{"~tuple":[]}'),
    ((1, (2,)), b'{"~tuple":[1,{"~tuple":[2]}]}'),
    ({10, 9, 1}, b'{"~set":[1,10,9]}'),
    (frozenset({"b", "a"}), b'{"~fset":["a","b"]}'),
    ({frozenset({2, 1}), (1,), None}, b'{"~set":[null,{"~fset":[1,2]},{"~tuple":[1]}]}'),
    (b"\x00\xff", b'{"~bytes":"AP8="}'),
    (b"", b'{"~bytes":""}'),
    (UUID(int=1), b'{"~uuid":"00000000-0000-0000-0000-000000000001"}'),
    (Decimal("1.10"), b'{"~dec":"1.10"}'),
    (Decimal("-0E+7"), b'{"~dec":"-0E+7"}'),
    (Decimal("-Infinity"), b'{"~dec":"-Infinity"}'),
    (Decimal("NaN123"), b'{"~dec":"NaN123"}'),
    (Decimal("sNaN"), b'{"~dec":"sNaN"}'),
    (timedelta(seconds=-1, microseconds=1), b'{"~td":-999999}'),
    (timedelta.max, b'{"~td":86399999999999999999}'),
    (date(1, 2, 3), b'{"~date":"0001-02-03"}'),
    (time(1, 2, 3, 4), b'{"~time":"01:02:03.000004"}'),
    (time(1, tzinfo=timezone.utc), b'{"~time":"01:00:00+00:00"}'),
    (time(1, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), b'{"~time":"01:00:00[Europe/Berlin][fold=1]"}'),
    (datetime(2024, 2, 29), b'{"~dt":"2024-02-29T00:00:00"}'),
    (datetime(2024, 2, 29, fold=1), b'{"~dt":"2024-02-29T00:00:00[fold=1]"}'),
    (datetime(2024, 2, 29, 1, 2, 3, 4, timezone.utc), b'{"~dt":"2024-02-29T01:02:03.000004+00:00"}'),
    (
        datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-3, seconds=-7, microseconds=-5))),
        b'{"~dt":"2024-02-29T00:00:00-03:00:07.000005"}',
    ),
    (
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        b'{"~dt":"2024-10-27T02:30:00[Europe/Berlin][fold=1]"}',
    ),
    ({"~dt": 1}, b'{"~~dt":1}'),
    ({"~~dt": 1}, b'{"~~~dt":1}'),
    ({"~": {"~set": [1]}}, b'{"~~":{"~~set":[1]}}'),
    ({"~dt": 1, "~": 2}, b'{"~dt":1,"~":2}'),
    ({"a": "~"}, b'{"a":"~"}'),
    ({"a:b": "c:d", "e": {"f": ":"}}, b'{"a:b":"c:d","e":{"f":":"}}'),
]


@pytest.mark.parametrize(("value", "data"), STORED, ids=[ascii(data)[2:40] for _, data in STORED])
def test_the_wire_format_is_fixed(codec: Codec, value: object, data: bytes) -> None:
    assert assert_round_trip(codec, value) == data
    # ... also where it is not the whole value
    assert_round_trip(codec, {"x": [value, {"y": value}]})


def test_a_dict_keeps_its_order_and_a_set_has_none(codec: Codec) -> None:
    assert codec.encode("k", {"a": 1, "b": 2}) != codec.encode("k", {"b": 2, "a": 1})
    words = [f"word{number}" for number in range(200)]
    shuffled = random.Random(1).sample(words, len(words))
    assert codec.encode("k", set(words)) == codec.encode("k", set(shuffled))


def test_a_decoded_value_is_new_every_time(codec: Codec) -> None:
    first = codec.decode("k", b'{"a":[1]}')
    assert isinstance(first, dict)
    first["a"].append(2)
    assert codec.decode("k", b'{"a":[1]}') == {"a": [1]}


def test_the_thread_s_decimal_context_does_not_matter(codec: Codec) -> None:
    value = Decimal("1.23456789E+50")
    with localcontext() as context:
        context.capitals = 0
        context.prec = 2
        data = assert_round_trip(codec, value)
    assert data == b'{"~dec":"1.23456789E+50"}'


# --- what cannot be stored -------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Word(str):
    pass


class FixedZone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "here"


class Unhashable(type):
    """A metaclass whose classes cannot be looked up in a table."""

    __hash__ = None  # type: ignore[assignment]


class Odd(metaclass=Unhashable):
    pass


class Point(NamedTuple):
    x: int
    y: int


LOOP: list[object] = []
LOOP.append({"again": LOOP})

REFUSED = [
    (math.nan, "nan"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    ("\ud800", "lone surrogate (U+D800 at index 0)"),
    ("ok\udfff", "at index 2"),
    ({1: "a"}, "keys must be str, not int"),
    ({None: 1}, "keys must be str"),
    ({True: 1}, "keys must be str, not bool"),
    ({1.5: 1}, "keys must be str"),
    ({("a",): 1}, "keys must be str, not tuple"),
    ({Word("a"): 1}, "keys must be str"),
    (Word("a"), "subclass of str"),
    (Level.LOW, "subclass of int"),
    (Colour.RED, "Colour"),
    (Point(1, 2), "subclass of tuple"),
    (OrderedDict(a=1), "convert it to dict"),
    (type("Moment", (datetime,), {})(2024, 1, 1), "subclass of datetime"),
    (object(), "type object"),
    (bytearray(b"x"), "bytearray"),
    (1j, "complex"),
    (len, "builtin"),
    (Odd(), "TypeError"),
    (datetime(2024, 1, 1, tzinfo=FixedZone()), "FixedZone"),
    (datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")), "name of its own"),
    (time(1, tzinfo=timezone(timedelta(0), "GMT")), "name of its own"),
    (LOOP, "contains itself"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=stable_name)
def test_what_would_not_come_back_exactly_is_refused(codec: Codec, value: object, reason: str) -> None:
    error = refused(codec, value)
    assert reason in str(error)
    assert str(error.path).startswith("cart")
    str(error).encode()
    refused(codec, [1, {"x": value}])
    refused(codec, (1, {"x": value}))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([0, 1, 2, {"price": math.nan}], "cart[3].price"),
        ({"a": {"b": [object()]}}, "cart.a.b[0]"),
        ({"a b": object()}, 'cart["a b"]'),
        ({"": object()}, 'cart[""]'),
        ({'quote"': {"\ud800": 1}}, 'cart["quote\\""]["\\ud800"]'),
        ({"t": (1, [object()])}, "cart.t[1][0]"),
        ({"s": {(1, object())}}, "cart.s{}[1]"),
        ({"~dt": object()}, 'cart["~dt"]'),
        ({"x": {1: 2}}, "cart.x"),
        (object(), "cart"),
    ],
)
def test_the_error_names_the_part(codec: Codec, value: object, path: str) -> None:
    error = refused(codec, value)
    assert error.path == path
    assert path in str(error)


def test_the_error_names_a_strange_key_in_printable_text(codec: Codec) -> None:
    error = refused(codec, [object()], key="a\ud800\n")
    assert error.path == '"a\\ud800\\n"[0]'
    assert str(error).isprintable()


def test_the_error_shows_no_value(codec: Codec) -> None:
    class Token:
        def __repr__(self) -> str:
            return "hunter2"

    assert "hunter2" not in str(refused(codec, {"secret": "hunter2", "x": Token()}))
    assert "hunter2" not in str(unreadable(codec, b'{"secret":"hunter2"'))


def test_an_int_with_too_many_digits_is_refused_both_ways(codec: Codec) -> None:
    if not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this interpreter converts ints of any size")
    digits = sys.get_int_max_str_digits()
    if not digits:
        pytest.skip("the limit on converting ints is switched off in this interpreter")
    assert_round_trip(codec, 10 ** (digits - 1))
    assert_round_trip(codec, [-(10 ** (digits - 1))])
    for value in (10**digits, -(10**digits)):
        assert "set_int_max_str_digits" in str(refused(codec, value))
        error = refused(codec, {"n": [value]})
        assert error.path == "cart.n[0]"
    assert "set_int_max_str_digits" in str(unreadable(codec, b"9" * (digits + 1)))
    unreadable(codec, b'{"~td":' + b"9" * (digits + 1) + b"}")


# --- depth -----------------------------------------------------------------------------------------------

WRAPS: dict[str, tuple[Callable[[object], object], int]] = {
    "list": (lambda inner: [inner], 1),
    "dict": (lambda inner: {"a": inner}, 1),
    "escaped dict": (lambda inner: {"~a": inner}, 1),
    "tuple": (lambda inner: (inner,), 2),
    "frozenset": (lambda inner: frozenset([inner]), 2),
}


@pytest.mark.parametrize("kind", WRAPS)
def test_the_depth_limit_is_exact_and_the_same_in_both_directions(codec: Codec, kind: str) -> None:
    wrap, cost = WRAPS[kind]
    deepest = nested(MAX_DEPTH // cost, wrap)
    data = assert_round_trip(codec, deepest)
    assert str(MAX_DEPTH) in str(refused(codec, wrap(deepest)))
    for too_deep in (b"[" + data + b"]", b'["\\"[",' + data + b"]", b'["]]]]",' + data + b"]"):
        assert str(MAX_DEPTH) in str(unreadable(codec, too_deep))


def test_a_tag_counts_as_a_level(codec: Codec) -> None:
    moment = datetime(2024, 1, 1)
    fits = moment
    for _ in range(MAX_DEPTH - 1):
        fits = [fits]  # type: ignore[assignment]
    assert_round_trip(codec, fits)
    assert str(MAX_DEPTH) in str(refused(codec, [fits]))


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 254, 255, 1_000, 5_000])
@pytest.mark.parametrize("kind", WRAPS)
def test_deep_values_are_refused_by_name_of_the_limit(codec: Codec, kind: str, levels: int) -> None:
    error = refused(codec, nested(levels, WRAPS[kind][0]))
    assert f"deeper than {MAX_DEPTH} levels" in str(error)
    assert len(str(error)) < 400


@pytest.mark.slow
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1_000, pytest.param(200_000, marks=pytest.mark.server)])
def test_deep_data_is_refused_and_kills_nothing(codec: Codec, levels: int) -> None:
    hostile = [
        b"[" * levels + b"]" * levels,
        b"[" * levels,
        b'{"a":' * levels + b"1" + b"}" * levels,
        b'{"~tuple":[' * levels + b"]}" * levels,
        b'["\\"",' * levels + b"1" + b"]" * levels,
        b'["]",' * levels + b"1" + b"]" * levels,
        b"[1,{}," * levels + b'"' + b"]" * levels,
    ]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)  # then only the codec stands between the data and the C stack
    try:
        for data in hostile:
            assert f"deeper than {MAX_DEPTH} levels" in str(unreadable(codec, data))
    finally:
        sys.setrecursionlimit(limit)


def test_many_brackets_are_not_depth(codec: Codec) -> None:
    for value in (
        [[]] * 5_000,
        [{"sku": "[[[[", "tags": ["{"]} for _ in range(500)],
        "[" * 5_000,
        ["\\" + '"[' * 5_000],
        {"[" * 500: "\\"},
        nested(MAX_DEPTH - 1, lambda inner: [inner, {}]),
    ):
        assert_round_trip(codec, value)


def test_hostile_text_is_scanned_once() -> None:
    # Quadratic here would be minutes.
    codec_tags.check_depth(b"[]" * MAX_DEPTH + b'"' + b'\\"' * 2_000_000)


def test_without_room_on_the_stack_it_is_still_a_codec_error(codec: Codec) -> None:
    value = nested(90)
    data = codec.encode("k", value)
    outcomes = set()

    def dig() -> None:
        for call in (partial(codec.encode, "k", value), partial(codec.decode, "k", data)):
            try:
                call()
                outcomes.add("worked")
            except CodecError:
                outcomes.add("refused")
        dig()

    with pytest.raises(RecursionError):
        dig()
    assert "worked" in outcomes


# --- what cannot be read ---------------------------------------------------------------------------------

UNREADABLE = [
    b"",
    b" ",
    b"nul",
    b'"cut',
    b'{"a":1',
    b'{"a":1}}',
    b"1 2",
    b"01",
    b"+1",
    b"1.",
    b".5",
    b"0x10",
    b"NaN",
    b"[Infinity]",
    b"-Infinity",
    b"1e999",
    b"[-1e400]",
    b"9" * 400 + b".0",
    b"'a'",
    b"[1,]",
    b'{"a":1,"a":2}',
    b'{"x":{"a":1,"b":2,"a":1}}',
    b'{"a":":","a" :2}',
    b'[{"a":1,"\\u0061":2}]',
    b'"\\ud800"',
    b'["\\udc00x"]',
    b'{"\\ud800":1}',
    b'"\x01"',
    b'"\xff"',
    b"\xff\xfe1\x00",
    b"\xef\xbb\xbf1",
    b'"\xed\xa0\x80"',
    b"\x80\x04K\x07.",  # a pickle of 7
    b"\x81\xa1a\x01",  # msgpack
    b"null\x00",
    b"\x00",
    b"[1]garbage",
    b"(1, 2)",
    b"~",
    # tags that are unknown, or not as written here
    b'{"~":1}',
    b'{"~what":1}',
    b'{"\\u007ewhat":1}',
    b'{"~tuple":{}}',
    b'{"~tuple":null}',
    b'{"~tuple":{"~tuple":[]}}',
    b'{"~set":[1,1]}',
    b'{"~set":[1,true]}',
    b'{"~set":[[]]}',
    b'{"~fset":[{"a":1}]}',
    b'{"~fset":{"~set":[]}}',
    b'{"~set":[{"~dec":"sNaN"}]}',
    b'{"~bytes":"AP8"}',
    b'{"~bytes":"AP9="}',
    b'{"~bytes":"A P8="}',
    b'{"~bytes":"\xc3\xa9"}',
    b'{"~bytes":[]}',
    b'{"~uuid":"00000000000000000000000000000001"}',
    b'{"~uuid":"{00000000-0000-0000-0000-000000000001}"}',
    b'{"~uuid":""}',
    b'{"~uuid":1}',
    b'{"~dec":"one"}',
    b'{"~dec":"1_0"}',
    b'{"~dec":" 1"}',
    b'{"~dec":"1e5"}',
    b'{"~dec":"1E+9999999999999999999"}',
    b'{"~dec":1}',
    '{"~dec":"\u0661"}'.encode(),
    b'{"~td":1.0}',
    b'{"~td":true}',
    b'{"~td":"1"}',
    b'{"~td":999999999999999999999999999}',
    b'{"~date":"2024-02-30"}',
    b'{"~date":"20240229"}',
    b'{"~date":"2024-02-29T00:00:00"}',
    b'{"~time":"25:00:00"}',
    b'{"~time":"10:00"}',
    b'{"~dt":"2024-02-29"}',
    b'{"~dt":"2024-02-29 00:00:00"}',
    b'{"~dt":"2024-02-29T00:00:00Z"}',
    b'{"~dt":"2024-02-29T00:00:00[Nowhere/Land]"}',
    b'{"~dt":"2024-02-29T00:00:00[../../etc/passwd]"}',
    b'{"~dt":"2024-02-29T00:00:00[America]"}',
    b'{"~dt":"2024-02-29T00:00:00[\\u0000]"}',
    b'{"~dt":"2024-02-29T00:00:00+01:00[Europe/Berlin]"}',
    b'{"~dt":"2024-02-29T00:00:00[fold=0]"}',
    b'{"~dt":"2024-02-29T00:00:00[fold=1][fold=1]"}',
    b'{"~dt":"[Europe/Berlin]"}',
    b'{"~dt":1709164800}',
]


@pytest.mark.parametrize("data", UNREADABLE, ids=lambda data: ascii(data)[2:32])
def test_what_is_no_stored_value_is_an_error(codec: Codec, data: bytes) -> None:
    error = unreadable(codec, data)
    assert str(error.path).startswith("cart")
    str(error).encode()


def test_the_error_names_the_part_that_cannot_be_read(codec: Codec) -> None:
    assert unreadable(codec, b'{"a":[1,{"~tuple":[{"~what":1}]}]}').path == "cart.a[1][0]"
    assert unreadable(codec, b'{"a b":{"~date":"x"},"c":1}').path == 'cart["a b"]'
    assert "twice" in str(unreadable(codec, b'{"a":1,"a":2}'))
    assert "UTF-8" in str(unreadable(codec, b'"\xff"'))


def test_every_truncation_is_an_error(codec: Codec) -> None:
    data = codec.encode("k", {"a": [1.5, (2, "three")], "b": {datetime(2024, 1, 1)}, "~": b"x"})
    for end in range(len(data)):
        unreadable(codec, data[:end])


def test_json_as_others_write_it_is_read(codec: Codec) -> None:
    spaced = b' {\n\t"a" : [ 1 , -2.50 , "\\u00e9\\ud83d\\ude00\\/" ] , "b":-0 } \r\n'
    assert frozen(codec.decode("k", spaced)) == frozen({"a": [1, -2.5, "é\U0001f600/"], "b": 0})
    assert codec.decode("k", b'{"\\u007edate":"2024-02-29"}') == date(2024, 2, 29)


def test_text_instead_of_bytes_is_a_clear_error(codec: Codec) -> None:
    error = unreadable(codec, '{"a":1}')  # type: ignore[arg-type]
    assert "decode_responses" in str(error)


# --- everything ------------------------------------------------------------------------------------------

zones = st.one_of(
    st.none(),
    st.just(timezone.utc),
    st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds))),
    st.sampled_from(["Europe/Berlin", "UTC", "America/St_Johns"]).map(ZoneInfo),
)
texts = st.one_of(st.text(max_size=8), st.sampled_from(["~", "~dt", "~~set", ":", '"~', "[", "{", "\\u007e", "\\"]))
plain_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3).map(lambda near: 2**63 + near),
    st.integers(-3, 3).map(lambda near: -(2**64) + near),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
folds = st.integers(0, 1)
hashable_scalars = st.one_of(
    plain_scalars,
    st.binary(max_size=6),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.timedeltas(),
    st.dates(),
    st.builds(lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), st.times(), zones, folds),
    st.builds(lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds),
)
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=6,
)
values = st.recursive(
    st.one_of(hashables, st.sets(hashables, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(texts, inner, max_size=3),
        st.dictionaries(st.sampled_from(["~", "~~", "~dt", "~set", "~tuple"]), inner, min_size=1, max_size=1),
    ),
    max_leaves=20,
)
plain_values = st.recursive(
    plain_scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=30,
)


def installed_engines() -> list[Codec]:
    found: list[Codec] = []
    for kind in ENGINES.values():
        try:
            found.append(kind())
        except ImportError:
            continue  # an optional engine; the tests by the fixture say that it is missing
    return found


INSTALLED = installed_engines()


def outcome(codec: Codec, data: bytes) -> tuple[str, str | None, str]:
    try:
        return ("value", None, repr(frozen(codec.decode("k", data))))
    except CodecError as error:
        return ("error", error.path, str(error))


@given(st.one_of(values, plain_values))
def test_every_value_round_trips_and_every_engine_writes_the_same(value: object) -> None:
    written = {assert_round_trip(codec, value) for codec in INSTALLED}
    assert len(written) == 1
    (data,) = written
    json.loads(data)
    expected = frozen(value)
    for codec in INSTALLED:
        assert frozen(codec.decode("k", data)) == expected
        assert codec.encode("k", codec.decode("k", data)) == data


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e16)
@example(9999999999999998.0)
@example(1e-4)
@example(9.999999999999999e-05)
def test_every_engine_spells_a_float_the_same(value: float) -> None:
    assert {codec.encode("k", [value]) for codec in INSTALLED} == {repr([value]).encode()}


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_alike(data: bytes) -> None:
    assert len({outcome(codec, data) for codec in INSTALLED}) == 1


JSON_PIECES = st.sampled_from(
    [
        *(
            b"[",
            b"]",
            b"{",
            b"}",
            b",",
            b":",
            b'"',
            b" ",
            b"\\",
            b"\\u007e",
            b"\\ud800",
            b"\xff",
            b"-",
            b"0",
            b"1",
        ),
        *(b'"a"', b'"a":', b'"~":', b'"~set":', b'"~tuple":', b'"~dt":', b'"~~dt":', b"1e999", b"-0", b"1.0"),
        *(
            b"null",
            b"true",
            b"NaN",
            b"18446744073709551616",
            b"1e400",
            b'{"a":1,',
            b'{"~set":[',
            b'{"~dec":"1"}',
        ),
    ]
)


@given(st.lists(JSON_PIECES, max_size=12).map(b"".join))
@settings(max_examples=300)
def test_almost_json_is_read_or_refused_alike(data: bytes) -> None:
    outcomes = {outcome(codec, data) for codec in INSTALLED}
    assert len(outcomes) == 1
    codec = INSTALLED[0]
    if outcomes.pop()[0] == "value":
        assert_round_trip(codec, codec.decode("k", data))


@given(values, st.data())
def test_damaged_data_is_read_or_refused_alike(value: object, data: st.DataObject) -> None:
    stored = bytearray(JsonCodec().encode("k", value))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    assert len({outcome(codec, bytes(stored)) for codec in INSTALLED}) == 1


# --- the codecs as such ----------------------------------------------------------------------------------


def test_json_is_the_default() -> None:
    assert default_codec().name == "json"
    assert default_codec() is default_codec()


def test_only_bare_digits_can_be_counted_by_redis(codec: Codec) -> None:
    assert keeps_counters(codec)
    assert not isinstance(codec, Sealing)


def test_without_the_c_encoder_the_whole_encoder_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    c_make_encoder = getattr(json.encoder, "c_make_encoder", None)
    refusals: list[object] = []

    def another_signature(*args: Any) -> object:
        if not refusals:
            refusals.append(args)
            raise TypeError("no such arguments")
        return c_make_encoder and c_make_encoder(*args)

    for maker in (another_signature, None):
        if c_make_encoder is None and maker is not None:
            continue
        monkeypatch.setattr(json.encoder, "c_make_encoder", maker)
        dump = codec_json._dumper()
        assert dump({"a": [1, "é"]}) == '{"a":[1,"é"]}'
        with pytest.raises(ValueError, match="Out of range"):
            dump([math.nan])


def test_a_patched_json_module_changes_nothing(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(*args: object, **options: object) -> Any:
        raise AssertionError("the codec must not depend on what others patch")

    monkeypatch.setattr(json, "dumps", patched)
    monkeypatch.setattr(json, "loads", patched)
    monkeypatch.setattr(json.JSONEncoder, "default", patched)
    assert_round_trip(codec, {"a": (1, {2})})
    refused(codec, object())


@pytest.mark.parametrize(
    ("make", "module"),
    [
        (OrjsonCodec, "orjson"),
        (MsgspecCodec, "msgspec"),
        (lambda: FernetCodec(JsonCodec(), "key"), "cryptography.fernet"),
    ],
)
def test_a_missing_engine_says_what_to_install(
    make: Callable[[], object], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "sessionlock\[(orjson|msgspec|crypto)\]"'):
        make()


# --- sealed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fernet() -> Any:
    return pytest.importorskip("cryptography.fernet", reason="the sealing codec needs cryptography installed").Fernet


def test_a_sealed_field_shows_nothing_and_comes_back(fernet: Any, codec: Codec) -> None:
    sealed = FernetCodec(codec, fernet.generate_key())
    value = {"card": "4111", "when": datetime(2024, 1, 1), "n": {1, 2}}
    data = sealed.encode("card", value)
    assert b"4111" not in data
    assert b"card" not in data
    assert frozen(sealed.decode("card", data)) == frozen(value)
    assert sealed.name == f"fernet({codec.name})"


def test_what_is_sealed_is_compared_by_what_is_inside(fernet: Any) -> None:
    sealed = FernetCodec(JsonCodec(), fernet.generate_key())
    first, second = sealed.encode("k", [1]), sealed.encode("k", [1])
    assert first != second
    assert sealed.unseal("k", first) == sealed.unseal("k", second) == sealed.inner.encode("k", [1])
    assert sealed.decode("k", sealed.seal("k", b"[1]")) == [1]
    assert isinstance(sealed, Sealing)
    assert not keeps_counters(sealed)


def test_a_sealed_field_cannot_move_to_another_key(fernet: Any) -> None:
    sealed = FernetCodec(JsonCodec(), fernet.generate_key())
    assert "another field" in str(unreadable(sealed, sealed.encode("role", "admin"), key="name"))
    # no key's name together with its data is another key's name with other data
    unreadable(sealed, sealed.encode("a", "b"), key='a"')
    unreadable(sealed, sealed.encode("ab", 1), key="a")
    unreadable(sealed, sealed.encode("", 1), key="a")


def test_every_changed_byte_and_every_cut_is_noticed(fernet: Any) -> None:
    sealed = FernetCodec(JsonCodec(), fernet.generate_key())
    data = sealed.encode("k", "value")
    for end in range(len(data)):
        unreadable(sealed, data[:end], key="k")
    token = base64.urlsafe_b64decode(data)
    for index in range(len(token)):
        changed = bytearray(token)
        changed[index] ^= 1 << index % 8
        unreadable(sealed, base64.urlsafe_b64encode(changed), key="k")
    for foreign in (b"", b"7", b'"value"', b"\xff", b"gAAAAA"):
        unreadable(sealed, foreign, key="k")
    unreadable(sealed, None, key="k")  # type: ignore[arg-type]


def test_keys_rotate(fernet: Any) -> None:
    old, new = fernet.generate_key(), fernet.generate_key().decode()
    before = FernetCodec(JsonCodec(), old)
    during = FernetCodec(JsonCodec(), [new, old])
    after = FernetCodec(JsonCodec(), [new])
    assert during.decode("k", before.encode("k", 1)) == 1
    assert after.decode("k", during.encode("k", 2)) == 2
    unreadable(before, during.encode("k", 3), key="k")
    unreadable(after, before.encode("k", 4), key="k")


def test_sealing_refuses_what_the_inner_codec_refuses(fernet: Any) -> None:
    sealed = FernetCodec(JsonCodec(), fernet.generate_key())
    assert refused(sealed, [math.nan]).path == "cart[0]"
    with pytest.raises(CodecError, match="surrogate"):
        sealed.encode("\ud800", 1)
    assert refused(sealed, object(), key="x").key == "x"
    unreadable(sealed, sealed.seal("k", b"{"), key="k")


@pytest.mark.parametrize("keys", [[], "", b"short", ["not a key"]])
def test_a_bad_key_is_noticed_at_once(fernet: Any, keys: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"key") as refused:
        FernetCodec(JsonCodec(), keys)
    assert isinstance(refused.value, ValueError)


def test_a_random_uuid_for_good_measure(codec: Codec) -> None:
    assert_round_trip(codec, {"ids": [uuid4(), uuid4()]})
