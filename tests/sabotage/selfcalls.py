"""Protections of an application that calls itself."""

from __future__ import annotations

from tests.sabotage import Table

SELF = "tests/selfcalls/test_check.py::"
PEERS = "tests/selfcalls/test_sockets.py::"
LOOKS = "tests/selfcalls/test_looks.py::"

SABOTAGE: Table = [
    (
        "who calls itself waits for itself",
        "self-call",
        "selfcalls/check.py",
        "    if stands() and await found_out(peer, pid, stands):\n",
        "    if False:\n",
        (
            SELF + "test_held_by_this_process",
            SELF + "test_a_decorated_view",
            SELF + "test_a_decorated_view_in_a_thread",
        ),
    ),
    (
        "the look-up waits for a thread that a self-call occupies",
        "self-call",
        "selfcalls/looks.py",
        'threading.Thread(target=self._make, name="sessionlock-self-call", daemon=True).start()',
        "loop.run_in_executor(None, self._make)",
        SELF + "test_while_all_threads_wait",
    ),
    (
        "an error of the look-up ends the request",
        "self-call",
        "selfcalls/check.py",
        "except Exception:\n        return None\n",
        "except ValueError:\n        return None\n",
        SELF + "test_what_goes_wrong_while_it_is_found_out",
    ),
    (
        "after an error nobody looks any more",
        "self-call",
        "selfcalls/looks.py",
        "with suppress(Exception):\n",
        "with suppress(ValueError):\n",
        LOOKS + "test_an_error_is_no_and_the_next_look_is_made",
    ),
    (
        "everything on this host is taken for the holder",
        "self-call",
        "selfcalls/sockets.py",
        "return theirs in self._open_in(pid)",
        "return True",
        (PEERS + "test_a_socket_of_another_process", PEERS + "test_a_port_that_is_in_use_towards_two_servers"),
    ),
    (
        "any connection from the client's port is taken for the request's",
        "self-call",
        "selfcalls/sockets.py",
        "                if ours in self._open_in(os.getpid()):\n"
        "                    return theirs in self._open_in(pid)\n",
        "                if theirs in self._open_in(pid):\n                    return True\n",
        PEERS + "test_a_port_that_is_in_use_towards_two_servers",
    ),
    (
        "whoever holds later is taken for whom the wait began for",
        "self-call",
        "selfcalls/check.py",
        "token is None or held_by_us(request.keys, holder.label) == token",
        "True",
        SELF + "test_short_holds_of_this_process",
    ),
    (
        "each of a crowd has a look of its own",
        "cost",
        "selfcalls/looks.py",
        "    for found, question in asked.items():\n        answer = False\n",
        "    for found, question in asked.items():\n        answer, look = False, Look()\n",
        LOOKS + "test_a_crowd_has_one_look",
    ),
    (
        "looks are made back to back",
        "cost",
        "selfcalls/looks.py",
        "pause = min(MOST_PAUSE, (time.thread_time() - began) / SHARE)",
        "pause = 0.0",
        (LOOKS + "test_looks_take_a_small_share_of_a_processor", LOOKS + "test_who_waits_no_more_costs_no_look"),
    ),
    (
        "who waits no more is still looked after",
        "cost",
        "selfcalls/looks.py",
        "                self._asked.pop(found, None)\n",
        "",
        LOOKS + "test_who_waits_no_more_costs_no_look",
    ),
    (
        "a child waits for its parent's look",
        "fork",
        "selfcalls/looks.py",
        "    os.register_at_fork(after_in_child=_looks.__init__)  # type: ignore[misc]\n",
        "    pass\n",
        LOOKS + "test_a_forked_child_looks_by_itself",
    ),
]
