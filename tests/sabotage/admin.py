"""Protections of the admin page."""

from __future__ import annotations

from tests.sabotage import Table

SITE = "tests/admin/test_site.py::"

SABOTAGE: Table = [
    (
        "anybody may look at the admin page",
        "admin",
        "admin/site.py",
        '        if asked.access not in (True, "locks", "look", "act"):\n',
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
    (
        "a form without Sec-Fetch-Site may come from another host",
        "admin",
        "admin/site.py",
        '        if "sec-fetch-site" not in asked.headers and not _is_own(asked.headers):\n',
        "        if False:\n",
        SITE + "test_forms_of_other_sites",
    ),
    (
        "who may see locks sees values",
        "admin",
        "admin/site.py",
        '            if asked.access == "locks":\n',
        "            if False:\n",
        SITE + "test_who_may_see_no_values",
    ),
    (
        "another cookie hides the page's",
        "admin",
        "admin/faces.py",
        '    pairs = (part.partition("=") for part in header.split(";"))\n',
        '    pairs = (part.partition("=") for part in header.split(";")[:1])\n',
        SITE + "test_other_cookies_of_the_host",
    ),
    (
        "what was done is not told",
        "admin",
        "admin/site.py",
        "        self._was_done = done\n",
        "        pass\n",
        SITE + "test_who_did_what_is_told",
    ),
    (
        "all values are fetched to show their sizes",
        "operate",
        "operate/operator.py",
        '        sizes = await shard.ask([("HSTRLEN", keys.session, name) for _, name in shown])\n',
        '        sizes = list(map(len, await shard.ask([("HGET", keys.session, name) for _, name in shown])))\n',
        SITE + "test_looking_fetches_no_values",
    ),
    (
        "staff of Django's admin see values without a permission",
        "admin",
        "integrations/django/admin.py",
        '    if not may("sessions.view_session"):\n',
        "    if False:\n",
        "tests/integrations/django/test_admin.py::test_values_need_a_permission",
    ),
    (
        "a login in Django binds its session to nobody",
        "django",
        "integrations/django/sitting.py",
        "                await guard.bind(key, user)\n",
        "                pass\n",
        "tests/integrations/django/test_users.py::test_a_login_binds_its_session",
    ),
    (
        "where Litestar mounts the page is not looked for",
        "admin",
        "admin/faces.py",
        "        if cut != whole or not path:\n",
        "        if False:\n",
        "tests/admin/test_mounts.py::test_links_and_forms_lead_back",
    ),
]
