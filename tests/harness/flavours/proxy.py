"""Stands before a real server and keeps a flavour's rules: refuses, and tells what that flavour tells.

A thread of its own serves it, so that a test that blocks its event loop, or has none, meets it as any server.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import hiredis

from sessionlock.transport.cluster import slot_of_name
from tests.harness.flavours.flavour import Flavour
from tests.harness.flavours.lua import sha_of, watched_library, watched_script
from tests.harness.resp import CONFIRMATIONS, Frames, is_push

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RestrictedServer"]

SCRIPTS = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})
SUBSCRIBES = frozenset(kind.decode() for kind in CONFIRMATIONS)
WITH_SUBCOMMANDS = frozenset({"acl", "client", "cluster", "config", "function", "pubsub", "script"})
Rewrite = Callable[[bytes], bytes]


class RestrictedServer:
    """``socket_path``: where the real server listens. ``url``: where clients find the flavour."""

    def __init__(self, flavour: Flavour, socket_path: str) -> None:
        self.flavour = flavour
        self._socket_path = socket_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.scripts: dict[str, str] = {}
        """By its hash, the hash of the script that is run in its place."""
        self.refusals: deque[str] = deque(maxlen=100)
        self.next_calls: deque[str] = deque()
        """Errors that the next calls of scripts are answered with, one each, as by what stands between."""
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening = self._in_loop(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._in_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"{self.flavour.scheme}://127.0.0.1:{self.port}"

    def _in_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        assert self._listening is not None
        self._listening.close()
        await asyncio.sleep(0)  # who has just been let in begins, to be ended with the others
        while tasks := [task for task in self._tasks if not task.done()]:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            upstream = await asyncio.open_unix_connection(self._socket_path)
            ends.append(upstream[1])
            passage = _Passage(self, writer, upstream[1])
            ways = [
                asyncio.ensure_future(_pump(reader, passage.asked)),
                asyncio.ensure_future(_pump(upstream[0], passage.answered)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # the server is closed; nobody waits for this task's end but that
        finally:
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
    """Until the stream ends, or ``take`` ends it by :class:`EOFError`."""
    frames = Frames()
    try:
        while data := await reader.read(2**18):
            for frame in frames.feed(data):
                take(frame)
    except (OSError, EOFError):
        pass


class _Passage:
    """One connection. Replies keep the order of the requests, whoever answers them."""

    def __init__(self, server: RestrictedServer, client: asyncio.StreamWriter, upstream: asyncio.StreamWriter) -> None:
        self._server = server
        self._flavour = server.flavour
        self._client = client
        self._upstream = upstream
        self._due: deque[bytes | Rewrite | None] = deque()  # an answer; what is done to the server's answer
        self._subscribed = False
        self._protocol = 2
        self._messages = 0

    # --- what the client sends

    def asked(self, frame: bytes) -> None:
        words = _words(frame)
        name = words[0].decode().lower()
        full = f"{name}|{words[1].decode().lower()}" if name in WITH_SUBCOMMANDS and len(words) > 1 else name
        refusal = self._objection(name, full, words)
        if refusal:
            self._server.refusals.append(f"{full}: {refusal}")
            self._answer(b"-%b\r\n" % refusal.encode())
        elif (canned := self._canned(full)) is not None:
            self._answer(canned)
        else:
            self._forward(name, full, words, frame)

    def _objection(self, name: str, full: str, words: list[bytes]) -> str:
        flavour = self._flavour
        known = {name, full}
        allowed = flavour.permitted is None or known & flavour.permitted
        if known & flavour.refused or not allowed:
            refusal = flavour.refusals.get(name, flavour.refusal)
            return refusal.format(name=words[0].decode(), full=full)
        if flavour.most_words is not None and len(words) > flavour.most_words:
            return f"ERR Protocol error: invalid multibulk length: more than {flavour.most_words}"
        if name == "hello" and not flavour.resp3 and words[1:2] == [b"3"]:
            return "NOPROTO unsupported protocol version"
        if name == "select" and flavour.cluster and words[1] != b"0":
            return "ERR SELECT is not allowed in cluster mode"
        return self._objection_to_script(name, full, words)

    def _objection_to_script(self, name: str, full: str, words: list[bytes]) -> str:
        flavour = self._flavour
        text = words[1] if name in ("eval", "eval_ro") else words[-1] if full == "script|load" else None
        if text is not None and flavour.refused_text is not None and re.search(flavour.refused_text[0].encode(), text):
            return flavour.refused_text[1]
        if full == "function|load" and flavour.refused_library:
            return flavour.refused_library
        if name not in SCRIPTS:
            return ""
        if self._server.next_calls:
            return self._server.next_calls.popleft()
        keys = words[3 : 3 + int(words[2])]
        if not keys and flavour.needs_a_key:
            return flavour.needs_a_key
        return flavour.one_slot if len({slot_of_name(key) for key in keys}) > 1 else ""

    def _canned(self, full: str) -> bytes | None:
        if not self._flavour.cluster:
            return None
        if full == "cluster|slots":
            return _encoded([[0, 16383, [b"127.0.0.1", self._server.port, b"0" * 40]]], 2)
        return b"+OK\r\n" if full in ("readonly", "readwrite", "asking") else None

    def _forward(self, name: str, full: str, words: list[bytes], frame: bytes) -> None:
        if name in SUBSCRIBES:
            self._subscribed = True  # confirmations come like pushes
            self._upstream.write(frame)
            return
        flavour, scripts = self._flavour, self._server.scripts
        if name in ("eval", "eval_ro") or full == "script|load":
            at = 1 if name != "script" else 2
            text = watched_script(flavour, _text(words[at]))
            scripts[sha_of(_text(words[at]))] = sha_of(text)
            words = [*words[:at], text.encode("utf-8", "surrogateescape"), *words[at + 1 :]]
        elif name in ("evalsha", "evalsha_ro"):
            words = [words[0], scripts.get(_text(words[1]), "0" * 40).encode(), *words[2:]]
        elif full == "function|load":
            words = [*words[:-1], watched_library(flavour, _text(words[-1])).encode("utf-8", "surrogateescape")]
        self._due.append(self._rewrite(name, full, words))
        self._upstream.write(_encoded(words, 2))

    def _rewrite(self, name: str, full: str, words: list[bytes]) -> Rewrite | None:
        if name == "hello":
            wanted = 3 if words[1:2] == [b"3"] else 2 if len(words) > 1 else self._protocol
            return lambda reply: self._greeted(reply, wanted)
        if name == "info":
            return self._informed
        if name == "time" and self._flavour.clock:
            return self._another_time
        if full == "script|load":
            loaded = {ours: theirs for theirs, ours in self._server.scripts.items()}
            return lambda reply: re.sub(
                rb"[0-9a-f]{40}", lambda sha: loaded.get(sha[0].decode(), sha[0].decode()).encode(), reply
            )
        return None

    def _greeted(self, reply: bytes, protocol: int) -> bytes:
        if reply.startswith(b"-"):
            return reply
        self._protocol = protocol
        told = _decoded(reply)
        fields = dict(told) if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
        fields.update({name.encode(): value.encode() for name, value in self._flavour.hello.items()})
        if self._flavour.cluster:
            fields[b"mode"] = b"cluster"
        flat = [word for pair in fields.items() for word in pair]
        return _encoded(fields if protocol == 3 else flat, protocol)

    def _informed(self, reply: bytes) -> bytes:
        """INFO as that flavour has it."""
        text = _decoded(reply)
        if not isinstance(text, (bytes, str)):
            return reply
        lines = (text if isinstance(text, str) else text.decode()).splitlines()
        changes: dict[str, str | None] = {**self._flavour.info}
        if self._flavour.cluster:
            changes |= {"cluster_enabled": "1", "redis_mode": "cluster", "server_mode": "cluster"}
        kept = [line for line in lines if line.partition(":")[0] not in changes]
        added = [f"{name}:{value}" for name, value in changes.items() if value is not None]
        return _encoded("\r\n".join([*kept, *added, ""]).encode(), 2)

    def _another_time(self, reply: bytes) -> bytes:
        seconds, rest = _decoded(reply)
        return _encoded([b"%d" % (int(seconds) + self._flavour.clock), rest], 2)

    # --- what the server sends

    def answered(self, frame: bytes) -> None:
        if self._flavour.delay:
            asyncio.get_running_loop().call_later(self._flavour.delay, self._tell, frame)
        else:
            self._tell(frame)

    def _tell(self, frame: bytes) -> None:
        if is_push(frame, self._subscribed) or not self._due:
            self._client.write(frame)
            if b"message\r\n" in frame[:40]:
                self._messages += 1
                if self._messages == self._flavour.messages_before_cut:
                    raise EOFError
            return
        due = self._due.popleft()
        assert not isinstance(due, bytes)
        self._client.write(frame if due is None else due(frame))
        while self._due and isinstance(self._due[0], bytes):
            self._client.write(self._due.popleft())  # type: ignore[arg-type]

    def _answer(self, reply: bytes) -> None:
        """In its turn."""
        if self._due:
            self._due.append(reply)
        else:
            self._client.write(reply)


def _words(frame: bytes) -> list[bytes]:
    if not frame.startswith(b"*"):
        return frame.split()
    words: list[bytes] = _decoded(frame)
    return words


def _decoded(frame: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _encoded(value: Any, protocol: int) -> bytes:
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, dict):
        parts = [part for pair in value.items() for part in pair]
        return b"%%%d\r\n" % len(value) + b"".join(_encoded(part, protocol) for part in parts)
    assert isinstance(value, list), value
    return b"*%d\r\n" % len(value) + b"".join(_encoded(part, protocol) for part in value)
