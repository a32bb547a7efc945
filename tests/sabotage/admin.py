"""Protections of the admin page."""

from __future__ import annotations

from tests.sabotage import Table

SITE = "tests/admin/test_site.py::"

SABOTAGE: Table = [
    (
        "anybody may look at the admin page",
        "admin",
        "admin/site.py",
        '        if asked.access not in (True, "look", "act"):\n',
        "        if False:\n",
        SITE + "test_who_may_not_look",
    ),
    (
        "who may look may also act",
        "admin",
        "admin/site.py",
        '        if asked.access != "act":\n',
        "        if False:\n",
        SITE + "test_who_may_only_look",
    ),
    (
        "a form needs no token of the page",
        "admin",
        "admin/site.py",
        "        if asked.forms_are_ours and not hmac.compare_digest(given.encode(), token.encode()):\n",
        "        if False:\n",
        SITE + "test_forms_of_other_sites",
    ),
    (
        "another site may send a form of the page",
        "admin",
        "admin/site.py",
        '        if asked.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):\n',
        "        if False:\n",
        SITE + "test_forms_of_other_sites",
    ),
    (
        "what is shown is not escaped",
        "admin",
        "admin/html.py",
        '    return escape(" ".join(part for part in (node, route) if part) or "another client")\n',
        '    return " ".join(part for part in (node, route) if part) or "another client"\n',
        SITE + "test_held_locks_and_queues",
    ),
]
