"""Take each protection out of the package, one at a time, and see that the tests notice.

``python -m tests.sabotage [name ...]`` (``--list`` shows the names). Every entry of the tables beside this file says
which protection it removes and which tests must fail without it. The package is copied, changed in that one place,
and the named tests run against the copy. "Caught" means: each named test failed in its body; not at collection, not in
a fixture, not because the changed package cannot do anything at all (it still runs an undisturbed cycle), and not
because it fails anyway (all of them pass on an unchanged copy first). Ends with status 1 when an entry is not caught.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sessionlock"
TABLES = (
    "protocol_lock",
    "protocol_session",
    "lock",
    "by_hand",
    "session",
    "quorum",
    "transport",
    "observe",
    "admin",
    "operate",
    "checkup",
    "selfcalls",
    "views",
    "web",
    "asgi",
    "django",
    "flask",
    "quart",
    "settings",
    "audit",
)
WITHIN = 60.0  # seconds for the tests of one entry


class Sabotage(NamedTuple):
    """One line of a table: a protection and the tests that show it."""

    name: str
    attack: int | str
    file: str
    """Inside the package, e.g. ``lua/release.lua``, or a pattern such as ``lua/_*.lua``."""
    old: str | Sequence[str]
    """Exact text, found exactly once in these files; or several."""
    new: str | Sequence[str]
    """What stands there instead; as many as ``old``."""
    tests: str | Sequence[str]
    """Node ids below the repository's root; of a parametrized test named without brackets one case must fail."""
    server: str = ""
    """By its name (``python -m tests.servers list``), where the sabotage shows itself on that server only."""

    @property
    def node_ids(self) -> tuple[str, ...]:
        return _several(self.tests)

    @property
    def edits(self) -> list[tuple[str, str]]:
        return list(zip(_several(self.old), _several(self.new), strict=True))


def _several(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


class Mistake(Exception):
    """An entry that cannot be judged: its text is not there, its tests do not exist, its copy does not run."""


# Loaded into the test run from the copy's folder: makes sure of what is tested, and writes down what happened.
PROBE = """
import json, os, pathlib
import pytest
import {package}

HERE = pathlib.Path(__file__).resolve().parent
WANTED = json.loads(os.environ["SABOTAGE_TESTS"])
ONE_CASE = os.environ["SABOTAGE_ONE_CASE"] == "yes"
OUTCOMES = {{}}
FAILED = set()


def pytest_configure(config):
    found = pathlib.Path({package}.__file__).resolve()
    if HERE not in found.parents:
        raise pytest.UsageError(f"the sabotaged copy is not what is imported, but {{found}}")


def pytest_runtest_setup(item):
    # One failing case of a parametrized test is enough, unless a case was asked for by name.
    if item.nodeid not in WANTED and item.nodeid.partition("[")[0] in FAILED and ONE_CASE:
        pytest.skip("another case of it failed")


def pytest_runtest_logreport(report):
    told = OUTCOMES.setdefault(report.nodeid, {{}})
    if report.failed and report.when == "call":
        FAILED.add(report.nodeid.partition("[")[0])
    told[report.when] = report.outcome
    if report.failed:
        said = getattr(getattr(report.longrepr, "reprcrash", None), "message", None) or str(report.longrepr)
        told["why"] = said.strip().splitlines()[0][:160]


def pytest_sessionfinish():
    (HERE / "outcomes.json").write_text(json.dumps(OUTCOMES))
"""

# An undisturbed cycle, and every script loads: what does not even do this is broken, not sabotaged.
SMOKE = """
import asyncio, contextlib, pathlib, sys
import {package}
from {package}.embedded import EmbeddedServer
from {package}.protocol.scripts import LIBRARY, script

assert pathlib.Path(sys.argv[1]) in pathlib.Path({package}.__file__).resolve().parents, {package}.__file__


async def cycle(url):
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(url) as client:
        for path in (pathlib.Path({package}.__file__).parent / "protocol" / "lua").glob("[!_]*.lua"):
            await client.script_load(script(path.stem).text)
        with contextlib.suppress(redis.exceptions.ResponseError):  # before Redis 7.0
            await client.function_load(LIBRARY)
    async with {package}.SessionGuard.from_url(url, retry_for=0.5) as guard:
        for expected in range(2):
            async with guard.session_lock("smoke") as session:
                assert session.get("n", 0) == expected, dict(session)
                session["n"] = expected + 1


with EmbeddedServer() as server:
    asyncio.run(asyncio.wait_for(cycle(server.url), 10))
"""


@contextmanager
def copied() -> Iterator[Path]:
    """A folder that holds a copy of the package and the probe."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PACKAGE}-sabotage-")).resolve()
    try:
        shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "sabotage_probe.py").write_text(PROBE.format(package=PACKAGE))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mutate(folder: Path, entry: Sabotage) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((folder / PACKAGE).glob(entry.file))}
    if not texts:
        raise Mistake(f"there is no file {PACKAGE}/{entry.file}")
    for old, new in entry.edits:
        found = sum(text.count(old) for text in texts.values())
        if found != 1:
            raise Mistake(f"this text stands {found} times in {PACKAGE}/{entry.file}, not once:\n{old}")
        if old == new:
            raise Mistake(f"old and new text are the same:\n{old}")
        texts = {path: text.replace(old, new) for path, text in texts.items()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def run(
    command: Sequence[str], folder: Path, within: float, environment: dict[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit status (None: not within that time) and output; the copy comes first on the path, also for children."""
    path = os.pathsep.join((str(folder), str(ROOT)))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=within)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        return None, _end(process)
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[str]) -> str:
    """Kill it with all that it started; what it had said."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def smoke(folder: Path) -> None:
    command = [sys.executable, "-c", SMOKE.format(package=PACKAGE), str(folder)]
    status, said = run(command, folder, 20)
    if status != 0:
        raise Mistake(f"the changed package cannot do an undisturbed cycle:\n{said[-1500:]}")


Outcomes = dict[str, dict[str, Any]]


def run_tests(
    folder: Path, node_ids: Sequence[str], within: float, *, server: str = "", one_case: bool = False
) -> Outcomes:
    """What happened to each collected test, by phase. ``one_case``: skip a test's other cases when one has failed."""
    config = ["-c", str(ROOT / "setup.cfg"), "--rootdir", str(ROOT)]
    flags = ["-p", "sabotage_probe", "-p", "no:cacheprovider", "-q", "--tb=short"]
    wanted = [str(ROOT / node_id) for node_id in node_ids]
    command = [sys.executable, "-m", "pytest", *config, *flags, *wanted]
    told = {"SABOTAGE_TESTS": json.dumps(list(node_ids)), "SABOTAGE_ONE_CASE": "yes" if one_case else "no"}
    if server:
        told["SESSIONLOCK_TEST_SERVER"] = server
    status, said = run(command, folder, within, told)
    if status is None:
        raise Mistake(f"the tests did not end within {within:g} s; each needs a deadline of its own:\n{said[-1500:]}")
    report = folder / "outcomes.json"
    if status not in (0, 1) or not report.is_file():
        raise Mistake(f"the tests could not be run (pytest's status {status}):\n{said[-1500:]}")
    outcomes: Outcomes = json.loads(report.read_text())
    return outcomes


