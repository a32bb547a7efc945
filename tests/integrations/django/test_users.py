"""Whose a session is: a login binds it, by Django's own key of the user."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth import login
from django.http import HttpRequest
from django.test import AsyncClient, Client

from sessionlock.blocking import SessionGuard
from sessionlock.protocol.keys import keys_for
from tests.harness.django_site.calls import sid_of

pytestmark = [pytest.mark.usefixtures("site"), pytest.mark.anyio]


def _theirs(url: str, user: str) -> list[str]:
    with SessionGuard.from_url(url) as guard:
        return [found.name for found in guard.sessions_of(user)]


def _digest(client: Any) -> str:
    return keys_for("sl", sid_of(client)).digest


def test_a_login_binds_its_session(redis_url: str, client: Client) -> None:
    client.post("/login/ada")
    assert _theirs(redis_url, "1") == [_digest(client)]
    client.post("/login/bob")  # another user: another session
    assert _theirs(redis_url, "1") == []
    assert _theirs(redis_url, "2") == [_digest(client)]
    client.post("/logout")
    assert _theirs(redis_url, "2") == []


def test_who_had_no_session_before(redis_url: str) -> None:
    visitor = Client()
    visitor.post("/login/ada")
    assert _theirs(redis_url, "1") == [_digest(visitor)]


async def test_an_async_login(redis_url: str) -> None:
    visitor = AsyncClient()
    await visitor.post("/alogin/ada")
    assert await asyncio.to_thread(_theirs, redis_url, "1") == [_digest(visitor)]


def test_a_login_without_the_middleware(redis_url: str) -> None:
    """As ``force_login`` of Django's test client does it."""
    from sessionlock.integrations.django import SessionStore
    from tests.harness.django_site.people import person

    request = HttpRequest()
    request.session = SessionStore()
    login(request, person(1), backend="tests.harness.django_site.people.Backend")
    request.session.save()
    assert len(_theirs(redis_url, "1")) == 1


def test_everywhere_is_everywhere(redis_url: str) -> None:
    browsers = [Client() for _ in range(3)]
    for browser in browsers:
        browser.post("/login/ada")
    with SessionGuard.from_url(redis_url) as guard:
        assert guard.destroy_all("1") == 3
    assert {browser.get("/who").content for browser in browsers} == {Client().get("/who").content}
