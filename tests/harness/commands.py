"""Ask a server what it was made to do: the commands it ran, the keys that would stay for ever."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from sessionlock.protocol.calls import Call
from sessionlock.protocol.commands import in_full
from sessionlock.protocol.numbers import NAME_LENGTH, OP_LENGTH
from tests.harness.scripts import COMMANDS

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C", bound=Call[Any])
T = TypeVar("T")


def connect(url: str) -> redis.Redis:
    """A plain blocking client that works with every server version (RESP2) and never retries by itself."""
    address, _, options = url.partition("?")
    others = "&".join(option for option in options.split("&") if not option.startswith("protocol="))
    # redis-py types from_url as Any.
    client: redis.Redis = redis.Redis.from_url(f"{address}?{others}", protocol=2, retry=None, socket_timeout=10)
    return client


def as_user(url: str, *rules: str) -> str:
    """The same server for a user of its own, who may all but what ``rules`` say. Redis 6.0 and newer."""
    with connect(url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">p", "~*", "+@all", *rules)
    return url.replace("://", "://app:p@", 1)


def op_of(who: str, number: int = 1) -> str:
    """A call's number, of a client of that name."""
    return f"{who.replace(' ', '_'):-<{NAME_LENGTH}}"[:NAME_LENGTH] + f"{number:016d}"


def token_of(who: str, number: int = 1) -> str:
    """The token of an acquisition of that client."""
    return f"{op_of(who, number)}.token"


def low_of(op: str) -> str:
    """What its client says with it, when it has got all answers before."""
    return op[NAME_LENGTH:OP_LENGTH]


def who_is(op: str) -> str:
    return op[:NAME_LENGTH].rstrip("-")


def numbered(call: C, op: str, low: str | None = None) -> C:
    call.carry(op, low_of(op) if low is None else low)
    return call


def run(client: redis.Redis, call: Call[Any]) -> Any:
    """One script call, and what goes behind it; the reply as it comes."""
    reply = client.eval(*in_full(call)[1:])
    behind = call.behind()
    return reply if behind is None else (reply, client.execute_command(*behind, NEVER_DECODE=[]))  # type: ignore[no-untyped-call]


def state_of(client: Any, record: bytes) -> bytes:
    """The field of a record, or of a shell, at which most calls look; as of a fresh one where there is none."""
    return client.hget(record, "#state") or b"0" * 49 + b"-" * 26


def fence_of(client: Any, record: bytes) -> int:
    return int(state_of(client, record)[:16])


def set_fence(client: Any, record: bytes, fence: int | str) -> None:
    head = f"{fence:016d}" if isinstance(fence, int) else fence.rjust(16, "0")
    client.hset(record, "#state", head.encode() + state_of(client, record)[16:])


def created_of(client: Any, record: bytes) -> str:
    return state_of(client, record)[16:32].decode()


def done_of(client: Any, record: bytes) -> bytes:
    """What is known of who finished something last."""
    return state_of(client, record)[75:]


def aged(client: Any, record: bytes, left_ms: int) -> None:
    """As if the record had not been used until it has only so long to live: the instant at which its life needs a look
    has come.
    """
    client.pexpire(record, left_ms)
    state = state_of(client, record)
    client.hset(record, "#state", state[:32] + b"0" * 16 + state[48:])


def older(client: Any, record: bytes, by_ms: int) -> None:
    """As if so much time had gone by: the record's end, and when its life needs a look, are so much nearer."""
    client.pexpire(record, client.pttl(record) - by_ms)
    state = state_of(client, record)
    due = max(0, int(state[32:48]) - by_ms * 1000)
    client.hset(record, "#state", state[:32] + b"%016d" % due + state[48:])


def outcome_of(client: redis.Redis, call: Call[T]) -> T:
    return call.outcome(run(client, call))


class CommandCounter:
    """Counts, by name, the commands that a server ran between two points, whoever sent them.

    Commands that a script calls are counted, too, under their own names. Names are lower case, subcommands as the
    server writes them (``client|setinfo``, from Redis 7.0 on). What the counter itself sends is left out::

        with CommandCounter(url) as ran:
            await cycle()
        assert ran.script_calls == 2
        assert ran["get"] == 0

    Inside the block, too, the counts are those up to the moment of asking; after it they stand still.
    """

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._asked = 0
        self._before: Counter[str] = Counter()
        self._after: Counter[str] | None = None

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = self._total()
        self._client.close()

    def restart(self) -> None:
        """Count from here on."""
        self._after = None
        self._total()  # opens the connection, whose greeting the server counts
        self._asked = 0
        self._before = self._total()
        self._asked = 1

    @property
    def counts(self) -> Counter[str]:
        """How often each command ran; commands that did not run are absent (and count 0)."""
        now = self._after if self._after is not None else self._total()
        return now - self._before

    @property
    def script_calls(self) -> int:
        """How many scripts or functions were called, whether they succeeded or not."""
        return sum(count for name, count in self.counts.items() if name in COMMANDS)

    def __getitem__(self, name: str) -> int:
        return self.counts[name.lower()]

    def _total(self) -> Counter[str]:
        """The server's own totals, without the INFOs sent from here since the last ``restart()``."""
        stats: dict[str, dict[str, Any]] = self._client.info("commandstats")
        total = Counter({name.removeprefix("cmdstat_").lower(): int(of["calls"]) for name, of in stats.items()})
        total["info"] -= self._asked
        self._asked += 1
        return total


def keys_without_ttl(url: str) -> list[str]:
    """The keys of the url's database that would never expire, sorted; the library promises that there is none."""
    with connect(url) as client:
        keys = [bytes(key) for key in client.scan_iter(count=1000)]
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.pttl(key)
            left = pipeline.execute()
    return sorted(key.decode(errors="backslashreplace") for key, ttl in zip(keys, left, strict=True) if ttl == -1)


def confirmed_by(raw: Any, replicas: int, beside: bytes = b"s") -> None:
    """What was written to this master so far is at so many replicas. ``beside``: a key in one of its slots.

    It is asked behind a write, for from Redis 7.2 on WAIT looks at the writes of its own connection only.
    """
    tag = beside.partition(b"{")[2].partition(b"}")[0] or beside
    raw.set(b"written:{%b}" % tag, "1", px=60_000)
    assert raw.wait(replicas, 5000) == replicas
