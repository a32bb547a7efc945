"""Protections of an application that calls itself."""

from __future__ import annotations

from tests.sabotage import Table

SELF = "tests/selfcalls/test_check.py::"
PEERS = "tests/selfcalls/test_sockets.py::"

SABOTAGE: Table = [
    (
        "who calls itself waits for itself",
        "self-call",
        "selfcalls/check.py",
        "if await _found_out(lambda: is_on_this_host(peer) and is_of_process(peer, pid)):\n",
        "if False:\n",
        (
            SELF + "test_held_by_this_process",
            SELF + "test_a_decorated_view",
            SELF + "test_a_decorated_view_in_a_thread",
        ),
    ),
    (
        "the look-up waits for a thread that a self-call occupies",
        "self-call",
        "selfcalls/check.py",
        'threading.Thread(target=run, name="sessionlock-self-call", daemon=True).start()',
        "loop.run_in_executor(None, run)",
        SELF + "test_while_all_threads_wait",
    ),
    (
        "an error of the look-up ends the request",
        "self-call",
        "selfcalls/check.py",
        ("with suppress(Exception):\n", "except Exception:\n        return None\n"),
        ("with suppress(ValueError):\n", "except ValueError:\n        return None\n"),
        SELF + "test_what_goes_wrong_while_it_is_found_out",
    ),
    (
        "everything on this host is taken for the holder",
        "self-call",
        "selfcalls/sockets.py",
        "return _has(pid, theirs)",
        "return True",
        (PEERS + "test_a_socket_of_another_process", PEERS + "test_a_port_that_is_in_use_towards_two_servers"),
    ),
    (
        "any connection from the client's port is taken for the request's",
        "self-call",
        "selfcalls/sockets.py",
        "            if _has(os.getpid(), ours):\n                return _has(pid, theirs)\n",
        "            if _has(pid, theirs):\n                return True\n",
        PEERS + "test_a_port_that_is_in_use_towards_two_servers",
    ),
    (
        "whoever holds later is taken for whom the wait began for",
        "self-call",
        "selfcalls/check.py",
        "    if token is not None and held_by_us(request.keys, holder.label) != token:\n",
        "    if False:\n",
        SELF + "test_short_holds_of_this_process",
    ),
]
