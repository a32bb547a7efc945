"""``sessionlock doctor --acl``: what a Redis user must be permitted, as rules to be pasted."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from ..checkup.permissions import ALONGSIDE, PURPOSES, Purpose, rule_for
from ..errors import ConfigurationError
from ..protocol.keys import check_prefix
from .failure import Failure
from .printed import print_json

__all__ = ["print_rules"]


class _Shown(NamedTuple):
    """``since``: the oldest Redis that takes this rule, and does by it all that is promised."""

    what: str
    purpose: Purpose
    functions: bool
    cluster: bool
    since: str
    rule: list[str]


def print_rules(arguments: argparse.Namespace) -> int:
    """Asks no server. 0: printed."""
    try:
        prefix = check_prefix(arguments.prefix)
    except ConfigurationError as error:
        raise Failure(str(error)) from None
    shown = list(_rules(prefix))
    if arguments.json:
        print_json("doctor --acl", indent=2, rules=[one._asdict() for one in shown], more=_more())
        return 0
    for one in shown:
        print(f"# {one.what}\nACL SETUSER sessionlock on >PASSWORD {' '.join(one.rule)}\n")
    print("# beside them, where that is wanted; a server that does not know one of the commands refuses the line")
    for why, words in _more().items():
        print(f"ACL SETUSER sessionlock {' '.join(words)}  # {why}")
    return 0


def _rules(prefix: str) -> Iterator[_Shown]:
    """Functions and sharded pushes are of Redis 7.0, channels in rules of 6.2."""
    for purpose, what in PURPOSES.items():
        if purpose == "optimistic":
            rule = rule_for(purpose, prefix)
            yield _Shown(f"{what}: Redis 6.2 and newer", purpose, False, False, "6.2", rule.words())
            yield _Shown(f"{what}: Redis 6.0", purpose, False, False, "6.0", rule.words(channels=False))
            continue
        for cluster in (False, True) if purpose == "lock" else (False,):
            what_and_where = what + ("; in a Cluster" if cluster else "")
            rule = rule_for(purpose, prefix, cluster=cluster)
            yield _Shown(
                f"{what_and_where}, as functions: Redis 7.0 and newer", purpose, True, cluster, "7.0", rule.words()
            )
            by_text = partial(rule_for, purpose, prefix, functions=False, cluster=cluster)
            if cluster:
                told = f"{what_and_where}, by their text: Redis 7.0 and newer"
                yield _Shown(told, purpose, False, True, "7.0", by_text().words())
            classic = by_text(sharded=False)
            told = f"{what_and_where}, by their text: Redis 6.2" + ("" if cluster else " and newer")
            yield _Shown(told, purpose, False, cluster, "6.2", classic.words())
            told = f"{what_and_where}, by their text: Redis 6.0"
            yield _Shown(told, purpose, False, cluster, "6.0", classic.words(channels=False))


def _more() -> dict[str, list[str]]:
    return {why: [f"+{command}" for command in commands] for why, commands in ALONGSIDE.items()}
