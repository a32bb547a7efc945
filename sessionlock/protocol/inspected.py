"""What ``inspect`` tells: who holds a lock, and who waits for it."""

from __future__ import annotations

from dataclasses import dataclass

from .records import created_in, fence_in
from .replies import Holder, Reply, readable, seconds

__all__ = ["Inspected", "inspected"]


@dataclass(frozen=True, slots=True)
class Inspected:
    """``queue``: who waits, by token, in that order; None where nothing but the token is known. ``riders``: how many
    waited in the holder's process beside it when it was granted.
    """

    token: str | None
    left: float | None
    server_us: int
    fence: int
    version: int
    created_us: int
    destroyed: bool
    holder: Holder | None
    queue: dict[str, Holder | None]
    record_left: float | None
    riders: int = 0

    @property
    def waiters(self) -> list[Holder]:
        return [holder for holder in self.queue.values() if holder is not None]


@readable
def inspected(reply: Reply) -> Inspected:
    token, left_ms, now_us, state, order, records, record_left_ms = reply
    whole, version, destroyed, holder = state
    by_token = dict(zip(records[::2], records[1::2], strict=True))
    who, riders = None, 0
    if token is not None:
        who = Holder("another client", None)
        match holder.split(b" ", 4) if holder else ():
            case [owner, kind, since, _, label] if owner == token:
                riders = int(kind.partition(b"+")[2] or 0)
                who = Holder.of(label.decode(errors="replace"), (int(now_us) - int(since)) / 1e6)
    return Inspected(
        token=None if token is None else token.decode(errors="replace"),
        left=None if token is None else seconds(left_ms),
        server_us=int(now_us),
        fence=fence_in(whole),
        version=int(version or 0),
        created_us=int(created_in(whole) or 0),
        destroyed=destroyed is not None,
        holder=who,
        queue={waiter.decode(errors="replace"): _waiter(by_token.get(waiter)) for waiter in order},
        record_left=seconds(record_left_ms),
        riders=riders,
    )


def _waiter(record: bytes | None) -> Holder | None:
    return None if record is None else Holder.of(record.split(b" ", 4)[4].decode(errors="replace"), None)
