"""What an application gets as its session: a dict, which tells the guarded session of every read and write.

It is a ``dict`` because people treat a session as one: ``json.dumps(session)``, ``{**session}``, ``session | {...}``, a
view that returns it. Its name space is the user's: beside what every dict has there is one attribute,
``session.sessionlock``. So a template's ``session.name`` is the key of that name, or nothing.
"""

from __future__ import annotations

import copy
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, cast

from ...errors import SessionLockError
from ...session.mapping import Session

if TYPE_CHECKING:
    from .request_session import RequestSession

__all__ = ["UnavailableSession", "WebSession", "end"]

# Names that were attributes once: who still uses one is told where it is.
MOVED = {"sid", "name", "lease", "version", "created", "new", "saved", "modified", "accessed", "destroyed", "is_open"}
MOVED |= {"save", "release", "incr", "regenerate", "destroy", "flash", "pop_flashes", "changes", "changed_keys"}
NOT_YET = "sessionlock:not-loaded-yet"  # C code asks an empty dict nothing; this makes it ask
_ABSENT: Any = object()


class WebSession(dict[str, Any]):
    """The session of one request, as a dict.

    Reads and writes go to the guarded session, :attr:`sessionlock`. The dict's own memory holds the same, for code that
    looks past the methods (C extensions). Once the answer has begun nothing is saved any more: then writes stay in this
    dict, and the first one is logged. They never raise, because a stream or a socket would break off.
    """

    __hash__ = None

    def __init__(self, visit: RequestSession | None = None) -> None:
        """``visit`` None: it is opened by the first touch, by :meth:`_open`."""
        super().__init__()
        self._visit = visit
        self._shown: Session | None = None
        self._is_over = False
        if visit is None:
            dict.__setitem__(self, NOT_YET, None)
        else:
            self._show(visit.session)

    @property
    def sessionlock(self) -> Any:
        """The guarded session (see :class:`sessionlock.Session`): ``sid``, ``lease``, ``regenerate()``, ``destroy()``,
        ``save()``, ``release()``, ``incr()``.
        """
        session = self._live()
        return self._visit.session if session is None and self._visit is not None else session

    def __getattr__(self, name: str) -> Any:
        where = f" (it is session.sessionlock.{name})" if name in MOVED else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{where}")

    # --- which session it stands for

    def _open(self) -> RequestSession:
        """For faces whose session is opened by the first touch."""
        raise NotImplementedError

    def _live(self) -> Session | None:
        """The session to read and write; None once the answer has begun."""
        if self._is_over:
            return None
        if self._visit is None:
            self._visit = self._open()
        session = self._visit.session
        if session is not self._shown and not self._is_over:
            self._show(session)
        return None if self._is_over else session

    def _show(self, session: Session) -> None:
        self._shown = session
        dict.clear(self)
        for key, value in session.data.items():
            dict.__setitem__(self, key, value)

    def _end(self) -> None:
        """The answer begins: from here on this is a dict and nothing more. See :func:`end`."""
        if not self._is_over:
            if self._visit is not None:
                self._show(self._visit.session)
            self._is_over = True

    def _too_late(self, key: object) -> None:
        if self._visit is not None:
            self._visit.note_late(key)

    # --- reading

    def __getitem__(self, key: str) -> Any:
        session, key = self._live(), _spelled(key)
        return dict.__getitem__(self, key) if session is None else session[key]

    def get(self, key: str, default: Any = None) -> Any:
        session, key = self._live(), _spelled(key)
        return dict.get(self, key, default) if session is None else session.get(key, default)

    def __contains__(self, key: object) -> bool:
        session, key = self._live(), _spelled(key)
        return dict.__contains__(self, key) if session is None else key in session

    def __iter__(self) -> Iterator[str]:
        session = self._live()
        return dict.__iter__(self) if session is None else iter(session)

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))

    def __len__(self) -> int:
        session = self._live()
        return dict.__len__(self) if session is None else len(session)

    def __bool__(self) -> bool:
        return len(self) > 0

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        session = self._live()
        return dict.keys(self) if session is None else _Keys(session)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        session = self._live()
        return dict.values(self) if session is None else _Values(session)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        session = self._live()
        return dict.items(self) if session is None else _Items(session)

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)

    def __eq__(self, other: object) -> bool:
        return self.copy() == (other.copy() if isinstance(other, WebSession) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return repr(self.copy())

    def __or__(self, other: Any) -> Any:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return {**other, **self} if isinstance(other, Mapping) else NotImplemented

    # --- writing

    def __setitem__(self, key: str, value: Any) -> None:
        session, key = self._live(), _spelled(key)
        if session is None:
            self._too_late(key)
        else:
            session[key] = value
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        session, key = self._live(), _spelled(key)
        if session is None:
            self._too_late(key)
        else:
            del session[key]
        dict.pop(self, key, None) if session is not None else dict.__delitem__(self, key)

    def clear(self) -> None:
        session = self._live()
        if session is None:
            self._too_late("*")
        else:
            session.clear()
        dict.clear(self)

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        try:
            value = self[key]
        except KeyError:
            if default is _ABSENT:
                raise
            return default
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        keys = list(self)
        if not keys:
            raise KeyError("popitem(): dictionary is empty")
        return keys[-1], self.pop(keys[-1])

    def setdefault(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            self[key] = default
            return default

    def update(self, *others: Any, **more: Any) -> None:
        for key, value in dict(*others, **more).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self


class _Reversible:
    """A view of a dict can be read from its end, which no other mapping's can."""

    def __reversed__(self) -> Iterator[Any]:
        yield from reversed(list(cast("Iterable[Any]", self)))


class _Keys(_Reversible, KeysView[str]):
    pass


class _Values(_Reversible, ValuesView[Any]):
    pass


class _Items(_Reversible, ItemsView[str, Any]):
    pass


def end(session: WebSession) -> None:
    """The answer begins: ``session`` is a dict from here on. No method, for those names are the user's."""
    session._end()


def _spelled(key: Any) -> Any:
    """A key as JSON has it, in which frameworks keep their sessions: 1 is ``"1"``, None ``"null"``."""
    if type(key) is str:
        return key
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return "null" if key is None else str(key).lower()
    if isinstance(key, (int, float)):
        return int.__repr__(key) if isinstance(key, int) else float.__repr__(key)
    return key


class UnavailableSession(WebSession):
    """The session of a request whose session cannot be had: touching it raises why."""

    def __init__(self, why: SessionLockError) -> None:
        super().__init__()
        self._why = why
        self.was_wanted: bool = False

    def _open(self) -> RequestSession:
        self.was_wanted = True
        raise self._why
