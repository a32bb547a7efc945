"""Routes whose safe requests met conflicts: for a while they take the lock at once instead of running twice."""

from __future__ import annotations

from ...clock import monotonic

__all__ = ["Learnt", "Remembered", "Rerun"]

MOST = 512  # pages; beyond them the oldest is forgotten
FORGET_AFTER = 300.0  # seconds
SLOW = 1.0  # seconds; a request of this length would hold up its visitor's others more often than it meets a conflict


class Remembered:
    """Words that are known for a while, bounded in number: beyond ``most`` the oldest goes. Safe to share between
    threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._until: dict[str, float] = {}

    def note(self, word: str, seconds: float) -> None:
        """Know it for so long from now on."""
        self._until.pop(word, None)
        self._until[word] = monotonic() + seconds
        while len(self._until) > self._most:
            self._until.pop(next(iter(self._until), word), None)

    def forget(self, word: str) -> None:
        self._until.pop(word, None)

    def __contains__(self, word: str) -> bool:
        until = self._until.get(word)
        if until is None:
            return False
        if until > monotonic():
            return True
        self.forget(word)
        return False

    def __len__(self) -> int:
        return len(self._until)


class Learnt(Remembered):
    """Requests, by method and path (of Django: and route). They are kept here and told to nobody."""

    def __init__(self) -> None:
        super().__init__(MOST)

    def add(self, page: str, took: float = 0.0) -> None:
        """A safe request of this page, which ran for ``took`` seconds, met a conflict."""
        if took < SLOW:
            self.note(page, FORGET_AFTER)


class Rerun:
    """Whether this request may run again, under the lock, if it meets a conflict. ``learnt`` None: its face cannot."""

    def __init__(self, learnt: Learnt | None, page: str, *, allowed: bool) -> None:
        self._learnt = learnt if allowed else None
        self._page = page
        self._began_at = monotonic()
        self._took_effect = False
        # A route that is known to meet conflicts takes the lock at once: nothing is to be run again.
        self.is_known: bool = self._learnt is not None and page in self._learnt

    @property
    def is_possible(self) -> bool:
        """What the handler has saved, or counted, by itself cannot be taken back: then it is not."""
        return self._learnt is not None and not self.is_known and not self._took_effect

    def forbid(self) -> None:
        """Something took effect."""
        self._took_effect = True

    def learn(self) -> None:
        """From now on the route takes the lock at once."""
        if self._learnt is not None and not self.is_known:
            self._learnt.add(self._page, self.age)

    @property
    def age(self) -> float:
        """Seconds since the request began."""
        return monotonic() - self._began_at
