"""What ``request.session`` holds: a guarded session whose keys become str as JSON makes them."""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from typing import Any

from ...session.mapping import Session

__all__ = ["Content", "name_of"]


def name_of(key: Any) -> Any:
    """``key`` as Django's serializer would give it back: 1 becomes "1". What that refuses stays what it is."""
    if type(key) is str:
        return key
    if isinstance(key, str):
        return str.__str__(key)
    try:
        (name,) = json.loads(json.dumps({key: None}))
    except TypeError:
        return key
    return name


class Content(MutableMapping[Any, Any]):
    """Passes on to ``session``, which knows str keys only. A key finds what was put in under it, saved or not."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __getitem__(self, key: Any) -> Any:
        return self.session[name_of(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.session[name_of(key)] = value

    def __delitem__(self, key: Any) -> None:
        del self.session[name_of(key)]

    def __contains__(self, key: object) -> bool:
        return name_of(key) in self.session

    def __iter__(self) -> Iterator[str]:
        return iter(self.session)

    def __len__(self) -> int:
        return len(self.session)

    def keys(self) -> KeysView[str]:
        return self.session.keys()

    def values(self) -> ValuesView[Any]:
        return self.session.values()

    def items(self) -> ItemsView[str, Any]:
        return self.session.items()

    def clear(self) -> None:
        self.session.clear()

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self.session)

    __copy__ = copy

    def __reduce__(self) -> Any:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        return repr(self.session)
