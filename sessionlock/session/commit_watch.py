"""Commits without the lock by WATCH, MULTI and EXEC: more round trips, for Redis users who may not run scripts.

What was read of the changed fields is compared with what is there; on any difference the whole commit is refused. It
can be repeated after a lost reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import RedisClusterException, RedisError, WatchError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from ..clock import monotonic
from ..errors import CodecError, RedisUnavailable, SessionConflict
from ..policies import SessionPolicy
from ..protocol import records
from ..protocol.changes import Change, fingerprint
from ..protocol.keys import SessionKeys, key_of_field
from ..protocol.record_calls import Commit, Load
from ..protocol.replies import Committed, Conflict, Refused, Saved, Snapshot, admitted, ended, not_admitted, snapshot_of
from ..transport.advice import with_advice
from ..transport.calling import Executor
from ..transport.outages import while_lost
from ..transport.route import LOST
from ..transport.tasks import fetch_error

__all__ = ["WatchEngine"]

C = TypeVar("C", Load, Commit)
T = TypeVar("T")
SHELL_MS = 60_000
# What makes a shell a record (see lua/_base.lua): a record that ends loses it.
OF_A_RECORD = (b"#version", b"#expires", b"#user", b"#indexed", b"#old")
AS_LOADED = (b"#state", b"#destroyed", b"#expires")
MOST_TRIES = 100  # a WATCH is undone by any write to the record, a lock's grant included


class WatchEngine:
    """An :class:`~.commits.Engine` that keeps to the same record as the scripts do, completion records included.

    ``client``: a ``redis.asyncio`` client. ``executor``: knows of outages of the same server.
    """

    def __init__(self, client: Any, executor: Executor, *, reply_within: float, retry_for: float) -> None:
        self._client = client
        self._executor = executor
        self._reply_within = reply_within
        self._retry_for = retry_for
        self._disturbed = AsyncRetrying(
            retry=retry_if_exception_type(WatchError),
            stop=stop_after_attempt(MOST_TRIES),
            wait=wait_random(0, 0.02),
            reraise=True,
        )
        self._lost = while_lost(retry_for)

    async def load(self, call: Load) -> Snapshot | Refused:
        return await self._mapped(self._load, call)

    async def commit(self, call: Commit) -> Saved:
        lane, digest = self._executor.numbers.operations, call.keys.digest
        op = lane.begin(digest)
        call.carry(op, lane.low(digest, op))
        try:
            return await self._mapped(self._commit, call)
        finally:
            lane.end(digest, op)

    async def _mapped(self, do: Callable[[C], Coroutine[Any, Any, T]], call: C) -> T:
        keys = call.keys

        async def within_time() -> T:
            deadline = monotonic() + max(self._retry_for, self._reply_within)
            answer: T = await self._lost(self._disturbed, self._in_time, deadline, do, call)
            return answer

        try:
            return await self._executor.elsewise(keys.session, within_time, tried_for=keys)
        except ValueError:
            raise CodecError(
                "a stored session has a reserved field that is not as this library writes it; nothing was changed"
            ) from None
        except WatchError:
            raise SessionConflict(
                f"session {keys.digest} was written by others {MOST_TRIES} times in a row; nothing was saved"
            ).about(keys.digest) from None
        except RedisClusterException as error:
            raise RedisUnavailable(
                "in a Cluster the modes without a lock need scripts, too (redis-py has no WATCH there), and this user"
                " may run none: permit EVALSHA and EVAL",
                refused=True,
            ) from error
        except (RedisError, *LOST) as error:
            raise RedisUnavailable(with_advice(f"Redis did not carry out the transaction: {error}", error)) from error

    async def _in_time(self, deadline: float, do: Callable[[C], Coroutine[Any, Any, T]], call: C) -> T:
        within = min(self._reply_within, max(0.0, deadline - monotonic()))
        # Not wait_for: it would wait for the cancelled attempt, whose clean-up asks the silent Redis to UNWATCH.
        attempt = asyncio.ensure_future(do(call))
        try:
            await asyncio.wait([attempt], timeout=within)
            if attempt.done():
                return attempt.result()
        finally:
            if not attempt.done():
                attempt.cancel()
                attempt.add_done_callback(fetch_error)
        raise TimeoutError(f"no answer within {within:.2g} s")

    async def _load(self, call: Load) -> Snapshot | Refused:
        keys, policy = call.keys, call.session
        async with self._client.pipeline(transaction=False) as pipe:
            _raw(pipe, "HGETALL", keys.session)
            pipe.pttl(keys.session)
            pipe.time()
            flat, left, time = await pipe.execute()
        snapshot = _snapshot(flat)
        if b"#destroyed" in snapshot.fields:
            return Refused(ended(snapshot.fields, _microseconds(time)))
        if not admitted(keys, snapshot.fields, _microseconds(time)):
            return Refused(not_admitted(keys, snapshot.fields, _microseconds(time)))
        if not snapshot.created:
            return Refused("missing")
        if _has_ended(snapshot, _microseconds(time)):
            return Refused("missing")
        if left < policy.refresh_ms or policy.refresh_ms == policy.idle_ms:
            life = _idle_ms(snapshot, policy, _microseconds(time))
            return snapshot._replace(touched=await self._touched(keys, snapshot, life))
        return snapshot

    async def _touched(self, keys: SessionKeys, snapshot: Snapshot, life_ms: int) -> bool:
        """Begin the idle time of a record that is as it was loaded anew. Who changes it meanwhile looks after its life;
        and where it was destroyed or has another end, that stays so.
        """
        async with self._client.pipeline(transaction=True) as pipe:
            await pipe.watch(keys.session)
            if await _raw(pipe, "HMGET", keys.session, *AS_LOADED) != [snapshot.fields.get(name) for name in AS_LOADED]:
                return False
            pipe.multi()
            pipe.pexpire(keys.session, life_ms)
            with suppress(WatchError):
                await pipe.execute()
                return True
        return False

    async def _commit(self, call: Commit) -> Saved:
        keys, changes = call.keys, list(call.changes)
        async with self._client.pipeline(transaction=True) as pipe:
            ends = changes[-1].op == "e"
            yields = any(change.op == "f" for change in changes)
            await pipe.watch(keys.session, *((keys.lock, keys.queue) if ends or yields else ()))
            now = _microseconds(await pipe.time())
            current = _snapshot(await _raw(pipe, "HGETALL", keys.session))
            record = await self._record(pipe, keys, call.op, current)
            if record is not None and records.has_finished(call.op, record):
                return Committed(current.version, current.created, repeated=True)
            if b"#destroyed" in current.fields:
                return Refused(ended(current.fields, now))
            if not admitted(keys, current.fields, now):
                return Refused(not_admitted(keys, current.fields, now))
            over = _has_ended(current, now)
            if over and call.created:
                return Refused("missing")
            current, ended_fields = _without_record(current) if over else (current, [])
            held = yields and bool(await pipe.exists(keys.lock))
            refused = _refusal(current, call, held)
            if refused is not None:
                return refused
            ends = ends and _leaves_nothing(current, changes) and not await pipe.exists(keys.lock, keys.queue)
            pipe.multi()
            for field in ended_fields:  # not all in one command: some servers take few words in one
                pipe.hdel(keys.session, field)
            _apply(pipe, call, current, now)
            _finish(pipe, call, current, record, None if ends else now)
            if ends:
                pipe.hdel(keys.session, *OF_A_RECORD)
                pipe.pexpire(keys.session, SHELL_MS)
            await pipe.execute()
        return Committed(0) if ends else Committed(current.version + 1, current.created or f"{now:016d}")

    async def _record(self, pipe: Any, keys: SessionKeys, op: str, current: Snapshot) -> str | None:
        """What is known of the client of this op."""
        done = records.done_in(current.fields.get(b"#state"))
        if done is None or records.issuer_of(done) == records.issuer_of(op):
            return done
        name = records.issuer_of(op)
        rest = await _raw(pipe, "HGET", keys.receipts, name)
        return None if rest is None else name + rest.decode()


def _raw(pipe: Any, *words: Any) -> Any:
    """A command whose reply stays bytes, unparsed, whatever the client does for its user."""
    return pipe.execute_command(*words, NEVER_DECODE=[])


def _snapshot(reply: Any) -> Snapshot:
    return snapshot_of(dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True)))


def _microseconds(time: Any) -> int:
    return int(time[0]) * 1_000_000 + int(time[1])


def _idle_ms(snapshot: Snapshot, policy: SessionPolicy, now: int) -> int:
    expires = snapshot.fields.get(b"#expires")
    return policy.idle_ms if expires is None else max(1, min(policy.idle_ms, (int(expires) - now) // 1000))


def _has_ended(snapshot: Snapshot, now: int) -> bool:
    """Whether its absolute end has come."""
    return 0 < int(snapshot.fields.get(b"#expires", b"0")) <= now


def _refusal(current: Snapshot, call: Commit, held: bool) -> Conflict | Refused | None:
    if call.expected_version is not None and call.expected_version != current.version:
        return Conflict(current.version, {}, current)
    if call.created and call.created != current.created:
        return Refused("gone")
    theirs = {
        change.field: current.fields.get(change.field)
        for change in call.changes
        if (change.base != "*" and not _unchanged(current.fields.get(change.field), change.base))
        or (change.op == "n" and len(_own_fields(current)) != int(change.value))
        or (change.op == "f" and held)
    }
    if theirs:
        return Conflict(current.version, theirs, current)
    return Refused("large") if call.measured != current.version and _is_too_large(current, call) else None


def _is_too_large(current: Snapshot, call: Commit) -> bool:
    """Whether the changes make it so; one that is too large already may lose something."""
    before = {field: current.fields[field] for field in _own_fields(current)}
    after = {**before, **{change.field: change.value for change in call.changes if change.op in "si"}}
    for change in call.changes:
        if change.op == "d":
            after.pop(change.field, None)
    size = _size(after)
    return size > call.session.max_session and size > _size(before)


def _size(fields: dict[bytes, bytes]) -> int:
    return sum(len(field) + len(value) for field, value in fields.items())


def _without_record(snapshot: Snapshot) -> tuple[Snapshot, list[bytes]]:
    """What is left of it when the record has ended, and the fields that go with it."""
    gone = [field for field in snapshot.fields if field in OF_A_RECORD or key_of_field(field) is not None]
    left = {field: value for field, value in snapshot.fields.items() if field not in gone}
    if b"#state" in left:
        left[b"#state"] = records.ended(left[b"#state"])
    return snapshot_of(left), gone


def _own_fields(snapshot: Snapshot) -> list[bytes]:
    return [field for field in snapshot.fields if key_of_field(field) is not None]


def _leaves_nothing(current: Snapshot, changes: list[Change]) -> bool:
    kept = {*_own_fields(current), *(change.field for change in changes if change.op == "s")}
    return kept <= {change.field for change in changes if change.op == "d"}


def _unchanged(raw: bytes | None, base: bytes | str) -> bool:
    return base == fingerprint(raw)


def _apply(pipe: Any, call: Commit, current: Snapshot, now: int) -> None:
    keys, policy = call.keys, call.session
    for change in call.changes:
        if change.op == "d":
            pipe.hdel(keys.session, change.field)
        elif change.op == "i":
            pipe.hincrby(keys.session, change.field, int(change.value))
        elif change.op == "s":
            pipe.hset(keys.session, change.field, change.value)
    pipe.hset(keys.session, "#version", current.version + 1)
    if not current.created:
        life = policy.idle_ms
        if policy.absolute_ms:
            pipe.hset(keys.session, "#expires", now + policy.absolute_ms * 1000)
            life = min(life, policy.absolute_ms)
        pipe.pexpire(keys.session, life)


def _finish(pipe: Any, call: Commit, current: Snapshot, record: str | None, now: int | None) -> None:
    """``now``: when a record begins; None where it ends."""
    keys, state = call.keys, current.fields.get(b"#state")
    done = records.done_in(state)
    if done is not None and records.issuer_of(done) != records.issuer_of(call.op):
        name = records.issuer_of(done)
        pipe.hset(keys.receipts, name, done.removeprefix(name))
        pipe.pexpire(keys.receipts, call.session.idle_ms)
    left = records.state_of(state, records.finish(call.op, call.low, record))
    if now is None:
        left = records.ended(left)
    elif not current.created:
        left = records.begun(left, now, keys.proof)
    pipe.hset(keys.session, "#state", left)
