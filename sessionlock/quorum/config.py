"""Which independent masters hold the locks: what a user chooses. Nothing here talks to them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigurationError
from ..policies import check_seconds
from ..transport.clients import address_of, check_client

__all__ = ["Quorum", "address_of", "master_name"]

MOST_MASTERS = 15


@dataclass(frozen=True, init=False)
class Quorum:
    """Independent masters, of which a majority must grant a session's lock.

    ``masters``: three or more (an odd number is best) Redis servers that know nothing of each other, no replicas or
    cluster nodes: ``redis.asyncio.Redis`` clients or URLs, one by one or in one list; or a mapping from stable names
    to them, when their addresses may change. All nodes must name the same ones. ``engine``: ``"native"``, or
    ``"pottery"`` for pottery's ``AIORedlock``. ``rejoin_after``: seconds after its start for which a master's votes do
    not count, since it may have forgotten what it granted; no less than the longest lease anybody uses. ``"auto"``: the
    guard's ``LeasePolicy.ttl``; 0 for masters that forget nothing (``appendfsync always``). ``reply_within``: seconds
    after which a master that does not answer is given up; a majority of others is never kept waiting for it.
    """

    masters: Mapping[str, Any]
    engine: Literal["native", "pottery"]
    rejoin_after: float | Literal["auto"]
    reply_within: float

    def __init__(
        self,
        *masters: Any,
        engine: Literal["native", "pottery"] = "native",
        rejoin_after: float | Literal["auto"] = "auto",
        reply_within: float = 0.5,
    ) -> None:
        if engine not in ("native", "pottery"):
            raise ConfigurationError(f"Quorum.engine must be 'native' or 'pottery', not {engine!r}")
        if rejoin_after != "auto":
            check_seconds("Quorum.rejoin_after", rejoin_after, least=0)
        check_seconds("Quorum.reply_within", reply_within)
        object.__setattr__(self, "masters", _named(masters))
        object.__setattr__(self, "engine", engine)
        object.__setattr__(self, "rejoin_after", rejoin_after)
        object.__setattr__(self, "reply_within", reply_within)

    def connected(self, client_from_url: Callable[[str], Any], store: Any = None) -> tuple[Quorum, list[Any]]:
        """With clients in the place of URLs; and those clients, for their maker to close.

        Raises:
            ConfigurationError: a master that is no single server, is named twice, or is the ``store``.
        """
        made: list[Any] = []
        clients = {}
        for name, given in self.masters.items():
            client = given
            if isinstance(given, str):
                client = client_from_url(given)
                made.append(client)
            check_client(client)
            if not _plain(client):
                raise ConfigurationError(
                    f"a master of a quorum is one Redis server (redis.asyncio.Redis, or its URL), not"
                    f" {type(client).__name__}"
                )
            clients[name] = client
        labels = {name: name if _is_label(name) else address_of(client) for name, client in clients.items()}
        if len(set(map(address_of, clients.values()))) < len(clients):
            raise ConfigurationError("a quorum needs independent masters; one was named twice")
        if _plain(store) and address_of(store) in map(address_of, clients.values()):
            raise ConfigurationError(
                "the store of the sessions cannot be a master of the quorum as well, for both use the same keys; give"
                " one of them another database number"
            )
        relabelled = {labels[name]: client for name, client in clients.items()}
        connected = Quorum(
            relabelled, engine=self.engine, rejoin_after=self.rejoin_after, reply_within=self.reply_within
        )
        return connected, made


def _named(masters: tuple[Any, ...]) -> dict[str, Any]:
    """Positions stand for names that are found in the addresses later."""
    given: Any = masters
    if len(masters) == 1 and isinstance(masters[0], Mapping):
        named = dict(masters[0])
        if not all(isinstance(name, str) and _is_label(name) for name in named):
            raise ConfigurationError("a master's name is a printable str that does not begin with #")
    else:
        if len(masters) == 1 and isinstance(masters[0], (list, tuple)):
            given = masters[0]
        named = {f"#{number}": master for number, master in enumerate(given)}
    if not 3 <= len(named) <= MOST_MASTERS:
        raise ConfigurationError(
            f"a quorum has 3 to {MOST_MASTERS} independent masters, not {len(named)}: of two, none may fail"
        )
    return named


def _is_label(name: str) -> bool:
    return bool(name) and name.isprintable() and not name.startswith("#")


def _plain(client: Any) -> bool:
    kwargs = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    return isinstance(kwargs, dict) and "connection_pool" not in kwargs and hasattr(client, "execute_command")


def master_name(label: str) -> str:
    """Short, and without the characters that separate the parts of a vector."""
    return base64.urlsafe_b64encode(hashlib.sha256(label.encode()).digest()[:9]).decode()
