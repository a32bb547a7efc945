"""Traffic as MONITOR would show it, made here, with a checker that knows what each request had read.

An application's requests load a session, change it, and save it; between load and save others go on. How their
commands reach the server is a *style*: ``own`` (a connection for each worker), ``pool`` (any free connection of the
process for each command), ``single`` (one connection for all requests of the process), ``fresh`` (one for each
request).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HANDLERS", "STYLES", "Traffic", "line"]

STYLES = ("own", "pool", "single", "fresh")
Session = dict[str, Any]
Handler = Callable[[Session, str, random.Random], None]
NOW = 1_795_892_448.0


def line(at: float, who: str, *words: str | bytes) -> bytes:
    """As the server writes it."""
    return b" ".join((b"%.6f [0 %b]" % (at, who.encode()), *(quoted(word) for word in words)))


def quoted(word: str | bytes) -> bytes:
    raw = word if isinstance(word, bytes) else word.encode()
    letters = {0x22: b'\\"', 0x5C: b"\\\\", 10: b"\\n", 13: b"\\r", 9: b"\\t", 7: b"\\a", 8: b"\\b"}
    told = (letters.get(byte) or (bytes((byte,)) if 32 <= byte < 127 else b"\\x%02x" % byte) for byte in raw)
    return b'"' + b"".join(told) + b'"'


# --- what requests do


def add_product(session: Session, item: str, dice: random.Random) -> None:
    session.setdefault("cart", []).append(item)


def count(session: Session, item: str, dice: random.Random) -> None:
    session["visits"] = session.get("visits", 0) + 1


def flash(session: Session, item: str, dice: random.Random) -> None:
    """Shows the messages that have gathered, now and then, and leaves one."""
    if dice.random() < 0.3:
        session["messages"] = []
    session.setdefault("messages", []).append(item)


def fill_in(session: Session, item: str, dice: random.Random) -> None:
    """Each request a field of its own."""
    session.setdefault("form", {})[f"field-{item}"] = item


HANDLERS: dict[str, Handler] = {"cart": add_product, "counter": count, "flash": flash, "form": fill_in}


@dataclass
class Traffic:
    """``parallel``: how many requests of one session are under way at most. ``reading``: how many of them only read.

    ``together``: how many sessions are used at a time. ``habits``: ``saves twice``, ``looks twice`` (before it saves),
    ``always saves`` (what was only read, too), ``keeps time`` (of the last request). ``pace``: seconds between
    requests.
    """

    seed: int
    style: str
    handler: str
    parallel: int
    sessions: int = 2
    together: int = 1
    requests: int = 100
    processes: int = 2
    reading: float = 0.2
    pace: float = 0.0
    habits: frozenset[str] = frozenset()
    lines: list[bytes] = field(default_factory=list)
    lost: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.at = NOW
        self.ports = iter(range(10_000, 10_000_000))
        self.free: list[list[str]] = [[] for _ in range(self.processes)]
        self.alone = [self.connection() for _ in range(self.processes)]
        self.stored: dict[str, str] = {}
        waiting = [self.play(f"session:{self.dice.getrandbits(128):032x}") for _ in range(self.sessions)]
        playing: list[Iterator[None]] = []
        while waiting or playing:
            while waiting and len(playing) < self.together:
                playing.append(waiting.pop())
            one = self.dice.choice(playing)
            if next(one, self) is self:
                playing.remove(one)

    def connection(self) -> str:
        return f"10.0.0.1:{next(self.ports)}"

    def play(self, key: str) -> Generator[None, None, None]:
        """One session's requests, in any order that so many workers allow."""
        begun = {"user": 7, "visits": 0, "cart": ["begun"], "form": {"begun": 1}, "messages": []}
        self.stored[key] = json.dumps(begun)
        self.say(self.alone[0], "SET", key, self.stored[key], "EX", "600")
        todo = iter(range(self.requests))
        running: list[Iterator[None]] = []
        done: list[tuple[str, Session, Session]] = []
        while True:
            while len(running) < self.parallel and (number := next(todo, None)) is not None:
                running.append(self.request(key, f"i{number}", done))
                self.at += self.pace * self.dice.random()
            if not running:
                break
            one = self.dice.choice(running)
            if next(one, self) is self:
                running.remove(one)
            yield
        self.lost += self.checked(json.loads(self.stored[key]), done)

    def request(self, key: str, item: str, done: list[tuple[str, Session, Session]]) -> Generator[None, None, None]:
        process = self.dice.randrange(self.processes)
        mine = self.alone[process] if self.style == "single" else ""
        if self.style == "fresh" or (self.style == "own" and not self.free[process]):
            mine = self.connection()
        elif self.style == "own":
            mine = self.free[process].pop()
        self.command(mine, process, "GET", key)
        session, before = json.loads(self.stored[key]), json.loads(self.stored[key])
        yield
        works = self.dice.random() >= self.reading
        if works:
            HANDLERS[self.handler](session, item, self.dice)
            done.append((item, before, session))
        if "keeps time" in self.habits:
            session["seen"] = int(self.at)
        if works or "always saves" in self.habits:
            if "saves twice" in self.habits:
                self.save(mine, process, key, session)
                session["again"] = item
            if "looks twice" in self.habits:
                self.command(mine, process, "GET", key)
            self.save(mine, process, key, session)
        if self.style == "own":
            self.free[process].append(mine)

    def save(self, mine: str, process: int, key: str, session: Session) -> None:
        self.stored[key] = json.dumps(session)
        self.command(mine, process, "SET", key, self.stored[key], "EX", "600")

    def command(self, connection: str, process: int, *words: str) -> None:
        if connection:
            self.say(connection, *words)
            return
        # A pool: others' commands are on their way, too, so that it is not always the same that is free.
        pool = self.free[process]
        while len(pool) < 3:
            pool.append(self.connection())
        busy = self.parallel > 1 or self.together > 1
        self.say(pool[self.dice.randrange(3) if busy else -1], *words)

    def say(self, who: str, *words: str) -> None:
        self.at += self.dice.random() * 0.002
        self.lines.append(line(self.at, who, *words))

    def checked(self, left: Session, done: list[tuple[str, Session, Session]]) -> int:
        """What the requests did and is not there in the end."""
        if self.handler == "counter":
            return len(done) - int(left["visits"])
        if self.handler == "form":
            return sum(f"field-{item}" not in left["form"] for item, _, _ in done)
        if self.handler == "cart":
            return sum(item not in left["cart"] for item, _, _ in done)
        # Of messages: neither shown to anybody nor left.
        shown = Counter(item for _, before, after in done for item in set(before["messages"]) - set(after["messages"]))
        return sum(item not in left["messages"] and item not in shown for item, _, _ in done)
