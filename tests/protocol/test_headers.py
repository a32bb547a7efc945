"""The head of every script says what it takes and what it answers; here is seen that it does so truly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest

from sessionlock import LeasePolicy, SessionPolicy
from sessionlock.lock.watchdog import MOST_PER_CALL
from sessionlock.protocol.calls import Abandon, Acquire, Call, Release, Renew
from sessionlock.protocol.changes import Change
from sessionlock.protocol.commands import in_full
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.quorum_calls import Adopt, Dismiss, Install, RaiseFence, Vote
from sessionlock.protocol.record_calls import (
    Bind,
    Commit,
    Create,
    Destroy,
    Expire,
    ForceRelease,
    Increment,
    Inspect,
    Load,
    Regenerate,
    Save,
)
from sessionlock.protocol.scripts import script
from sessionlock.session.data import MOST_CHANGES

LUA = resources.files("sessionlock.protocol") / "lua"
KEYS = keys_for("sl", "s")
SESSION = SessionPolicy()
CHANGE = Change("s", b"n", b"1", "*")
CHANGE_WORDS = "[change field value]..."

CALLS: dict[str, Call[Any]] = {
    "abandon": Abandon(KEYS, "token", "low"),
    "acquire": Acquire(KEYS, "token", LeasePolicy(), SESSION),
    "adopt": Adopt(KEYS, "token"),
    "bind": Bind(KEYS, "user"),
    "commit": Commit(KEYS, "", None, SESSION, [CHANGE, CHANGE]),
    "create": Create(KEYS, SESSION, [CHANGE, CHANGE]),
    "destroy": Destroy(KEYS, SESSION),
    "dismiss": Dismiss(KEYS),
    "expire": Expire(KEYS, 1_000),
    "force_release": ForceRelease(KEYS, "token"),
    "incr": Increment(KEYS, None, "", SESSION, CHANGE),
    "inspect": Inspect(KEYS),
    "install": Install(KEYS, "token", 1_000, [("a", 1), ("b", 2)], 2, SESSION),
    "load": Load(KEYS, SESSION),
    "regenerate": Regenerate(KEYS, "proof", 0, None),
    "release": Release(KEYS, "token", 1, "low", "", SESSION, [CHANGE, CHANGE]),
    "renew": Renew([(KEYS, "token", 1), (KEYS, "other", 2)]),
    "vote": Vote(KEYS, "token", LeasePolicy()),
    "raise_fence": RaiseFence(KEYS, "token", 7),
    "save": Save(KEYS, "token", 1, "", SESSION, [CHANGE, CHANGE]),
}
SCRIPTS = sorted(
    path.name.removesuffix(".lua") for path in LUA.iterdir() if path.name[0] != "_" and path.name.endswith(".lua")
)

# What the shared parts answer with, by the function that makes the answer; the callers return it as it is.
SHARED_REPLIES = {
    "commit_changes(": ("gone", "conflict", "large"),
    "not_holder(": ("already", "destroyed", "lost", "untold"),
    "acquire_slowly(": ("granted", "queued"),
}


@dataclass
class Header:
    keys: str
    argv: str
    reply: str
    body: str


def header(name: str) -> Header:
    """The three parts of the comment on top of a script, and the code below it."""
    lines = (LUA / f"{name}.lua").read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    parts = {"keys": "", "argv": "", "reply": ""}
    part = ""
    for line in lines[:end]:
        label = re.match(r"-- (KEYS|ARGV|reply) ", line)
        part = label[1].lower() if label else part if line.startswith("--    ") else ""
        if part:
            parts[part] += line[len("-- reply") :] + "\n"
    return Header(**parts, body="\n".join(lines[end:]))


def words(text: str) -> list[str]:
    """The names on an ARGV line: up to a remark, which stands behind a wide gap."""
    listed = re.split(r"\s{3,}", text.strip())[0].replace(CHANGE_WORDS, "")
    return listed.split()


def code(body: str) -> str:
    """Without comments."""
    return re.sub(r"--.*", "", body)


def test_every_script_has_a_call() -> None:
    """A script is added to ``CALLS`` here; a call that no script answers is no call."""
    assert sorted(CALLS) == SCRIPTS
    assert {name: call.script for name, call in CALLS.items()} == {name: name for name in SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_keys(name: str) -> None:
    """All keys are declared, in the order in which they are sent."""
    if name == "renew":
        assert header(name).keys.strip() == "[lock session]..."
        assert list(CALLS[name].redis_keys) == [KEYS.lock, KEYS.session] * 2
        return
    assert header(name).keys.split() == ["lock", "queue", "waiters", "session", "receipts"]
    assert list(CALLS[name].redis_keys) == [KEYS.lock, KEYS.queue, KEYS.waiters, KEYS.session, KEYS.receipts]
    assert (
        "local LOCK, QUEUE, WAITERS, SESSION, RECEIPTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]"
        in script(name).text
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_argv(name: str) -> None:
    """As many words are sent as the head names, and the code takes no other."""
    head, call = header(name), CALLS[name]
    text = code(head.body)
    if name == "renew":
        assert head.argv.strip() == "[token ttl_ms]..."
        assert list(call.words()) == ["token", 1, "other", 2]
        return
    if head.argv.strip() == "(none)":
        assert list(call.words()) == []
        assert "ARGV" not in text
        return
    named = words(head.argv)
    changes = 0
    if CHANGE_WORDS in head.argv:
        changes = 1 if name == "incr" else 2
        assert re.search(r"FIRST = (\d+)", text)[1] == str(len(named) + 1)  # type: ignore[index]
    assert len(call.words()) == len(named) + 3 * changes
    used = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", text)}
    assert used == set(range(1, len(named) + 1)), "every word that is sent is used"


@pytest.mark.parametrize("name", SCRIPTS)
def test_replies(name: str) -> None:
    """Every kind of answer that stands in the code stands in the head."""
    head = header(name)
    text = code(head.body)
    kinds = set(re.findall(r"""(?:return|reply =) \{(?:\w+ and )?'([\w-]+)'""", text))
    kinds |= set(re.findall(r"or '([a-z][\w-]+)'\}", text))
    kinds |= set(re.findall(r"refuse\('([\w-]+)'\)", text))
    for maker, made in SHARED_REPLIES.items():
        # create answers `exists` to every refusal.
        if maker in text and (name, maker) != ("create", "commit_changes("):
            kinds |= set(made)
    if name in ("renew", "inspect"):
        assert kinds == set()
    else:
        assert kinds != set()
    missing = sorted(kind for kind in kinds if not re.search(rf"(?<![\w-]){kind}(?![\w-])", head.reply))
    assert missing == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_replies_of_the_head(name: str) -> None:
    """And the other way about: the head promises no answer that nothing in the script can give."""
    promised = set()
    for line in header(name).reply.splitlines():
        # Kinds stand at the beginning and behind a bar; what follows them are the words that come with them.
        for part in re.split(r"\s{3,}", line.strip())[0].split(" | "):
            kind = part.strip().split(" ")[0]
            if re.fullmatch(r"[a-z][a-z-]+", kind):
                promised.add(kind)
    if name in ("renew", "inspect"):
        return
    text = code(script(name).text)
    assert [kind for kind in sorted(promised) if f"'{kind}'" not in text] == []
    assert promised != set()


def test_shared_replies() -> None:
    """What is said above of the shared parts is true."""
    text = code(script("release").text) + code(script("acquire").text)
    made = {}
    for maker in SHARED_REPLIES:
        function = re.search(rf"function {re.escape(maker)}.*?\nend\n", text, re.DOTALL)
        assert function is not None
        made[maker] = set(re.findall(r"return \{'([\w-]+)'", function[0]))
    assert made == {maker: set(kinds) for maker, kinds in SHARED_REPLIES.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_parts(name: str) -> None:
    """``uses`` names parts that exist, ``base`` first, each once; renew, on many sessions, uses none."""
    uses = re.search(r"^-- uses  (.+)$", (LUA / f"{name}.lua").read_text(encoding="utf-8"), re.MULTILINE)
    if name == "renew":
        assert uses is None
        return
    assert uses is not None
    parts = uses[1].split()
    assert parts[0] == "base"
    assert len(parts) == len(set(parts))
    assert all((LUA / f"_{part}.lua").is_file() for part in parts)


LEAST_LIMIT = 3_999  # words that a request may have at the server that takes the fewest


@pytest.mark.parametrize("count", [500, 501, MOST_CHANGES])
def test_no_request_has_more_words_than_any_server_takes(count: int) -> None:
    changes = [CHANGE] * count
    leases = [(KEYS, "token", 1)] * MOST_PER_CALL
    for call in (
        Commit(KEYS, "", None, SESSION, changes),
        Create(KEYS, SESSION, changes),
        Release(KEYS, "token", 1, "low", "", SESSION, changes),
        Save(KEYS, "token", 1, "", SESSION, changes),
        Renew(leases),
    ):
        assert len(in_full(call)) <= LEAST_LIMIT
