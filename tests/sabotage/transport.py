"""Protections of connections, of pushes and of what is sent again; and of the look at every server."""

from __future__ import annotations

from tests.sabotage import Table

URLS = "tests/test_urls.py::"
CLIENTS = "tests/transport/test_clients.py::"
TASKS = "tests/transport/test_tasks.py::"
PUSHES = "tests/faults/test_lost_pushes.py::"
SCRIPTS = "tests/faults/test_scripts_and_forks.py::"
REPEATED = "tests/session/test_durability.py::test_a_repeated_save_is_judged_as_well"
CHECKUP = "tests/checkup/test_checkup.py::"
SILENT = "tests/faults/test_silent_pushes.py::"
HEARING = "tests/transport/test_pushes.py::"
MISHAPS = "tests/faults/test_quorum_mishaps.py::"

SABOTAGE: Table = [
    (
        "a Sentinel is made anew from what is known of redis-py's",
        "settings",
        "transport/clients.py",
        "    own = copy.copy(manager)\n",
        "    own = Sentinel([], min_other_sentinels=manager.min_other_sentinels)\n",
        (
            CLIENTS + "test_whatever_the_client_is",
            CLIENTS + "test_a_forced_address_is_where_the_guard_connects",
            CLIENTS + "test_a_copy_of_a_sentinel_has_all_that_it_has",
        ),
    ),
    (
        "a Sentinel's connections are shared between event loops",
        "settings",
        "transport/clients.py",
        "[own_client(asked) for asked in manager.sentinels]",
        "list(manager.sentinels)",
        CLIENTS + "test_a_copy_of_a_sentinel_has_all_that_it_has",
    ),
    (
        "a pool's condition is shared between event loops",
        "settings",
        "transport/clients.py",
        "    vars(own).update(fresh, _available",
        "    vars(own).update(_available",
        CLIENTS + "test_a_copy_of_a_pool_waits_in_its_own_loop",
    ),
    (
        "a cluster is made anew from what is known of redis-py's",
        "settings",
        "transport/clients.py",
        "known[name] != parameter.default:",
        "name in client.connection_kwargs:",
        CLIENTS + "test_a_cluster_has_all_that_it_has",
    ),
    (
        "an URL that may hold a password is shown",
        "secrets",
        "urls.py",
        "    if given.doubtful or not name.isidentifier():\n",
        "    if False:\n",
        URLS + "test_a_password_that_is_not_escaped_is_not_shown",
    ),
    (
        "a cluster takes fewer options than its connections",
        "urls",
        "urls.py",
        "        node.connection_kwargs.update(more)\n",
        "",
        (
            URLS + "test_an_option_counts_in_every_scheme",
            URLS + "test_an_option_of_tls_counts_in_every_scheme",
        ),
    ),
    (
        "a limit of time as asyncio had it",
        "cancellation",
        "transport/tasks.py",
        "    task = asyncio.ensure_future(work)\n    task.add_done_callback(fetch_error)\n    try:\n",
        "    return await asyncio.wait_for(work, seconds)\n    task = asyncio.ensure_future(work)\n    try:\n",
        (
            TASKS + "test_a_cancellation_in_the_moment_of_the_end_counts",
            TASKS + "test_a_failure_while_it_is_cancelled_is_nobodys_surprise",
        ),
    ),
    (
        "each event loop looks at the server",
        "capabilities",
        "checkup/capabilities.py",
        "        _known[self._key] = (monotonic(), found)\n",
        "",
        CHECKUP + "test_once_for_all_event_loops",
    ),
    (
        "several look at a server at a time",
        "capabilities",
        "checkup/capabilities.py",
        "        _begun[self._key] = now\n",
        "        _begun[self._key] = now - BEGUN_FOR\n",
        "tests/checkup/test_capabilities.py::test_only_one_looks_at_a_time",
    ),
    (
        "waiters do not look when their connection ends",
        14,
        "transport/pushes.py",
        "            self._drop()\n            self._on_gap()\n",
        "            self._drop()\n",
        (
            PUSHES + "test_the_push_connection_is_killed",
            PUSHES + "test_killed_with_the_grant_in_it",
        ),
    ),
    (
        "silence on a connection for pushes is taken for health",
        "pushes",
        "transport/pushes.py",
        "        if self._timer is None:\n            self._next()\n",
        "",
        (
            SILENT + "test_it_died_while_nobody_waited",
            SILENT + "test_it_dies_while_somebody_waits",
            SILENT + "test_everybody_behind_it_has_a_turn",
            SILENT + "test_in_a_cluster_while_somebody_waits",
        ),
    ),
    (
        "a subscription may be unanswered on a connection that lives on",
        "pushes",
        "transport/cluster_pushes.py",
        'shard.wire.tell(("SSUBSCRIBE", channel), within=PROVEN_WITHIN)',
        'shard.wire.tell(("SSUBSCRIBE", channel))',
        SILENT + "test_in_a_cluster",
    ),
    (
        "a replica of a cluster is subscribed to",
        "cluster",
        "transport/cluster_pushes.py",
        '            await at_a_master(wire.call(("ROLE",)))\n',
        "            pass\n",
        "tests/transport/test_cluster_pushes.py::test_a_replica_is_not_subscribed_to",
    ),
    (
        "a subscription stays where the slot was",
        "cluster",
        "transport/cluster_pushes.py",
        "if self._route.map.owner(slot_of_name(channel)) not in (None, address):",
        "if False:",
        "tests/transport/test_cluster_pushes.py::test_it_moves_to_where_the_slot_is_served",
    ),
    (
        "a connection for pushes is looked at once in a wait",
        "pushes",
        "transport/pushes.py",
        "        self._timer = loop.call_later(PROVEN_EVERY, self._next, context=Context())\n",
        "        self._timer = loop.call_later(60, self._next, context=Context())\n",
        SILENT + "test_it_dies_while_somebody_waits",
    ),
    (
        "a grant that was not pushed says nothing of the pushes",
        "pushes",
        "lock/acquire.py",
        "if was_missed(outcome):",
        "if False:",
        SILENT + "test_a_grant_that_was_not_pushed_casts_doubt_on_it",
    ),
    (
        "looks at the connection for pushes never end",
        "pushes",
        "lock/waiting.py",
        "            self._rounds.end()\n",
        "            pass\n",
        SILENT + "test_nobody_is_asked_while_nobody_waits",
    ),
    (
        "pushes are listened to at a replica",
        "pushes",
        "transport/pushes.py",
        '    if isinstance(told, list) and told[0] != b"master":\n',
        "    if False:\n",
        HEARING + "test_a_replica_is_not_listened_to",
    ),
    (
        "pushes are listened to where they were once",
        "pushes",
        "transport/pushes.py",
        "if self._calls_go_to() not in (None, ear.at):",
        "if False:",
        (HEARING + "test_it_follows_the_calls", HEARING + "test_a_master_that_has_become_a_replica_is_left"),
    ),
    (
        "a server that has become a replica is the same server",
        "pushes",
        "transport/link.py",
        "        self._dropped += 1\n",
        "",
        HEARING + "test_a_master_that_has_become_a_replica_is_left",
    ),
    (
        "NOSCRIPT is an error like another",
        20,
        "transport/link.py",
        'if str(reply).startswith("NOSCRIPT"):',
        "if False:",
        (
            SCRIPTS + "test_scripts_are_forgotten_before_every_call",
            SCRIPTS + "test_scripts_are_forgotten_amid_a_pipeline",
            SCRIPTS + "test_scripts_are_forgotten_all_the_time",
        ),
    ),
    (
        "NOSCRIPT is an error like another, through the client",
        20,
        "transport/fake.py",
        "except NoScriptError as error:",
        "except ZeroDivisionError as error:",
        SCRIPTS + "test_scripts_are_forgotten_behind_a_client_of_another_kind",
    ),
    (
        "a child keeps its parent's connections open",
        21,
        "transport/wire.py",
        "os.register_at_fork(after_in_child=_let_go_after_fork)",
        "pass",
        SCRIPTS + "test_a_parent_that_dies_before_its_child",
    ),
    (
        "a repeated save does not wait again",
        "durability",
        "transport/executor.py",
        "if not call.writes_again:",
        "if False:",
        (REPEATED + "[release]", REPEATED + "[save]", REPEATED + "[commit]", REPEATED + "[create]"),
        "valkey91",  # on Redis 7.0 the tests pass all the same
    ),
    (
        "a server without RESP3 is asked again and again",
        "capabilities",
        "transport/outages.py",
        "hopeless = isinstance(error, AuthenticationError) or NO_RESP3.search(str(error))",
        "hopeless = isinstance(error, AuthenticationError)",
        CHECKUP + "test_a_client_that_insists_on_resp3",
    ),
    (
        "a gap is told to whoever subscribed only",
        "cluster",
        "transport/cluster_pushes.py",
        "        self._on_gap()  # whoever could not be reached has been dropped from the queue\n\n    def no_more",
        "\n    def no_more",
        "tests/transport/test_shard_channels.py::test_somebody_else_wants_it_when_it_is_confirmed",
    ),
    (
        "an earlier try is forgotten when there is no connection any more",
        "connection",
        "transport/executor.py",
        "            self.last = error\n            self.sent = self.sent or not was_unsent(error)\n",
        "            self.last = error\n            self.sent = not was_unsent(error)\n",
        "tests/faults/test_lost_replies.py::test_what_was_sent_once",
    ),
    (
        "one master of a cluster speaks for all",
        "capabilities",
        "checkup/targets.py",
        "if isinstance(route, ClusterRoute):",
        "if False:",
        CHECKUP + "test_every_master_of_a_cluster",
    ),
    (
        "who leaves while it subscribes stays subscribed",
        "cluster",
        "transport/cluster_pushes.py",
        'shard.wire.tell(("SUNSUBSCRIBE", channel))  # who asked for it left meanwhile',
        "pass",
        "tests/transport/test_cluster_pushes.py::test_who_is_cancelled_while_it_subscribes",
    ),
    (
        "closing cancels whoever subscribes",
        "quorum",
        "transport/pushes.py",
        "        await asyncio.wait([starting], timeout=within)\n",
        "        await asyncio.shield(starting)\n",
        MISHAPS + "test_closed_with_locks_held_and_waited_for",
    ),
]
