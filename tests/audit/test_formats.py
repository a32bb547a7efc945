"""What sessions are stored as, read without running anything of it."""

from __future__ import annotations

import base64
import datetime
import json
import pickle
import zlib
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionlock.audit.facts import facts_of
from sessionlock.audit.formats import pickled
from sessionlock.audit.formats.reading import read_value

SESSION = {"cart": ["a", "b"], "n": 7, "user": {"name": "x", "admin": False}, "none": None, "f": 0.5}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles(protocol: int) -> None:
    assert read_value(pickle.dumps(SESSION, protocol=protocol)) == ("pickle", SESSION, True)


def test_pickles_of_objects_name_their_classes() -> None:
    stored = {"at": datetime.datetime(2026, 11, 28), "sum": Decimal("1.5"), "of": OrderedDict(a=1), "set": {1}}
    value = read_value(pickle.dumps(stored)).value
    assert value["at"]["class"] == "datetime.datetime"
    assert value["sum"] == {"class": "decimal.Decimal", "args": ["1.5"]}
    assert value["set"] == [1]


CART = {"cart": ["a", "b"], "n": 7}
CART_OF_PHP = b'a:2:{s:4:"cart";a:2:{i:0;s:1:"a";i:1;s:1:"b";}s:1:"n";i:7;}'
SEALED = base64.b64encode(bytes(range(60))).decode()


@pytest.mark.parametrize(
    "stored",
    [
        json.dumps(json.dumps(CART)).encode(),
        json.dumps(base64.b64encode(json.dumps(CART).encode()).decode()).encode(),
        pickle.dumps(base64.b64encode(pickle.dumps(CART)).decode()),
        b's:%d:"%b";' % (len(CART_OF_PHP), CART_OF_PHP),
    ],
    ids=["JSON twice", "base64 in JSON", "Beaker", "Laravel"],
)
def test_what_is_stored_twice_over(stored: bytes) -> None:
    assert read_value(stored)[1:] == (CART, True)


def test_a_field_that_holds_a_session() -> None:
    assert read_value(json.dumps({"v": 1, "data": json.dumps(CART)}).encode()).value == {"v": 1, "data": CART}


@pytest.mark.parametrize("stored", [{"v": 1, "payload": SEALED}, {"iv": SEALED, "value": SEALED, "tag": ""}, SEALED])
def test_what_is_encrypted_is_no_assignment(stored: Any) -> None:
    """It is compared as bytes are: nobody means the last to decide."""
    assert not read_value(json.dumps(stored).encode()).readable
    assert read_value(json.dumps({"csrf": SEALED, "cart": []}).encode()).readable


def test_a_number_of_javas() -> None:
    head = bytes.fromhex("aced00057372000e6a6176612e6c616e672e4c6f6e673b8be490cc8f23df0200014a000576616c7565787200")
    head += bytes.fromhex("106a6176612e6c616e672e4e756d62657286ac951d0b94e08b0200007870")
    assert read_value(head + (1_795_892_448_123).to_bytes(8, "big"), part=True).value == 1_795_892_448_123


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import tests.audit.test_formats as here; here.exploded.append(1)",)


exploded: list[int] = []


def test_pickles_are_never_executed() -> None:
    value = read_value(pickle.dumps({"cart": [1], "bomb": Bomb()})).value
    assert value["cart"] == [1]
    assert value["bomb"]["class"] == "builtins.exec"
    assert exploded == []


def test_a_pickle_that_grows_when_it_is_looked_at() -> None:
    """Lists of the same list twice: a line each, and 2**40 items."""
    inner: list[Any] = ["x"]
    for _ in range(40):
        inner = [inner, inner]
    content = read_value(pickle.dumps({"cart": inner, "n": 1}))
    facts = facts_of({None: (content, b"")})
    assert facts.opaque == {()}


def test_a_pickle_that_holds_itself() -> None:
    itself: dict[str, Any] = {"n": 1}
    itself["me"] = itself
    content = read_value(pickle.dumps(itself))
    assert facts_of({None: (content, b"")}).opaque == {()}


PHP = (
    'cart|a:2:{i:0;s:1:"a";i:1;s:3:"b;|";}n|i:7;user|O:4:"User":2:{s:4:"name";s:1:"x";s:5:"admin";b:0;}none|N;f|d:0.5;'
)


def test_php_sessions() -> None:
    assert read_value(PHP.encode()) == (
        "PHP",
        {
            "cart": ["a", "b;|"],
            "n": 7,
            "user": {"class": "User", "state": {"name": "x", "admin": False}},
            "none": None,
            "f": 0.5,
        },
        True,
    )


def test_php_serialize() -> None:
    assert read_value(b'a:2:{s:4:"cart";a:1:{i:0;s:1:"a";}s:1:"n";i:7;}').value == {"cart": ["a"], "n": 7}


def test_msgpack() -> None:
    assert read_value(msgspec.msgpack.encode(SESSION)) == ("msgpack", SESSION, True)


@pytest.mark.parametrize("compress", [False, True])
def test_djangos_signed_envelope(compress: bool) -> None:
    from django.core.signing import TimestampSigner

    signer = TimestampSigner(key="k", salt="s", fallback_keys=())  # so that Django need not be set up
    stored: dict[str, Any] = {"cart": ["a"] * 50 if compress else ["a"], "n": 7}
    signed = signer.sign_object(stored, compress=compress)
    assert signed.startswith(".") is compress
    assert read_value(signed.encode()) == ("signed, JSON", stored, True)


def test_flasks_signed_cookie() -> None:
    from itsdangerous import URLSafeTimedSerializer

    signed = URLSafeTimedSerializer("k").dumps(SESSION)
    assert read_value(str(signed).encode()).value == SESSION


def test_older_envelopes() -> None:
    inner = b"0" * 40 + b":" + json.dumps(SESSION).encode()
    assert read_value(base64.b64encode(inner)).value == SESSION
    assert read_value(zlib.compress(pickle.dumps(SESSION))).value == SESSION


@pytest.mark.parametrize("raw", [b"", b"\x00\x00\x00\x02\x14", b"word", b"abcdefghijklmnop", b"gAAAAABmX" * 20])
def test_what_nobody_can_read(raw: bytes) -> None:
    assert not read_value(raw).readable


def test_a_compressed_bomb_is_not_unpacked() -> None:
    assert not read_value(zlib.compress(b'{"a": "%b"}' % (b"x" * (1 << 22)))).readable


def test_deep_json_is_no_accident() -> None:
    assert not read_value(b"[" * 100_000).readable
    content = read_value(b'{"a":' * 500 + b"1" + b"}" * 500)
    assert facts_of({None: (content, b"")}).opaque == {()}


HOSTILE = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=100).map(lambda tail: b"\x80\x04" + tail + b"."),
    st.binary(max_size=100).map(lambda tail: b"\x85" + tail),
    st.text(alphabet='abisdONCE:;{}|"0123456789', max_size=80).map(str.encode),
    st.lists(st.sampled_from([bytes((code,)) for code in b"(]}l)0et\x85\x86au\x94R\x81bh\x00q\x02K\x05c.N"])).map(
        lambda opcodes: b"\x80\x04" + b"".join(opcodes) + b"."
    ),
)


@given(HOSTILE)
def test_nothing_makes_it_fail(raw: bytes) -> None:
    content = read_value(raw)
    facts_of({None: (content, raw)})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PLAIN)
@settings(max_examples=50)
def test_pickles_of_any_plain_value(value: Any) -> None:
    assert pickled.read_pickle(pickle.dumps(value)) == value
