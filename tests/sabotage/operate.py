"""Protections of what operators see and do."""

from __future__ import annotations

from tests.sabotage import Table

LAYER = "tests/operate/test_operator.py::"
COMMANDS = "tests/cli/test_operators.py::"

SABOTAGE: Table = [
    (
        "what may not be read passes for nothing",
        "operate",
        "operate/shards.py",
        'if command[0] not in NICE_TO_KNOW and not str(answer).startswith("WRONGTYPE"):',
        "if False:",
        LAYER + "test_looking_needs_no_scripts_and_writes_nothing",
    ),
    (
        "what another node has passes for nothing",
        "operate",
        "operate/shards.py",
        "                        answer = await self._follow(command, answer)\n",
        "                        answer = NOT_TOLD\n",
        LAYER + "test_a_node_of_a_cluster_is_not_taken_for_all_of_it",
    ),
    (
        "a node that imports a slot is not asked as such",
        "operate",
        "operate/shards.py",
        '[("ASKING",), command] if asking else [command]',
        "[command]",
        LAYER + "test_what_a_slot_on_its_way_holds_is_seen",
    ),
    (
        "an operator lets its guard go",
        "operate",
        "operate/operator.py",
        "        made._guard = guard",
        "        made._guard = None",
        LAYER + "test_a_guard_that_nobody_else_keeps",
    ),
    (
        "who waits in the holder's process is not counted",
        "operate",
        "operate/told.py",
        "        return self.queue + (0 if self.holder is None else self.holder.riders)\n",
        "        return self.queue\n",
        COMMANDS + "test_who_waits_in_the_holders_process_is_counted",
    ),
    (
        "an empty URL is the next best one",
        "operate",
        "cli/address.py",
        "        if not value.strip():\n",
        "        if False:\n",
        COMMANDS + "test_an_empty_url_or_two_are_refused",
    ),
    (
        "of two URLs one is as good as the other",
        "operate",
        "cli/address.py",
        "    if len(given) > 1:\n",
        "    if False:\n",
        COMMANDS + "test_an_empty_url_or_two_are_refused",
    ),
    (
        "a key of another prefix is one of ours",
        "operate",
        "operate/reading.py",
        "match[2] not in (None, prefix)",
        "False",
        COMMANDS + "test_what_is_no_digest_is_not_quietly_an_id",
    ),
    (
        "a digest that was cut is quietly an id",
        "operate",
        "cli/operators/one.py",
        "    if arguments.id or operator.is_digest(said):\n",
        "    if True:\n",
        COMMANDS + "test_what_is_no_digest_is_not_quietly_an_id",
    ),
    (
        "a key of somebody else passes for a session's",
        "operate",
        "operate/reading.py",
        "    if NOT_TOLD in replies:\n        return None\n",
        "",
        LAYER + "test_nothing_of_another_application_is_taken_for_a_session",
    ),
    (
        "a search that ends early says that it has seen all",
        "operate",
        "operate/operator.py",
        "min(0.99, (before + min(looked_at, size)) / total)",
        "1.0",
        LAYER + "test_a_search_that_ends_early_tells_how_far_it_came",
    ),
    (
        "the store is asked who holds a lock of a quorum",
        "operate",
        "operate/operator.py",
        "        if quorum is not None:\n            calls",
        "        if False:\n            calls",
        LAYER + "test_a_quorums_locks_are_told_by_its_masters",
    ),
    (
        "the index of users is believed",
        "operate",
        "operate/operator.py",
        "if state.exists and state.user == digest",
        "if state.exists",
        LAYER + "test_a_stale_entry_of_the_index_is_nobodys_session",
    ),
    (
        "a lock is taken by force without a question",
        "operate",
        "cli/operators/one.py",
        "    if arguments.yes:\n",
        "    if True:\n",
        COMMANDS + "test_release_asks_or_compares",
    ),
    (
        "a command starts a private server to look into",
        "operate",
        "cli/address.py",
        "    if scheme in PRIVATE:\n",
        "    if False:\n",
        "tests/integrations/test_flask_commands.py::test_a_private_server_is_not_started_for_it[flask]",
    ),
    (
        "a broken connection that was kept is the end",
        "operate",
        "operate/shards.py",
        "            if not self._answered:\n                raise\n",
        "            raise\n",
        COMMANDS + "test_a_server_that_goes_away_ends_top_with_advice",
    ),
]
