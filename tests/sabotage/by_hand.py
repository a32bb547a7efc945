"""Protections of the lock objects that are taken by hand."""

from __future__ import annotations

from tests.sabotage import Table

TAKE = "tests/lock/test_by_hand.py::"
ENDS = "tests/lock/test_by_hand_ends.py::"
FILE = "lock/by_hand.py"

SABOTAGE: Table = [
    (
        "who waited without a limit goes on without the lock",
        "by hand",
        FILE,
        "            if not bounded(blocking, timeout):\n                raise\n",
        "",
        (TAKE + "test_without_a_limit_nobody_goes_on_without_it", TAKE + "test_a_full_queue"),
    ),
    (
        "a late release is about whoever holds the object's lock now",
        "by hand",
        FILE,
        "                if one.taker() is taker:\n                    return one\n                oldest = one\n",
        "                return one\n",
        (ENDS + "test_nobody_releases_the_lock_of_the_next", ENDS + "test_a_stranger_releases_the_oldest"),
    ),
    (
        "a block's end releases what was taken by hand within it",
        "by hand",
        FILE,
        " and not (blocks and one.by_hand)",
        "",
        TAKE + "test_a_block_ends_its_own_acquisition",
    ),
    (
        "a block whose lock was released within it hides its body's error",
        "by hand",
        FILE,
        "            if error is None:\n                raise\n"
        "            note(error, trouble)\n            return None\n",
        "            raise\n",
        TAKE + "test_released_within_its_block",
    ),
    (
        "a forked child holds what its parent holds",
        "by hand",
        FILE,
        "if one.pid == pid and ",
        "if pid and ",
        ENDS + "test_a_forked_child_holds_nothing",
    ),
    (
        "what another event loop took is released here",
        "by hand",
        FILE,
        "(loop is None or one.loop is loop) and ",
        "",
        ENDS + "test_what_another_loop_took_is_not_held_here",
    ),
    (
        "a lock object can be copied",
        "by hand",
        FILE,
        "    def __reduce__(self)",
        "    def _reduce(self)",
        ENDS + "test_there_is_one_of_it",
    ),
    (
        "who acquires again is told of the loss once more",
        "by hand",
        FILE,
        "        for lost in self._lost():\n",
        "        for lost in list[Held[LockContext]]():\n",
        ENDS + "test_who_takes_it_again_is_past_the_loss",
    ),
    (
        "somebody is cancelled when a lock is lost that was taken by hand",
        "by hand",
        FILE,
        "lease=flagged(request.lease)",
        "lease=request.lease",
        ENDS + "test_nobody_is_cancelled_by_hand",
    ),
    (
        "more time is asked for beside a renewal",
        "by hand",
        "lock/watchdog.py",
        "        while (under_way := self._renewing.get(group)) is not None and not under_way.done():\n"
        "            await asyncio.wait([under_way])\n",
        "",
        "tests/lock/test_watchdog.py::test_more_time_waits_for_a_renewal_under_way",
    ),
    (
        "more time may be less",
        "by hand",
        "lock/watchdog.py",
        "least = max(0.0, lease.ends - now) + policy.margin",
        "least = 0.0",
        ENDS + "test_more_time_for_a_lease_that_is_not_renewed",
    ),
]
