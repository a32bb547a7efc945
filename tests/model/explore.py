"""Every state that a model can reach, each once: a small explicit-state model checker.

A model says where it begins and which steps each state allows. :func:`explore` walks all of them, breadth first, so the
first complaint comes with a shortest way to it. States are compared by equality, never by a digest alone: nothing is
left out. A walk that meets more states than it was allowed raises; it never ends early in silence.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Broken", "Found", "Model", "Step", "explore"]

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """What may happen next. ``fault``: it need not happen, and nothing may depend on it."""

    label: str
    state: S
    fault: bool = False


class Broken(Exception):
    """A promise that a step broke."""


class Model(Protocol[S]):
    def begin(self) -> S: ...

    def steps(self, state: S) -> Iterable[Step[S]]:
        """All that may happen in ``state``; raises :class:`Broken` while it makes a step that must not be."""

    def check(self, state: S) -> None:
        """Raises :class:`Broken` if ``state`` must not be."""

    def settled(self, state: S) -> bool:
        """Whether everything that was asked for has come to its end."""


class Found(NamedTuple):
    """What a walk came to. ``complaint`` is empty when no promise is broken; ``trace`` leads to the complaint."""

    states: int
    steps: int
    complaint: str = ""
    trace: tuple[str, ...] = ()


@contextmanager
def _no_garbage() -> Iterator[None]:
    """States hold no cycles, and all are kept: the collector would walk every one of them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_no_garbage()
def explore(model: Model[S], *, at_most: int, settles: bool = True) -> Found:
    """Walk all states of ``model``.

    ``settles``: from every reachable state a settled one must be reachable by steps that are no faults. In a finite
    model that is liveness under strong fairness: what can happen again and again happens at last. Raises
    :class:`OverflowError` when there are more than ``at_most`` states.
    """
    first = model.begin()
    numbers: dict[S, int] = {first: 0}
    states = [first]
    came_from: list[tuple[int, str]] = [(-1, "")]
    back: list[list[int]] = [[]]  # for each state, from which it is one step without a fault
    steps = at = 0

    def trace(number: int) -> tuple[str, ...]:
        labels = []
        while number > 0:
            number, label = came_from[number]
            labels.append(label)
        return tuple(reversed(labels))

    try:
        model.check(first)
        while at < len(states):
            for label, after, fault in model.steps(states[at]):
                steps += 1
                number = numbers.get(after)
                if number is None:
                    number = numbers[after] = len(states)
                    if number >= at_most:
                        raise OverflowError(f"more than {at_most} states")
                    states.append(after)
                    came_from.append((at, label))
                    back.append([])
                    try:
                        model.check(after)
                    except Broken as broken:
                        return Found(len(states), steps, str(broken), trace(number))
                if settles and not fault:
                    back[number].append(at)
            at += 1
    except Broken as broken:
        return Found(len(states), steps, str(broken), trace(at))
    stuck = _first_stuck(states, back, model.settled) if settles else None
    if stuck is not None:
        return Found(len(states), steps, "it never settles from here", trace(stuck))
    return Found(len(states), steps)


def _first_stuck(states: list[S], back: list[list[int]], settled: Callable[[S], bool]) -> int | None:
    """The first state from which no way without faults leads to a settled one."""
    good = [settled(state) for state in states]
    todo = [number for number, is_good in enumerate(good) if is_good]
    while todo:
        for number in back[todo.pop()]:
            if not good[number]:
                good[number] = True
                todo.append(number)
    return good.index(False) if False in good else None
