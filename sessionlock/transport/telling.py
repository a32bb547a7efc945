"""An executor that tells of each call: only for guards with an observer that asks for it."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Any, TypeVar

from ..clock import monotonic
from ..observe import CallAnswered, Observer
from ..policies import Replication
from ..protocol.calls import Call
from .clients import database_of
from .executor import RedisExecutor

__all__ = ["TellingExecutor"]

T = TypeVar("T")


class TellingExecutor(RedisExecutor):
    """As :class:`.RedisExecutor`; ``observer`` hears of each call when it is over, in the task that made it."""

    def __init__(self, client: Any, *, observer: Observer, **options: Any) -> None:
        super().__init__(client, observer=observer, **options)
        self._hears_calls = observer
        self._database = database_of(client)

    async def run(self, call: Call[T], limit: float = math.inf) -> T:
        return await self._told(call, super().run(call, limit))

    async def save(self, call: Call[T]) -> tuple[T, Replication | None]:
        saving = super().save(call)
        return await (self._told(call, saving) if self.waits else saving)  # else it is run, and told there

    async def _told(self, call: Call[Any], work: Awaitable[T]) -> T:
        began = monotonic()
        error: BaseException | None = None
        try:
            return await work
        except BaseException as met:
            error = met
            raise
        finally:
            commands, words = [self.route.command], [3 + len(call.redis_keys) + len(call.words())]
            behind = call.behind()
            if behind is not None:
                commands.append(str(behind[0]))
                words.append(len(behind))
            where = self.route.where(call.keys.lock) or self.circuit.server.rpartition("@")[2]
            about = (call.script, tuple(commands), tuple(words), where, monotonic() - began, error, self._database)
            self._hears_calls(CallAnswered(call.keys.digest, "", *about))
