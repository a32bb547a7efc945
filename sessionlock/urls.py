"""From a URL to a ``redis.asyncio`` client."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Connection, Redis, RedisCluster, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from .errors import ConfigurationError
from .transport.clients import ASKED_ONCE

__all__ = ["SCHEMES", "MemoryStoreWarning", "Url", "client_from_url", "parts_of"]

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES, "embedded", "memory")
SENTINEL_PORT = 26379
REDIS_PORT = 6379
# RFC 3986, appendix B. urllib.parse has no place for several hosts: it refuses some of them that are IPv6 addresses.
URL = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
NO_OPTIONS = {"host", "port", "path", "ssl", "startup_nodes"}  # what the rest of an URL says
OURS = ("orig_", "maint")  # of redis-py's own bookkeeping
# RESP2 unless the URL says otherwise (?protocol=3): Redis 5 knows no other, and we would gain nothing by RESP3.
USUAL: Mapping[str, Any] = {"protocol": 2}
YES, NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


class MemoryStoreWarning(UserWarning):
    """``memory://`` keeps sessions in this process only: nothing is shared, nothing survives."""


class Url(NamedTuple):
    """The parts of one, as they are written."""

    scheme: str  # in lower case
    credentials: str  # with their "@"; "" without
    hosts: str
    path: str
    query: tuple[tuple[str, str], ...]
    doubtful: bool  # nothing of it is to be shown
    has_fragment: bool = False

    @property
    def base(self) -> str:
        """The scheme as redis-py knows it."""
        return self.scheme.partition("+")[0]

    @property
    def kind(self) -> type[Connection]:
        return SSLConnection if self.base == "rediss" else Connection


def client_from_url(url: str) -> Any:
    """A client for ``url``; its connections are opened when they are first needed.

    ``redis://``, ``rediss://``, ``unix://``: as redis-py reads them. ``redis+sentinel://user:password@host:port,
    host:port/service/db``: the master that these sentinels name (``sentinel_username`` and ``sentinel_password`` as
    options, when the sentinels want others). ``redis+cluster://host:port,host:port``: a Redis Cluster, by any of its
    nodes. ``rediss+...``: with TLS. ``embedded://``: a private real server process that ends with this one.
    ``memory://``: fakeredis in this process, announced by a warning. An option (``?socket_timeout=2``) is whatever
    redis-py's connections, clusters or sentinels take as text, number or truth; ``sentinel_...``: for the connections
    to sentinels.

    Raises:
        ConfigurationError: another scheme; an URL that cannot be read; an option that there is not, twice, or of a bad
            value.
        EmbeddedServerUnavailable: ``embedded://`` and there is no server to start.
    """
    given = _split(url)
    if given.scheme == "memory":
        return _memory_client(given)
    if given.scheme == "embedded":
        from .embedded.server import shared_server

        _no_options(given)
        given = _split(shared_server().url)
    try:
        if given.scheme in SENTINEL_SCHEMES:
            return _sentinel_client(given)
        return _cluster_client(given) if given.scheme in CLUSTER_SCHEMES else _plain_client(given)
    except ConfigurationError:
        raise
    except (ValueError, TypeError, IndexError):
        raise _unreadable() from None
    except RedisError as error:
        raise ConfigurationError(f"redis-py refuses an option of this Redis URL: {error}") from None


def parts_of(url: str) -> Url | None:
    """Of whatever scheme; None: it is no URL."""
    match = URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        return None
    credentials, at, hosts = match[2].rpartition("@")
    query = tuple(parse_qsl((match[4] or "")[1:], keep_blank_values=True))
    # An "@" behind the hosts may be that of a password with a "/" or "?" in it, and what is before it is secret.
    doubtful = not at and "@" in match[3] + (match[4] or "")
    return Url(match[1].lower(), credentials + at, hosts, match[3], query, doubtful, match[5] is not None)


def _split(url: str) -> Url:
    given = parts_of(url)
    if given is None or given.scheme not in SCHEMES:
        raise ConfigurationError(
            f"a Redis URL begins with {', '.join(f'{known}://' for known in SCHEMES)}; this one does not"
        )
    if given.has_fragment:
        raise _unreadable()
    return given


# --- kinds of URL


