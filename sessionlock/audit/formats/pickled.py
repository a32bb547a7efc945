"""A pickle's opcodes, followed without doing what they say: nothing is imported, called or constructed."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

__all__ = ["read_pickle"]

_MOST = 30_000  # opcodes
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def read_pickle(raw: bytes) -> Any:
    """What it describes. What it would have constructed is ``{"class": name, "args": …, "state": …}``.

    Raises:
        Exception: it is no pickle, or one that does something odd; of whatever kind.
    """
    return _Machine().run(raw)


class _Machine:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._does: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "POP": lambda _: self._drop(),
            "POP_MARK": lambda _: self._drop_marked(),
            "DUP": lambda _: self._stack.append(self._stack[-1]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "DICT": lambda _: self._stack.append(_pairs(self._marked())),
            **dict.fromkeys(("EMPTY_TUPLE", "EMPTY_SET"), lambda _: self._stack.append([])),
            **dict.fromkeys(("LIST", "TUPLE", "FROZENSET"), lambda _: self._stack.append(self._marked())),
            "TUPLE1": lambda _: self._stack.append(self._last(1)),
            "TUPLE2": lambda _: self._stack.append(self._last(2)),
            "TUPLE3": lambda _: self._stack.append(self._last(3)),
            "APPEND": lambda _: self._extend(self._last(1)),
            **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda _: self._extend(self._marked())),
            "SETITEM": lambda _: self._update(self._last(2)),
            "SETITEMS": lambda _: self._update(self._marked()),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            "GLOBAL": lambda name: self._stack.append({"class": str(name).replace(" ", ".")}),
            "STACK_GLOBAL": lambda _: self._stack.append({"class": ".".join(map(_name, self._last(2)))}),
            "REDUCE": lambda _: self._made(*self._last(2)),
            "NEWOBJ": lambda _: self._made(*self._last(2)),
            "NEWOBJ_EX": lambda _: self._made(*self._last(3)),
            "OBJ": lambda _: self._made(*self._parted(self._marked())),
            "INST": lambda name: self._made({"class": str(name).replace(" ", ".")}, self._marked()),
            "BUILD": lambda _: self._build(*self._last(1)),
            "PERSID": lambda name: self._stack.append({"class": "persistent", "args": str(name)}),
            "BINPERSID": lambda _: self._stack.append({"class": "persistent", "args": self._last(1)}),
        }

    def run(self, raw: bytes) -> Any:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
            name = opcode.name
            if name == "STOP":
                (value,) = self._stack
                return value
            if number > _MOST:
                raise ValueError("it goes on and on")
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name not in ("PROTO", "FRAME"):
                self._does[name](argument)
        raise ValueError("it has no end")

    # --- the stack

    def _drop(self) -> None:
        self._stack.pop()

    def _drop_marked(self) -> None:
        self._marked()

    def _last(self, count: int) -> list[Any]:
        taken = self._stack[-count:]
        if len(taken) < count or any(one is _MARK for one in taken):
            raise ValueError("there is less on the stack than it wants")
        del self._stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        """What was put there since the last mark."""
        taken: list[Any] = []
        while (one := self._stack.pop()) is not _MARK:
            taken.append(one)
        taken.reverse()
        return taken

    def _put(self, place: Any) -> None:
        self._memo[int(place)] = self._stack[-1]

    def _get(self, place: Any) -> None:
        self._stack.append(self._memo[int(place)])

    # --- what stands on it

    def _extend(self, items: list[Any]) -> None:
        # A subclass of list, dict or set is one that was made, and then filled.
        top = self._stack[-1]
        (top.setdefault("items", []) if isinstance(top, dict) else top).extend(items)

    def _update(self, items: list[Any]) -> None:
        self._stack[-1].update(_pairs(items))

    def _made(self, kind: Any, args: Any, keywords: Any = None) -> None:
        made = {"class": kind["class"] if isinstance(kind, dict) and "class" in kind else "?"}
        self._stack.append({**made, **({"args": args} if args else {}), **({"keywords": keywords} if keywords else {})})

    def _parted(self, marked: list[Any]) -> tuple[Any, list[Any]]:
        return marked[0], marked[1:]

    def _build(self, state: Any) -> None:
        self._stack[-1]["state"] = state


def _pairs(items: list[Any]) -> dict[str, Any]:
    """Keys as text: a session's are, and an unhashable one of a hostile pickle does no harm."""
    if len(items) % 2:
        raise ValueError("a key has no value")
    return {_name(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _name(key: Any) -> str:
    if isinstance(key, (dict, list)):
        return f"({type(key).__name__})"  # perhaps one that holds itself
    return key if isinstance(key, str) else repr(key)