def cases(outcomes: Outcomes, node_id: str) -> list[dict[str, Any]]:
    found = [
        told for name, told in outcomes.items() if name == node_id or name.startswith((f"{node_id}[", f"{node_id}::"))
    ]
    if not found:
        raise Mistake(f"there is no test {node_id}")
    return found


def judge(entry: Sabotage) -> list[str]:
    """Why each test failed, in the order of ``entry.node_ids``; "" for one that did not."""
    with copied() as folder:
        mutate(folder, entry)
        smoke(folder)
        outcomes = run_tests(folder, entry.node_ids, WITHIN, server=entry.server, one_case=True)
    reasons = []
    for node_id in entry.node_ids:
        failed = [told["why"] for told in cases(outcomes, node_id) if told.get("call") == "failed"]
        reasons.append(failed[0] if failed else "")
    return reasons


def failing_anyway(entries: Iterable[Sabotage]) -> set[str]:
    """The named tests that do not pass on an unchanged copy."""
    by_server: dict[str, set[str]] = {}
    for entry in entries:
        by_server.setdefault(entry.server, set()).update(entry.node_ids)
    bad = set()
    for server, node_ids in by_server.items():
        with copied() as folder:
            smoke(folder)
            outcomes = run_tests(folder, sorted(node_ids), WITHIN + 10 * len(node_ids), server=server)
        for node_id in node_ids:
            for told in cases(outcomes, node_id):
                if "failed" in (told.get("setup"), told.get("call"), told.get("teardown")):
                    bad.add(node_id)
    return bad


def tables() -> list[Sabotage]:
    entries = []
    for name in TABLES:
        table = importlib.import_module(f"{__package__}.{name}")
        entries += [Sabotage(*words) for words in table.SABOTAGE]
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Mistake(f"names that stand twice: {', '.join(twice)}")
    return entries


def chosen(entries: list[Sabotage], names: Sequence[str]) -> list[Sabotage]:
    unknown = sorted(set(names) - {entry.name for entry in entries} - {str(entry.attack) for entry in entries})
    if unknown:
        raise Mistake(f"no such entry: {', '.join(unknown)} (--list shows all)")
    return [entry for entry in entries if not names or entry.name in names or str(entry.attack) in names]


def report(entry: Sabotage, bad: set[str]) -> bool:
    """Judge one entry and print its line; whether it was caught."""
    began = time.monotonic()
    remarks: list[str] = []
    try:
        anyway = [node_id for node_id in entry.node_ids if node_id in bad]
        reasons = judge(entry)
        remarks += [f"fails without sabotage, too: {node_id}" for node_id in anyway]
        remarks += [
            f"passes all the same: {node_id}"
            for node_id, reason in zip(entry.node_ids, reasons, strict=True)
            if not reason
        ]
    except Mistake as mistake:
        remarks.append(str(mistake))
    verdict = "NOT CAUGHT" if remarks else "caught"
    print(f"{verdict:10}  {time.monotonic() - began:5.1f} s  attack {entry.attack!s:>3}  {entry.name}", flush=True)
    for line in remarks or (f"{reason}" for reason in reasons):
        print("            " + line.replace("\n", "\n            "), flush=True)
    return not remarks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="entries, or numbers of attacks; default: all")
    parser.add_argument("--list", action="store_true", help="print the entries and do nothing")
    parser.add_argument("--no-baseline", action="store_true", help="trust that the tests pass without sabotage")
    options = parser.parse_args(arguments)
    try:
        entries = chosen(tables(), options.names)
        if options.list:
            for entry in entries:
                print(f"attack {entry.attack!s:>3}  {entry.name}  ({entry.file})")
            return 0
        bad = set() if options.no_baseline else failing_anyway(entries)
    except Mistake as mistake:
        print(f"sabotage: {mistake}", file=sys.stderr)
        return 2
    began = time.monotonic()
    caught = sum([report(entry, bad) for entry in entries])
    print(f"{caught} of {len(entries)} caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(entries) else 1