def _plain_client(given: Url) -> Redis:
    kind = UnixDomainSocketConnection if given.scheme == "unix" else given.kind
    options = _options(given, _taken_by(kind, ConnectionPool))
    if given.scheme == "unix":
        if not given.path.strip("/") or given.hosts:
            raise ConfigurationError("a unix:// URL names a socket, after three slashes: unix:///run/redis.sock")
    else:
        if "," in given.hosts:
            raise ConfigurationError(
                f"a {given.scheme}:// URL names one host; several are for {given.scheme}+sentinel:// and"
                f" {given.scheme}+cluster://"
            )
        _address(given.hosts, REDIS_PORT, may_lack_host=True)
        _put_database(options, given.path.strip("/"))
    path = given.path if given.scheme == "unix" else ""
    url = f"{given.scheme}://{given.credentials}{given.hosts}{path}"
    client: Redis = Redis.from_url(url, **{**USUAL, **options})
    pool: Any = client.connection_pool
    pool.make_connection()  # not opened; an option that redis-py refuses is an error now
    return client


def _sentinel_client(given: Url) -> Redis:
    service, _, db = given.path.removeprefix("/").partition("/")
    if not service:
        raise ConfigurationError(
            f"a {given.scheme}:// URL names the service: {given.scheme}://host:port,host:port/mymaster"
        )
    addresses = _addresses(given, SENTINEL_PORT)
    connections, asking = _taken_by(given.kind, ConnectionPool), _taken_by(Redis)
    sentinels = {f"sentinel_{name}": reads for name, reads in connections.items() if name in asking}
    options = _options(given, {**connections, **sentinels, **OF_SENTINELS})
    _put_database(options, db.strip("/"))
    options = {**USUAL, **_credentials(given), **options}
    asked: dict[str, Any] = {**ASKED_ONCE, "protocol": 2}
    if given.kind is SSLConnection:
        options["ssl"] = True
        asked.update({name: value for name, value in options.items() if name.startswith("ssl")})
    for name in sentinels.keys() & options.keys():
        asked[name.removeprefix("sentinel_")] = options.pop(name)
    sentinel = Sentinel(addresses, sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(unquote(service))
    pool: Any = client.connection_pool
    pool.make_connection()
    return client


def _cluster_client(given: Url) -> RedisCluster:
    addresses = _addresses(given, REDIS_PORT)
    known, connections = _taken_by(RedisCluster), _taken_by(given.kind)
    options = _options(given, {**connections, **known})
    _put_database(options, given.path.strip("/"))
    if options.pop("db", 0):
        raise ConfigurationError("a Redis Cluster has the database 0 only")
    options = {**USUAL, **_credentials(given), **options}
    # What RedisCluster does not take its connections do.
    more = {name: options.pop(name) for name in connections.keys() - known.keys() & options.keys() if name in options}
    nodes = [ClusterNode(host, port) for host, port in addresses]
    client = RedisCluster(startup_nodes=nodes, ssl=given.kind is SSLConnection, **options)
    client.connection_kwargs.update(more)
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_kwargs.update(more)
        node.connection_class(**node.connection_kwargs)
    return client


# --- parts of an URL


def _addresses(given: Url, port: int) -> list[tuple[str, int]]:
    return [_address(host, port) for host in given.hosts.split(",")]


def _address(text: str, port: int, *, may_lack_host: bool = False) -> tuple[str, int]:
    try:
        parsed = urlsplit(f"//{text.strip()}")
        host, given = parsed.hostname, parsed.port
    except ValueError:
        raise _unreadable() from None
    if given == 0 or not (host or may_lack_host):
        raise ConfigurationError("a Redis URL has a host, and a port from 1 to 65535, wherever it names a server")
    return unquote(host or ""), given or port


def _credentials(given: Url) -> dict[str, Any]:
    """User and password, as redis-py reads them."""
    said: Mapping[str, Any] = parse_url(f"redis://{given.credentials}placeholder")
    return {name: said[name] for name in ("username", "password") if name in said}


def _put_database(options: dict[str, Any], path: str) -> None:
    """redis-py takes 0 for what is no number: two applications would share one database."""
    if not path:
        return
    if not path.isdecimal():
        raise ConfigurationError("the database in a Redis URL is a number: redis://localhost:6379/0")
    if options.setdefault("db", int(path)) != int(path):
        raise ConfigurationError("this Redis URL names two databases, in its path and as the option db")


# --- options

Reads = Callable[[str], Any]  # the value of an option; its ValueError tells what is wanted


def _taken_by(*kinds: type[Any]) -> Mapping[str, Reads]:
    """The options that can be written in an URL: those of redis-py's that are no objects."""
    taken: dict[str, Reads] = {}
    for make in (vars(part)["__init__"] for kind in kinds for part in kind.__mro__ if "__init__" in vars(part)):
        for name, parameter in inspect.signature(make).parameters.items():
            reads = _reader(name, parameter)
            if reads is not None and name not in NO_OPTIONS and not name.startswith(OURS):
                taken.setdefault(name, reads)
    return taken


def _reader(name: str, parameter: inspect.Parameter) -> Reads | None:
    kind, annotation = type(parameter.default), str(parameter.annotation)
    if kind is bool or "bool" in annotation:
        return _truth
    if name.endswith("verify_flags"):
        return partial(_checked, URL_QUERY_ARGUMENT_PARSERS.get(name, str), "names of ssl.VerifyFlags")
    if name in URL_QUERY_ARGUMENT_PARSERS or kind in (int, float):
        return partial(_checked, URL_QUERY_ARGUMENT_PARSERS.get(name, kind), "a number from 0 on")
    return str if kind is str or re.search(r"\bstr\b", annotation) else None


def _truth(text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise ValueError("true or false")
    return text.lower() in YES


def _checked(reads: Reads, wanted: str, text: str) -> Any:
    try:
        value = reads(text)
    except (TypeError, ValueError):
        raise ValueError(wanted) from None
    if isinstance(value, (int, float)) and not (value >= 0 and math.isfinite(value)):
        raise ValueError(wanted)
    return value


OF_SENTINELS: Mapping[str, Reads] = {
    "min_other_sentinels": partial(_checked, int, "a number from 0 on"),
    "force_master_ip": str,
    "check_connection": _truth,
}


def _options(given: Url, taken: Mapping[str, Reads]) -> dict[str, Any]:
    """Those that are given.

    Raises:
        ConfigurationError: one that is not ``taken``, or given twice, or has another kind of value.
    """
    options: dict[str, Any] = {}
    for name, text in given.query:
        if name not in taken or (name.startswith("ssl") and given.kind is not SSLConnection):
            raise _unknown(given, name, taken)
        if name in options:
            raise ConfigurationError(f"the option {name} is in the Redis URL twice")
        try:
            if not text:
                raise ValueError("a value")
            options[name] = taken[name](text)
        except ValueError as wanted:
            shown = "" if "password" in name or not text or given.doubtful else f", not {text!r}"
            raise ConfigurationError(f"the option {name} of a Redis URL needs {wanted}{shown}") from None
    return options


def _unknown(given: Url, name: str, taken: Mapping[str, Reads]) -> ConfigurationError:
    if given.doubtful or not name.isidentifier():
        return _unreadable()
    if name.startswith("ssl") and given.kind is not SSLConnection:
        return ConfigurationError(f"the option {name} is for TLS: begin the Redis URL with rediss")
    near = difflib.get_close_matches(name, taken, 1)
    advice = (
        f"do you mean {near[0]}?" if near else "what is an object is for a client of your own: SessionGuard(client)"
    )
    return ConfigurationError(f"a {given.scheme}:// URL has no option {name}; {advice}")


def _no_options(given: Url) -> None:
    for name, _ in given.query:
        raise _unknown(given, name, {})


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "this Redis URL cannot be read (it is not shown, for it may hold a password). In user names and passwords write"
        " / # ? @ : [ ] as %2F %23 %3F %40 %3A %5B %5D"
    )


_memory_servers: dict[str, Any] = {}


def _memory_client(given: Url) -> Any:
    _no_options(given)
    try:
        from fakeredis import FakeAsyncRedis, FakeServer
    except ImportError:
        raise ConfigurationError('memory:// needs fakeredis: pip install "sessionlock[memory]"') from None
    warnings.warn(
        "memory:// keeps sessions in this process only; use it for quick tests, never with several nodes",
        MemoryStoreWarning,
        stacklevel=4,
    )
    server = _memory_servers.setdefault(given.hosts, FakeServer())
    return FakeAsyncRedis(server=server)
