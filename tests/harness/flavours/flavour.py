"""What a flavour is: its rules, and what is to be expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Flavour"]

UNKNOWN_COMMAND = "ERR unknown command '{name}', with args beginning with: "


@dataclass(frozen=True)
class Flavour:
    """``title`` and ``rules``: for people.

    ``verdict`` and ``findings``: what ``sessionlock doctor`` says, and the codes of what it finds beside the ordinary.
    ``lock``: whether locks work; ``pushes``: whether who waits is told; ``unlocked``: whether the modes without a lock
    work. ``limit``: what does not work or is weaker, in words; "" nothing. ``advice``: what to do about it.
    ``left_out``: tests of the conformance suite that show the limit.
    """

    title: str
    rules: str
    verdict: str = "fine"
    findings: tuple[str, ...] = ()
    lock: bool = True
    pushes: bool = True
    unlocked: bool = True
    limit: str = ""
    advice: str = ""
    left_out: tuple[str, ...] = ()

    # Commands, in lower case; a subcommand behind a bar. `permitted`: all that there are.
    refused: frozenset[str] = frozenset()
    permitted: frozenset[str] | None = None
    refusal: str = UNKNOWN_COMMAND
    refusals: Mapping[str, str] = field(default_factory=dict)  # of some commands, in other words
    # Of scripts: a key, declared keys only, one slot; commands that they may not call, and what they call instead.
    needs_a_key: str = ""
    declared_only: str = ""
    one_slot: str = ""
    not_in_scripts: Mapping[str, str] = field(default_factory=dict)
    instead_in_scripts: Mapping[str, str] = field(default_factory=dict)
    refused_text: tuple[str, str] | None = None  # a pattern, and what is said where a script's text matches it
    refused_library: str = ""  # what is said to whoever loads functions
    most_words: int | None = None
    resp3: bool = True
    cluster: bool = False  # one node with all slots, by the cluster's protocol
    info: Mapping[str, str | None] = field(default_factory=dict)  # None: the field is not there
    hello: Mapping[str, str] = field(default_factory=dict)
    clock: int = 0  # seconds by which TIME is ahead
    delay: float = 0.0  # seconds by which each answer is late
    messages_before_cut: int | None = None  # that a subscriber receives before it is cut off

    @property
    def scheme(self) -> str:
        return "redis+cluster" if self.cluster else "redis"
