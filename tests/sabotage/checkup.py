"""Protections of what is found out about a server, and of what follows where servers refuse something."""

from __future__ import annotations

from tests.sabotage import Table

FLAVOURS = "tests/servers/test_flavours.py::"
HANDS_OVER = FLAVOURS + "test_locks_hand_over_and_large_saves"
REFUSED = FLAVOURS + "test_locks_are_refused_by_name"
DOCTORS = FLAVOURS + "test_doctor"

SABOTAGE: Table = [
    (
        "leases of several slots are renewed together, whatever a proxy says",
        "flavours",
        "transport/one_server.py",
        "return slot_of(keys) if self._is_split else None",
        "return None",
        FLAVOURS + "test_leases_are_renewed_slot_by_slot_where_a_proxy_wants_it",
    ),
    (
        "many changes are more words than the server takes",
        "flavours",
        "protocol/changes.py",
        "MOST_APART = 500",
        "MOST_APART = 50_000",
        HANDS_OVER + "[elasticache-serverless]",
    ),
    (
        "several masters pass for one",
        "flavours",
        "checkup/rules.py",
        "    if found.several_masters:\n",
        "    if False:\n",
        (REFUSED + "[redis-active-active]", REFUSED + "[keydb-active-replica]"),
    ),
    (
        "what Kvrocks calls itself is believed",
        "flavours",
        "checkup/probe.py",
        ', "garnet", "kvrocks"):',
        ', "garnet"):',
        DOCTORS + "[kvrocks]",
    ),
    (
        "a refusal that does not name its command is no refusal of functions",
        "flavours",
        "transport/advice.py",
        'permission|{_REFUSED})|{_UNNAMED}"',
        'permission|{_REFUSED})"',
        HANDS_OVER + "[garnet]",
    ),
    (
        "other vendors' words for a refusal are not understood",
        "flavours",
        "transport/advice.py",
        "unknown|unsupported|permission|{_REFUSED})|",
        "unknown|unsupported|permission)|",
        HANDS_OVER + "[upstash]",
    ),
    (
        "what is hidden passes for fine",
        "unknown",
        "checkup/rules.py",
        "    if not hidden or found.server",
        "    if True or found.server",
        (DOCTORS + "[elasticache]", "tests/cli/test_doctor.py::test_what_an_acl_hides_is_listed"),
    ),
    (
        "a replica is ready",
        "probe",
        "cli/readiness.py",
        'if finding.level == "refuse" or finding.code in NO_WRITES]',
        "if finding.code in NO_WRITES]",
        "tests/cli/test_readiness.py::test_not_ready",
    ),
    (
        "who may not see is told that all is well",
        "probe",
        "cli/readiness.py",
        "    if found.role is None:\n",
        "    if False:\n",
        "tests/cli/test_readiness.py::test_who_may_not_see_is_not_told_that_all_is_well",
    ),
    (
        "the ACL rule lacks what scripts call",
        "acl",
        "checkup/permissions.py",
        '"hstrlen", "pexpire"',
        '"pexpire"',
        "tests/checkup/test_permissions.py::test_the_rule_is_enough",
    ),
    (
        "the ACL rule permits what is not needed",
        "acl",
        "checkup/permissions.py",
        '("ping", "role")',
        '("ping", "role", "flushall")',
        "tests/checkup/test_permissions.py::test_nothing_of_it_can_be_left_out",
    ),
    (
        "a quorum is asked whether it is ready by names that nobody permitted",
        "acl",
        "quorum/router.py",
        "keys_for(self.masters.prefix, new_sid())",
        'keys_for("ready", new_sid())',
        "tests/checkup/test_permissions.py::test_of_a_quorum",
    ),
    (
        "a terminal that has ASCII only gets more",
        "terminal",
        "cli/doctor.py",
        "print(spelled(page, sys.stdout))",
        "print(page)",
        "tests/cli/test_doctor.py::test_narrow_ascii_and_coloured",
    ),
]
