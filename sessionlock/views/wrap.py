"""What ``@session_locked`` does to a view, whichever face it uses: find the session id, lock, pass the session in."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    overload,
)

from ..errors import ConfigurationError, SessionNotFound
from ..lock.arguments import check_given
from ..lock.options import LockOptions, ViewOptions
from ..policies import SessionPolicy
from ..selfcalls.check import refusing
from ..selfcalls.sockets import Peer, client_of
from ..session.mapping import Session
from ..session.unlocked import UnlockedMode
from .block import SessionOfThread, is_session
from .session_id import SidCookie, SidFrom, find_request
from .visitor_cookie import Visitor

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Decorator", "Locks", "locked_view"]

NAME = "session"
VERBS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
# What an injected parameter called "session" may be annotated with, beside Session itself.
VAGUE = (inspect.Parameter.empty, Any, object, dict, Mapping, MutableMapping)
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


P = ParamSpec("P")
A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
S = TypeVar("S", bound=Session | SessionOfThread)
T = TypeVar("T")


class _Unannotated:
    """What only a parameter accepts that is not annotated, or as vaguely as ``object``."""


class Decorator(Protocol):
    """For type checkers: the session's parameter is gone when it comes first, or after ``request``, or after
    ``self, request``; elsewhere it seems to stay."""

    # Parameters without annotation fit everything; then the usual order (request, session) is taken for granted.
    @overload
    def __call__(self, view: Callable[[_Unannotated], T], /) -> Callable[[Any], T]: ...

    @overload
    def __call__(self, view: Callable[Concatenate[_Unannotated, S, P], T], /) -> Callable[Concatenate[Any, P], T]: ...

    @overload
    def __call__(self, view: Callable[Concatenate[S, P], T], /) -> Callable[P, T]: ...

    @overload
    def __call__(
        self, view: Callable[Concatenate[A, _Unannotated, S, P], T], /
    ) -> Callable[Concatenate[A, Any, P], T]: ...

    @overload
    def __call__(self, view: Callable[Concatenate[A, S, P], T], /) -> Callable[Concatenate[A, P], T]: ...

    @overload
    def __call__(self, view: Callable[Concatenate[A, B, S, P], T], /) -> Callable[Concatenate[A, B, P], T]: ...

    @overload
    def __call__(self, view: T, /) -> T: ...


class Guard(Protocol):
    """What a lock comes from: of either face, which their blocks do not tell apart here."""

    def session_lock(self, sid: str, /, **options: Unpack[LockOptions]) -> Any: ...

    def beginning(self, mode: UnlockedMode, policy: SessionPolicy | None = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Locks:
    """Where the lock of a decorated view comes from, and its options. ``for_async`` None: async views are refused."""

    sid_from: SidFrom
    options: ViewOptions
    for_async: Callable[[], Guard] | None
    for_sync: Callable[[], Guard]

    def __post_init__(self) -> None:
        if not callable(self.sid_from):
            raise ConfigurationError(
                f"session_locked() takes where the session id comes from, such as cookie({self.sid_from!r})"
            )
        for name in self.options.keys() - ViewOptions.__optional_keys__:
            raise TypeError(f"session_locked() got an unexpected keyword argument {name!r}")
        check_given(self.options)

    def block(self, guard: Guard, sid: str | None) -> Any:
        """The block around one call of the view; without an id, of a session that begins."""
        if sid is None:
            mode = self.options.get("mode", "lock")
            return guard.beginning("read" if mode == "read" else "optimistic", self.options.get("session"))
        missing = self.options.get("missing")
        if missing is None or isinstance(self.sid_from, SidCookie):
            missing = "reject"  # an id from a cookie is not adopted, whoever says so
        return guard.session_lock(sid, **cast(LockOptions, {**self.options, "missing": missing}))

    def check_begins(self, error: SessionNotFound) -> None:
        """Raises ``error`` where no session begins: an id that was replaced has a newer one, in the same browser."""
        begins = isinstance(self.sid_from, SidCookie) and self.options.get("missing") != "reject"
        if error.replaced or not begins:
            raise error


def locked_view(view: Any, locks: Locks) -> Any:
    """``view`` so that it runs within its session's lock: a function, a method, a class with one method per verb.

    Raises:
        ConfigurationError: a generator, or something that cannot be called.
    """
    if isinstance(view, (staticmethod, classmethod)):
        return type(view)(locked_view(view.__func__, locks))
    if inspect.isclass(view):
        return _with_locked_verbs(view, locks)
    if not callable(view):
        raise ConfigurationError(f"session_locked() decorates views, not {type(view).__name__} objects")
    body = _body(view)
    if inspect.isasyncgenfunction(body) or inspect.isgeneratorfunction(body):
        raise ConfigurationError(
            f"{_name(view)} is a generator: its lock would be held for as long as somebody reads from it, or not at"
            " all. Take the session in a view or dependency that returns, and stream what it gave"
        )
    where = _Place.of(view)
    locked = (_async if inspect.iscoroutinefunction(body) else _sync)(view, where, locks)
    locked.__signature__ = where.signature
    locked.__annotations__ = where.annotations()
    return locked


def _with_locked_verbs(view: type, locks: Locks) -> type:
    verbs = [verb for verb in VERBS if verb in vars(view)]
    if not verbs:
        raise ConfigurationError(
            f"{view.__name__} has no method of its own that is called {', '.join(VERBS)}; decorate those"
            " that need the session"
        )
    for verb in verbs:
        setattr(view, verb, locked_view(vars(view)[verb], locks))
    return view


def _async(view: Callable[..., Awaitable[Any]], where: _Place, locks: Locks) -> Any:
    find_guard, sid_from = locks.for_async, locks.sid_from
    if find_guard is None:
        raise ConfigurationError(f"{_name(view)} is async: decorate it with sessionlock.session_locked")

    @functools.wraps(view)
    async def locked(*args: Any, **kwargs: Any) -> Any:
        if where.given(kwargs):
            return await view(*args, **kwargs)
        call = _Call(locks, find_guard, args, kwargs)
        async with AsyncExitStack() as stack:
            try:
                sid = sid_from(*args, **kwargs)
                if not isinstance(sid, str) and inspect.isawaitable(sid):
                    sid = await sid
                session = await stack.enter_async_context(call.block_of(sid))
            except SessionNotFound as error:
                session = await stack.enter_async_context(call.block_that_begins(error))
            args, kwargs = where.put(session, args, kwargs)
            answer = await view(*args, **kwargs)
            if call.visitor is not None:
                await session.do_what_nobody_awaited()
                call.visitor.expect(session, answer)
        call.tell_visitor(session)
        return answer

    return locked


def _sync(view: Callable[..., Any], where: _Place, locks: Locks) -> Any:
    find_guard, sid_from = locks.for_sync, locks.sid_from

    @functools.wraps(view)
    def locked(*args: Any, **kwargs: Any) -> Any:
        if where.given(kwargs):
            return view(*args, **kwargs)
        call = _Call(locks, find_guard, args, kwargs)
        with ExitStack() as stack:
            try:
                sid = sid_from(*args, **kwargs)
                if not isinstance(sid, str):
                    _refuse_awaitable(sid, f"{_name(view)} is not async, so the callable for its session id cannot be")
                session = stack.enter_context(call.block_of(cast(str, sid)))
            except SessionNotFound as error:
                session = stack.enter_context(call.block_that_begins(error))
            args, kwargs = where.put(session, args, kwargs)
            answer = view(*args, **kwargs)
            _refuse_awaitable(
                answer,
                f"{_name(view)} is not declared `async def` but returned something to be awaited, which would run"
                " without the lock",
            )
            if call.visitor is not None:
                call.visitor.expect(session, answer)
        call.tell_visitor(session)
        return answer

    return locked


def _refuse_awaitable(thing: Any, message: str) -> None:
    if inspect.isawaitable(thing):
        if inspect.iscoroutine(thing):
            thing.close()  # it will never be awaited
        raise ConfigurationError(message)


class _Call:
    """One call of a decorated view, as far as it is the same for both faces."""

    def __init__(
        self, locks: Locks, find_guard: Callable[[], Guard], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._locks = locks
        self._find_guard = find_guard
        self._client = functools.partial(_client, args, kwargs)
        # What is entered, once the id is known.
        self._block: Any = None
        # None where it is not ours to set a cookie.
        self.visitor = Visitor.of(locks.sid_from, args, kwargs)

    def block_of(self, sid: str) -> Any:
        """The block around a view; should it have to wait, it is known who asks."""
        self._block = self._locks.block(self._find_guard(), sid)
        self._block.when_waiting(refusing(self._client))
        if self.visitor is not None:
            self.visitor.is_known_by(sid)
        return self._block

    def block_that_begins(self, error: SessionNotFound) -> Any:
        """The block of a visitor who has no session yet; raises ``error`` where none may begin."""
        self._locks.check_begins(error)
        if self.visitor is not None:
            self.visitor.is_known_by(None)
        self._block = self._locks.block(self._find_guard(), None)
        return self._block

    def tell_visitor(self, session: Any) -> None:
        """The session is saved: the answer may carry its cookie."""
        if self.visitor is not None:
            self.visitor.tell(session, self._block)


def _client(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Peer | None:
    try:
        return client_of(find_request(args, kwargs))
    except ConfigurationError:
        return None  # its session id comes from elsewhere


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a view wants its session, and the signature that is left for the framework.

    ``index``: among the positional parameters, None when it is passed by keyword.
    """

    signature: inspect.Signature
    name: str | None
    index: int | None

    @classmethod
    def of(cls, view: Callable[..., Any]) -> _Place:
        signature = _resolved(view)
        parameters = list(signature.parameters.values())
        found = next((p for p in parameters if _is_session(p.annotation)), None)
        if found is None:
            found = next((p for p in parameters if p.name == NAME and _is_vague(p.annotation)), None)
        if found is None:
            return cls(signature, None, None)
        if found.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise ConfigurationError(f"{_name(view)}: the session is one parameter, not *{found.name}")
        index = parameters.index(found) if found.kind in POSITIONAL else None
        rest = [parameter for parameter in parameters if parameter is not found]
        return cls(signature.replace(parameters=rest), found.name, index)

    def given(self, kwargs: dict[str, Any]) -> bool:
        """Whether the caller passes a session on, which he holds already."""
        return self.name in kwargs and is_session(kwargs[self.name])

    def put(
        self, session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.name is None:
            return args, kwargs
        if self.index is not None and len(args) >= self.index:
            return (*args[: self.index], session, *args[self.index :]), kwargs
        return args, {**kwargs, self.name: session}

    def annotations(self) -> dict[str, Any]:
        empty = inspect.Parameter.empty
        found = {p.name: p.annotation for p in self.signature.parameters.values() if p.annotation is not empty}
        if self.signature.return_annotation is not empty:
            found["return"] = self.signature.return_annotation
        return found


def _body(view: Any) -> Any:
    """The function that says whether ``view`` is async: behind partials, or a callable object's ``__call__``."""
    while isinstance(view, functools.partial):
        view = view.func
    if inspect.isroutine(view):
        return view
    return view.__call__


def _name(view: Any) -> str:
    return getattr(_body(view), "__qualname__", repr(view))


# --- annotations


def _resolved(view: Callable[..., Any]) -> inspect.Signature:
    """The signature with what ``from __future__ import annotations`` left as text turned into what it names.

    A framework would look it up in the module of the wrapper. What cannot be found (imported for type checkers only)
    stays text.
    """
    signature = inspect.signature(view)
    names = getattr(inspect.unwrap(_body(view)), "__globals__", {})
    return signature.replace(
        parameters=[p.replace(annotation=_evaluated(p.annotation, names)) for p in signature.parameters.values()],
        return_annotation=_evaluated(signature.return_annotation, names),
    )


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return annotation


def _is_session(annotation: Any) -> bool:
    return any(inspect.isclass(part) and get_origin(part) is None and is_session(part) for part in _parts(annotation))


def _is_vague(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == "Session"
    return any((get_origin(part) or part) in VAGUE for part in _parts(annotation))


def _parts(annotation: Any) -> tuple[Any, ...]:
    """What an annotation allows: ``Session | None`` and ``Annotated[Session, ...]`` allow a Session."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _parts(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(part for member in get_args(annotation) for part in _parts(member))
    return (annotation,)
