"""The rule that ``sessionlock doctor --acl`` prints is enough for a user of a real server, and no more than that."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from io import StringIO
from typing import Any, cast

import pytest

from sessionlock import Quorum, SessionGuard, SessionLockError
from sessionlock.checkup.permissions import ALONGSIDE, IN_SCRIPTS, OF_A_USER, OPERATING, Purpose, Rule, rule_for
from sessionlock.cli import main
from sessionlock.protocol.scripts import SCRIPTS
from sessionlock.session import user_index
from tests.harness import ROOT
from tests.harness.cluster import Cluster
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.permitted import by_quorum, by_scripts, by_watch
from tests.harness.scripts import forget_scripts
from tests.servers.cache import cached

pytestmark = pytest.mark.anyio

Use = Callable[..., Coroutine[Any, Any, None]]
WAYS: dict[str, tuple[Purpose, bool, Use]] = {
    "lock-functions": ("lock", True, by_scripts),
    "lock-scripts": ("lock", False, by_scripts),
    "optimistic-watch": ("optimistic", False, by_watch),
}
# Where more than 64 wait for a session that ends; without it DEL does it, which takes longer.
RARE = {"unlink"}
# What redis-py and we try without being in need of it.
TRIED = {"client|setinfo", "fcall"}
# What is taken out of the rules of a quorum, one by one. All would take long: elections wait for masters.
OF_A_QUORUM = ("fcall", "function|load", "get", "hset", "role", "set", "subscribe", "time")


class User:
    """A user ``app`` of one server, with just this rule, and what he was refused."""

    def __init__(self, server: FaultyServer) -> None:
        if server.version < (7,):
            pytest.skip("rules name subcommands and channels, and functions are there, from 7.0 on")
        self._raw: Any = connect(server.unix_url)
        self.url = server.unix_url.replace("unix://", "unix://app:secret@")

    def may(self, rule: Rule) -> None:
        self._raw.flushall()
        forget_scripts(self._raw)
        self._raw.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rule.words())
        self._raw.execute_command("ACL", "LOG", "RESET")

    @property
    def refused(self) -> set[str]:
        """Also within scripts, where that is no error."""
        entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in self._raw.execute_command("ACL", "LOG")]
        return {entry[b"object"].decode() for entry in entries} - TRIED

    def close(self) -> None:
        self._raw.execute_command("ACL", "DELUSER", "app")
        self._raw.close()


@pytest.fixture
def user(server: FaultyServer, flush: None) -> Iterator[User]:
    user = User(server)
    yield user
    user.close()


def opens(url: str, **more: Any) -> Callable[..., SessionGuard]:
    return partial(SessionGuard.from_url, url, **{"check": False, "retry_for": 0.3, **more})


def tried(use: Use, guard: Callable[..., SessionGuard]) -> None:
    """Something is refused, and it fails or not: who is not told of his turn looks for it. In an event loop of its own,
    which ends whatever is left of it.
    """

    async def quietly() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # of tasks that nobody waits for then
        await asyncio.wait_for(use(guard, within=0.5), 2)

    with suppress(SessionLockError, asyncio.TimeoutError, TimeoutError):
        asyncio.run(quietly())


def test_what_scripts_call() -> None:
    called = {
        name.lower()
        for script in SCRIPTS.values()
        for name in re.findall(r"p?call\((?:is_sharded\(channel\) and )?'([A-Z]+)'|write\('([A-Z]+)'", script.text)
        for name in name
        if name
    }
    assert called - {"publish", "spublish", "pubsub"} == set(IN_SCRIPTS)


def test_what_the_index_of_a_users_sessions_asks() -> None:
    asked = {name.lower() for name in re.findall(r'_command\("([A-Z]+)"', inspect.getsource(user_index))}
    assert asked == set(OF_A_USER)


def test_what_operators_ask() -> None:
    """Beside what a guard may: they look at all locks and sessions."""
    text = "".join(path.read_text("utf-8") for path in (ROOT / "sessionlock" / "operate").glob("*.py"))
    asked = re.findall(r'"(DBSIZE|H?KEYS|HSTRLEN|MEMORY|OBJECT|CLIENT|PUBSUB|[HSZ]?SCAN)"', text)
    looks = {name.lower() for name in asked}
    assert looks == {command.partition("|")[0] for command in ALONGSIDE[OPERATING]}


@pytest.mark.parametrize("way", WAYS)
async def test_the_rule_is_enough(user: User, way: str) -> None:
    mode, functions, use = WAYS[way]
    user.may(rule_for(mode, functions=functions))
    await use(opens(user.url))
    assert user.refused == set()
    async with opens(user.url, check=True)() as guard:
        refusal = (await guard.capabilities()).refusal()
    assert (refusal is None) is (mode == "lock"), "the look refuses what the rule permits"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_it_can_be_left_out(user: User, way: str) -> None:
    mode, functions, use = WAYS[way]
    rule = rule_for(mode, functions=functions)
    for command in set(rule.commands) - RARE:
        user.may(rule.without(command))
        tried(use, opens(user.url))
        assert command in user.refused | (TRIED & {command}), f"{command} is not needed"


async def test_other_keys_and_channels_are_not_permitted(user: User) -> None:
    user.may(rule_for("lock"))
    with pytest.raises(SessionLockError):
        async with opens(user.url, prefix="other")() as guard, guard.session_lock("s"):
            pass


@pytest.mark.slow
async def test_in_a_cluster(cluster: Cluster) -> None:
    if FaultyServer().version < (7,):
        pytest.skip("sharded channels are there from 7.0 on")
    nodes: list[Any] = [node.raw for node in cluster.nodes]
    for functions in (True, False):
        rule = rule_for("lock", functions=functions, cluster=True)
        for node in nodes:
            node.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rule.words())
            node.execute_command("ACL", "LOG", "RESET")
        for master in cluster.masters:
            master.raw.flushall()
        guards = opens(cluster.url.replace("://", "://app:secret@"))
        async with guards(check=True) as guard:
            assert (await guard.capabilities()).refusal() is None, "the look refuses what the rule permits"
        for node in nodes:
            node.execute_command("ACL", "LOG", "RESET")
        await by_scripts(guards)
        for node in nodes:
            assert {entry[7].decode() for entry in node.execute_command("ACL", "LOG")} - TRIED == set()
    for node in nodes:
        node.execute_command("ACL", "DELUSER", "app")


@pytest.mark.slow
@pytest.mark.parametrize("functions", [True, False], ids=["functions", "scripts"])
def test_of_a_quorum(own_server: Callable[..., FaultyServer], functions: bool) -> None:
    users = [User(own_server()) for _ in range(4)]
    *masters, store = users
    roles: tuple[Purpose, Purpose] = ("quorum master", "quorum store")
    rules: dict[str, Rule] = {role: rule_for(role, functions=functions) for role in roles}

    def open_guard(**options: Any) -> SessionGuard:
        quorum = Quorum(*(master.url for master in masters), rejoin_after=0)
        return opens(store.url, quorum=quorum)(**options)

    def permit(role: str = "", command: str = "") -> None:
        for user in users:
            of = "quorum store" if user is store else "quorum master"
            user.may(rules[of].without(command) if of == role else rules[of])

    permit()
    asyncio.run(by_quorum(open_guard))
    assert [user.refused for user in users] == [set()] * 4
    for role, rule in rules.items() if functions else ():
        for command in set(OF_A_QUORUM).intersection(rule.commands):
            permit(role, command)
            tried(by_quorum, open_guard)
            refused = set().union(*(user.refused for user in users))
            assert command in refused | (TRIED & {command}), f"{command} is not needed by a {role}"


# What a user of an old server is given, whose rules know less.
OLD = [("redis60", False), ("redis62", True)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels"), OLD)
async def test_before_functions(name: str, channels: bool) -> None:
    """Redis 6.0 refuses a rule that names channels."""
    old = cached(name)
    if old is None:
        pytest.skip(f"{name} is not there: python -m tests.servers get {name}")
    with FaultyServer(str(old.path)) as own, connect(own.unix_url) as raw:
        url = own.unix_url.replace("unix://", "unix://app:secret@")
        for mode, use in (("lock", by_scripts), ("optimistic", by_watch)):
            rule = rule_for(cast("Purpose", mode), functions=False).words(channels=channels)
            assert rule in printed("--json", since="6.2" if channels else "6.0")
            raw.flushall()
            raw.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rule)
            raw.execute_command("ACL", "LOG", "RESET")
            await use(opens(url))
            log = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in raw.execute_command("ACL", "LOG")]
            assert {entry[b"object"] for entry in log} <= {b"client"}


def printed(*more: str, since: str) -> list[list[str]]:
    """The rules for servers of that version."""
    with redirect_stdout(StringIO()) as out:
        assert main(["doctor", "--acl", *more]) == 0
    return [one["rule"] for one in json.loads(out.getvalue())["rules"] if one["since"] == since]


async def test_a_prefix_with_signs_of_a_pattern(user: User) -> None:
    """It is meant as it stands: it names the guard's keys, and nobody else's."""
    for prefix, other in (("app[1]", "app1"), ("sl*", "sl-other")):
        user.may(rule_for("lock", prefix))
        async with opens(user.url, prefix=prefix)() as guard, guard.session_lock("s") as session:
            session["n"] = 1
        with pytest.raises(SessionLockError):
            async with opens(user.url, prefix=other)() as guard, guard.session_lock("s"):
                pass


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """To be pasted; and no server is asked."""
    assert main(["doctor", "--acl", "--prefix", "shop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rule = " ".join(rule_for("lock", "shop").words())
    assert f"ACL SETUSER sessionlock on >PASSWORD {rule}" in lines
    usual = " ".join(rule_for("lock").words())
    assert f"\nACL SETUSER sessionlock on >PASSWORD {usual}\n" in (ROOT / "docs" / "servers.md").read_text("utf-8")
    assert main(["doctor", "--acl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert rule_for("optimistic").words() in [one["rule"] for one in told["rules"]]
    assert (told["schema"], told["command"]) == (1, "doctor --acl")
    for one in told["rules"]:  # a server refuses a rule with a word that it does not know
        words = set(one["rule"])
        assert ("resetchannels" in words) is (one["since"] >= "6.2")
        assert one["since"] >= "7.0" or not words & {"+fcall", "+spublish", "+ssubscribe", "+function|load"}
    assert main(["doctor", "--acl", "--prefix", "{}"]) == 2
