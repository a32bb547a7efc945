"""``manage.py sessionlock``: the command line, for the sessions that the settings name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError
from django.test import Client

from sessionlock.protocol.keys import keys_for

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("site")]


def run(*words: str) -> Any:
    command = load_command_class("sessionlock.integrations.django", "sessionlock")
    return command.run_from_argv(["manage.py", "sessionlock", *words])


def test_it_looks_at_the_projects_sessions(
    client: Client, holder: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Which Redis, and how values are written, is said by the settings alone."""
    sid = client.cookies["sessionid"].value
    with holder(sid), pytest.raises(SystemExit) as end:
        run("locks", "--json")
    assert end.value.code == 0
    [lock] = json.loads(capsys.readouterr().out)["locks"]
    assert lock["digest"] == keys_for("sl", sid).digest
    with pytest.raises(SystemExit):
        run("inspect", lock["digest"], "--keys")
    assert "version" in capsys.readouterr().out


def test_it_is_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    from django.conf import settings

    if "sessionlock.integrations.django" in settings.INSTALLED_APPS:
        assert get_commands()["sessionlock"] == "sessionlock.integrations.django"
    command = load_command_class("sessionlock.integrations.django", "sessionlock")
    call_command(command, "locks")
    assert "0 locks held" in capsys.readouterr().out
    with pytest.raises(CommandError):
        call_command(command, "inspect", "a" * 14)
