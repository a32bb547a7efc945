"""``docs/cli.md`` shows what the commands print, and explains each name of their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessionlock.cli.operators.arguments import COMMANDS
from tests.cli.pages import BLOCK, commands_in, ran, scene, shape, shown

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.anyio
async def test_outputs_are_what_the_commands_print(tcp_url: str) -> None:
    """But for numbers and tokens: ``python -m tests.cli.pages docs/cli.md`` writes them anew."""
    printed = await shown(commands_in(TEXT), tcp_url)
    for match in BLOCK.finditer(TEXT):
        command = match["command"]
        assert shape(match["text"]) == shape(f"$ {command}\n{printed[command]}"), command


@pytest.mark.anyio
async def test_every_name_in_json_is_explained(tcp_url: str) -> None:
    section = TEXT.partition("## JSON")[2]
    async with scene(tcp_url):
        for words in ("locks", "top --once", "sessions", "sessions --user ada", "inspect visitor-1 --keys"):
            printed = json.loads(await anyio.to_thread.run_sync(ran, f"sessionlock {words} --json", tcp_url))
            assert {name for name in _names(printed) if f"`{name}`" not in section} == set()


def test_every_command_and_option_is_in_it() -> None:
    assert all(f"`{name}`" in TEXT for name in COMMANDS)
    for option in ("--url-file", "--prefix", "--json", "--limit", "--queues", "--every", "--yes", "--token", "--id"):
        assert option in TEXT


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
