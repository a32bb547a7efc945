"""Two ways to load and commit without the lock: by one script each, or, where scripts are forbidden, by WATCH."""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import ScriptsForbidden
from ..protocol.record_calls import Commit, Load
from ..protocol.replies import Refused, Saved, Snapshot
from ..transport.calling import Executor
from .commit_watch import WatchEngine

__all__ = ["Engine", "engine_for"]


class Engine(Protocol):
    """Commits are refused whole if a changed field is not as it was read; they can be repeated after a lost reply."""

    async def load(self, call: Load) -> Snapshot | Refused: ...

    async def commit(self, call: Commit) -> Saved: ...


class ScriptEngine:
    """One round trip each."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def load(self, call: Load) -> Snapshot | Refused:
        return await self._executor.run(call)

    async def commit(self, call: Commit) -> Saved:
        outcome, _ = await self._executor.save(call)
        return outcome


class _Whichever:
    """Scripts, until Redis says that this user may not run them."""

    def __init__(self, scripts: ScriptEngine, watch: WatchEngine) -> None:
        self._engine: Engine = scripts
        self._watch = watch

    async def load(self, call: Load) -> Snapshot | Refused:
        try:
            return await self._engine.load(call)
        except ScriptsForbidden:
            self._engine = self._watch
            return await self._engine.load(call)

    async def commit(self, call: Commit) -> Saved:
        try:
            return await self._engine.commit(call)
        except ScriptsForbidden:
            self._engine = self._watch
            return await self._engine.commit(call)


def engine_for(commit_by: str, client: Any, executor: Executor, *, reply_within: float, retry_for: float) -> Engine:
    """``commit_by``: script, watch, or auto: the script engine, from the first ``NOPERM`` on the WATCH engine."""
    scripts = ScriptEngine(executor)
    if commit_by == "script":
        return scripts
    watch = WatchEngine(client, executor, reply_within=reply_within, retry_for=retry_for)
    return watch if commit_by == "watch" else _Whichever(scripts, watch)
