"""``sessionlock doctor --acl``: what a Redis user must be permitted, as rules to be pasted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import NamedTuple

from ..checkup.permissions import ALONGSIDE, PURPOSES, Purpose, Rule, rule_for
from ..errors import ConfigurationError
from ..protocol.keys import check_prefix
from .failure import Failure

__all__ = ["print_rules"]


class _Shown(NamedTuple):
    what: str
    purpose: Purpose
    functions: bool
    cluster: bool
    rule: Rule


def print_rules(arguments: argparse.Namespace) -> int:
    """Asks no server. 0: printed."""
    try:
        prefix = check_prefix(arguments.prefix)
    except ConfigurationError as error:
        raise Failure(str(error)) from None
    shown = list(_rules(prefix))
    if arguments.json:
        print(json.dumps({"rules": [_as_json(one) for one in shown], "more": _more()}, indent=2))
        return 0
    for one in shown:
        print(f"# {one.what}\nACL SETUSER sessionlock on >PASSWORD {' '.join(one.rule.words())}\n")
    print("# beside them, where that is wanted")
    for why, words in _more().items():
        print(f"ACL SETUSER sessionlock {' '.join(words)}  # {why}")
    return 0


def _rules(prefix: str) -> Iterator[_Shown]:
    for purpose, what in PURPOSES.items():
        if purpose == "optimistic":
            yield _Shown(what, purpose, False, False, rule_for(purpose, prefix))
            continue
        ways = ((True, "as functions: Redis 7.0 and newer"), (False, "by their text"))
        for cluster in (False, True) if purpose == "lock" else (False,):
            for functions, how in ways:
                where = "; in a Cluster" if cluster else ""
                rule = rule_for(purpose, prefix, functions=functions, cluster=cluster)
                yield _Shown(f"{what}, {how}{where}", purpose, functions, cluster, rule)


def _more() -> dict[str, list[str]]:
    return {why: [f"+{command}" for command in commands] for why, commands in ALONGSIDE.items()}


def _as_json(one: _Shown) -> dict[str, object]:
    return {"purpose": one.purpose, "functions": one.functions, "cluster": one.cluster, "rule": one.rule.words()}
