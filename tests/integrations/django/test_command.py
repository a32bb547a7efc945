"""``manage.py sessionlock``: the command line, for the sessions that the settings name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError
from django.test import Client

from sessionlock import Quorum
from sessionlock.integrations.django import settings as lock_settings
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
    if "sessionlock.integrations.django" in settings.INSTALLED_APPS:
        assert get_commands()["sessionlock"] == "sessionlock.integrations.django"
    command = load_command_class("sessionlock.integrations.django", "sessionlock")
    call_command(command, "locks")
    assert "0 locks held" in capsys.readouterr().out
    with pytest.raises(CommandError):
        call_command(command, "inspect", "a" * 14)


def test_it_acts(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    digest = keys_for("sl", client.cookies["sessionid"].value).digest
    for words, status, said in (
        (("release", digest, "--token", "nobody's"), 1, "does not hold the lock"),
        (("logout", digest, "--yes"), 0, "ended"),
        (("logout", digest, "--yes"), 1, "no such session"),
    ):
        with pytest.raises(SystemExit) as end:
            run(*words)
        assert end.value.code == status, words
        assert said in "".join(capsys.readouterr())


def test_doctor_looks_at_what_the_project_uses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prefix, also in the rules of ``--acl``; and the masters of its quorum."""
    monkeypatch.setattr(settings, "SESSION_LOCK_OPTIONS", {"prefix": "shop"}, raising=False)
    lock_settings.read_again()
    with pytest.raises(SystemExit):
        run("doctor", "--acl")
    assert "~shop:* " in (rules := capsys.readouterr().out)
    assert "~sl:" not in rules
    quorum = Quorum(*(f"redis://127.0.0.1:{port}/0" for port in (1, 2, 3)))
    monkeypatch.setattr(settings, "SESSION_LOCK_OPTIONS", {"quorum": quorum}, raising=False)
    lock_settings.read_again()
    try:
        with pytest.raises(SystemExit) as end:
            run("doctor", "--probe")
    finally:
        monkeypatch.undo()
        lock_settings.read_again()
    assert end.value.code == 2
    assert "nobody listens" in capsys.readouterr().out


def test_what_every_command_of_django_takes_is_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the word and behind it; by ``call_command``, too, whose words may be options of ours."""
    monkeypatch.setenv("NO_COLOR", "")
    theirs = ("--settings=of.mine", "--pythonpath", "/srv", "--traceback", "--no-color", "-v2", "--skip-checks")
    for words in ((*theirs, "locks"), ("locks", *theirs), ("--settings", "of.mine", "locks", "--json")):
        with pytest.raises(SystemExit) as end:
            run(*words)
        assert end.value.code == 0, words
        assert "held" in capsys.readouterr().out
    command = load_command_class("sessionlock.integrations.django", "sessionlock")
    call_command(command, "locks", "--limit", "3", "--json")
    assert json.loads(capsys.readouterr().out)["held"] == 0
    command.print_help("manage.py", "sessionlock")
    assert "logout" in capsys.readouterr().out
