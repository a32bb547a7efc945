"""What the tests ask of the site's views and of its visitors."""

from __future__ import annotations

from django.test import AsyncClient, Client

from sessionlock.blocking import SessionGuard as BlockingGuard

__all__ = ["entered", "go_on", "held", "sid_of", "twin_of"]


def go_on() -> None:
    """Let the view that waits for it end."""
    from tests.harness.django_site import urls

    urls.go_on.set()


def entered() -> None:
    """Wait until that view has begun."""
    from tests.harness.django_site import urls

    assert urls.entered.wait(10)


def sid_of(client: Client | AsyncClient) -> str:
    return str(client.cookies["sessionid"].value)


def twin_of(client: Client) -> Client:
    """Another tab of the same browser."""
    other = Client()
    other.cookies["sessionid"] = sid_of(client)
    return other


def held(url: str, sid: str) -> bool:
    with BlockingGuard.from_url(url) as guard:
        return guard.inspect(sid).holder is not None
