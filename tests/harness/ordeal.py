"""Processes that count while servers die: the same ordeal for every topology.

async with Ordeal(url, folder, sids) as ordeal:
    await ordeal.begin(processes=4)
    with ordeal.nemesis.fault("kill", master) as fault:
        ...
        fault.showed(...)
    await ordeal.progress()                      # all sessions go on
    await ordeal.end()
accounts = ordeal.accounts(stored)               # stored(sid): counter and last increment
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tests.harness.history import Operation, read
from tests.harness.increments import Adder, Fleet
from tests.harness.polling import eventually
from tests.harness.proof import Account, Fault, Nemesis, by_session, examine, longest_pause

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Ordeal"]

PROGRESS = 20  # acknowledged increments of a session that count as "it goes on"
GOES_ON_WITHIN = 30.0


class Ordeal:
    """A fleet at work, with a log of what is done to its servers."""

    def __init__(self, url: str, folder: Path, sids: Sequence[str]) -> None:
        self.fleet = Fleet(url, folder)
        self.nemesis = Nemesis(folder)
        self._folder = folder
        self._sids = tuple(sids)
        self._tails: dict[Path, _Tail] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.fleet.__aexit__(kind, error, tb)

    async def begin(self, processes: int, **orders: Any) -> list[Adder]:
        """Start that many and return when every session has been counted up a few times."""
        adders = [self.fleet.start(sids=self._sids, **{"tasks": 3, "pause": 0.002, **orders}) for _ in range(processes)]
        await self.fleet.go()
        await self.progress()
        return adders

    async def progress(self, count: int = PROGRESS, within: float = GOES_ON_WITHIN) -> None:
        """Return when every session has got that many more acknowledged increments from now on."""
        self._look()
        before = dict(self._acknowledged)

        def went_on() -> bool:
            self._look()
            return all(self._acknowledged[sid] - before[sid] >= count for sid in self._sids)

        await eventually(went_on, f"every session goes on: {self._acknowledged}, before {before}", within)

    async def found_the_way(self, adders: Sequence[Adder]) -> None:
        """Return when each of these processes has got an acknowledgement from now on, from whoever is the master."""
        self._look()
        before = {adder.name: self._acknowledged_to(adder) for adder in adders}

        def found() -> bool:
            self._look()
            return all(self._acknowledged_to(adder) > before[adder.name] for adder in adders)

        await eventually(found, f"each of {[*before]} goes on", GOES_ON_WITHIN)

    async def end(self) -> None:
        self.fleet.stop()
        await self.fleet.finished()

    # --- afterwards

    @property
    def operations(self) -> dict[str, list[Operation]]:
        return by_session(read(self._folder))

    def accounts(
        self, stored: Callable[[str], tuple[int, str | None]], lossy: Sequence[Fault] = (), *, two_masters: bool = False
    ) -> list[Account]:
        """One for each session, in the order of the sids; ``lossy`` and ``two_masters`` as :func:`examine` has them."""
        every = self.operations
        return [examine(every[sid], *stored(sid), lossy, two_masters=two_masters) for sid in self._sids]

    def pauses(self, fault: Fault) -> list[float]:
        """For each session, how long nothing was acknowledged around the fault, in seconds."""
        every = self.operations
        return [longest_pause(every[sid], fault) for sid in self._sids]

    def balance(self, accounts: Sequence[Account], killed: Sequence[Fault], *, lossless: bool) -> str:
        """What to tell of it, when all is in order."""
        missing = sum(len(account.missing) for account in accounts)
        kept = sum(len(account.kept) for account in accounts)
        recovered = ", ".join(f"{max(self.pauses(fault)):.2f}" for fault in killed)
        assert [account.problems for account in accounts] == [[]] * len(self._sids)
        if lossless:
            assert missing == 0
        return f"{kept} kept, {missing} acknowledged and missing, {len(killed)} kills with recovery in {recovered} s"

    # --- how

    @property
    def _acknowledged(self) -> dict[str, int]:
        return {sid: sum(tail.acknowledged.get(sid, 0) for tail in self._tails.values()) for sid in self._sids}

    def _acknowledged_to(self, adder: Adder) -> int:
        tail = self._tails.get(self._folder / f"{adder.name}.jsonl")
        return 0 if tail is None else sum(tail.acknowledged.values())

    def _look(self) -> None:
        for path in self._folder.glob("*.jsonl"):
            self._tails.setdefault(path, _Tail(path)).read()


class _Tail:
    """Counts the acknowledgements in a file that grows, by session."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._rest = b""
        self._sids: dict[bytes, str] = {}
        self.acknowledged: dict[str, int] = {}

    def __del__(self) -> None:
        os.close(self._file)

    def read(self) -> None:
        while more := os.read(self._file, 1 << 20):
            *lines, self._rest = (self._rest + more).split(b"\n")
            for line in lines:
                self._enter(line)

    def _enter(self, line: bytes) -> None:
        # By hand: a JSON parser would take the time that the servers need.
        name = line.split(b'"', 4)[3]
        if b'"what": "invoke"' in line:
            self._sids[name] = line.rsplit(b'"', 2)[1].decode()
        elif b'"what": "ok"' in line:
            sid = self._sids.pop(name)
            self.acknowledged[sid] = self.acknowledged.get(sid, 0) + 1
        elif b'"what": "granted"' not in line:
            self._sids.pop(name)
