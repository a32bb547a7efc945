"""What ``sessionlock doctor`` has seen, and how it is told: as a page for people, or as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..checkup.findings import Capabilities, Finding, without_locks
from ..checkup.settings import findings_among
from .failure import one_line
from .terminal import Style
from .units import size

__all__ = ["OF_QUORUM", "Examination", "Tried", "examination_json", "examination_page", "milliseconds"]

OF_QUORUM = "quorum master "  # how the names of such nodes begin
NO_WRITES = "too-few-replicas"
WIDTH = 17
CONTROLS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Tried:
    """One thing that was tried: whether it went as it should, and what was measured; else why, and what to do."""

    name: str
    ok: bool
    detail: str
    why: str = ""
    advice: str = ""


@dataclass(slots=True)
class Examination:
    """``also``: findings that are about none of the ``nodes``, such as those that do not answer."""

    url: str
    nodes: dict[str, Capabilities] = field(default_factory=dict)
    steps: list[Tried] = field(default_factory=list)
    failed: str = ""
    also: list[Finding] = field(default_factory=list)

    def fail(self, why: str, *, unseen: bool = False) -> None:
        """``unseen``: nothing that was seen counts."""
        self.failed = why
        if unseen:
            self.nodes.clear()

    def judge_without_locks(self) -> None:
        """As it is for an application that takes none."""
        self.nodes = {name: without_locks(found) for name, found in self.nodes.items()}

    @property
    def findings(self) -> dict[Finding, list[str]]:
        """Each finding once, with the nodes that it is about."""
        found: dict[Finding, list[str]] = {}
        for node, capabilities in self.nodes.items():
            for finding in capabilities.findings:
                found.setdefault(finding, []).append(node)
        found.update({finding: list(self.nodes) for finding in findings_among(self.nodes)})
        found.update({finding: [] for finding in self.also})
        order = ("refuse", "warn", "info")
        return dict(sorted(found.items(), key=lambda one: order.index(one[0].level)))

    @property
    def is_down(self) -> bool:
        """Whether nobody is answered there, of a Cluster."""
        return any(finding.code == "cluster-down" for finding in self.findings)

    @property
    def takes_no_writes(self) -> bool:
        """A server of the sessions lacks its replicas. Of a quorum's masters, one that does votes for nobody."""
        lacking = {node for finding, nodes in self.findings.items() if finding.code == NO_WRITES for node in nodes}
        return not all(node.startswith(OF_QUORUM) for node in lacking)

    @property
    def verdict(self) -> str:
        levels = {finding.level for finding in self.findings}
        if not self.nodes:
            return "unreachable"
        if self.failed or "refuse" in levels or self.is_down or self.takes_no_writes:
            return "refused"
        if "warn" in levels or not all(step.ok for step in self.steps):
            return "warnings"
        return "unknown" if any(finding.code == "unknown" for finding in self.findings) else "fine"


def examination_page(seen: Examination, style: Style, columns: int) -> Iterator[str]:
    for node, found in seen.nodes.items():
        yield f"{style.bold(found.title)} at {node}"
        for label, text in _facts(found):
            yield _hung(f"  {label:<{WIDTH}}", text, columns)
    if seen.steps or seen.failed:
        yield ""
        yield style.bold("tried out")
    for step in seen.steps:
        yield _hung(f"  {step.name:<{WIDTH}}{'' if step.ok else style.bad('no: ')}", step.detail, columns)
        for label, text in (("why  ", step.why), ("do   ", step.advice)):
            if text:
                yield _hung(f"  {'':<{WIDTH}}{label}", f"{text}.", columns)
    if seen.failed:
        yield _hung(f"  {style.bad('failed')}{'':<{WIDTH - len('failed')}}", seen.failed, columns)
    levels = {"refuse": style.bad("REFUSED"), "warn": style.bad("WARNING"), "info": style.dim("note")}
    for finding, nodes in seen.findings.items():
        yield ""
        where = f" ({', '.join(nodes)})" if nodes and len(seen.nodes) > 1 else ""
        yield _hung(f"{levels[finding.level]}  ", f"{finding.what}{where}", columns, indent=2)
        for label, text in (("  why  ", finding.why), ("  do   ", finding.advice)):
            yield _hung(label, f"{text}.", columns)
    yield ""
    yield _conclusion(seen, style)


def _hung(label: str, text: str, columns: int, indent: int | None = None) -> str:
    """``text`` behind ``label``, its further lines below it (or so far in)."""
    width = len(CONTROLS.sub("", label))
    further = " " * (width if indent is None else indent)
    lines = textwrap.wrap("." * width + text, columns, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join([label + lines[0][width:], *lines[1:]]) if lines else label


def _conclusion(seen: Examination, style: Style) -> str:
    if seen.verdict == "refused":
        return style.bad("sessionlock does not work here as it is")
    if seen.verdict == "warnings":
        count = sum(finding.level == "warn" for finding in seen.findings) + sum(not step.ok for step in seen.steps)
        return style.bad(f"works, with {count} warning{'s' if count > 1 else ''}")
    if seen.verdict == "unknown":
        return style.bold("works; whether all is fine is not known, for this user may not see it")
    return style.good("fine")


def _facts(found: Capabilities) -> Iterator[tuple[str, str]]:
    role = {"slave": "replica", None: "role unknown"}.get(found.role, found.role)
    protocol = f", RESP{found.protocol}" if found.protocol else ""
    yield "server", f"{found.mode or 'mode unknown'}, {role}{protocol}"
    yield "scripts", {True: "permitted", False: "not permitted", None: "unknown"}[found.scripts]
    yes_no = {True: "yes", False: "no", None: "unknown"}
    yield "sharded pub/sub", yes_no[found.sharded_pubsub]
    yield (
        "WAITAOF",
        yes_no[found.waitaof] + (", but there is no append-only file" if found.waitaof and found.aof is False else ""),
    )
    used = "unknown" if found.used_memory is None else size(found.used_memory)
    limit = {None: "limit unknown", 0: "no limit"}.get(found.maxmemory, f"of {size(found.maxmemory or 0)}")
    yield "memory", f"{used}, {limit}, eviction policy {found.eviction or 'unknown'}"
    yield "persistence", _persistence(found)
    if found.replicas is not None:
        needed = "unknown" if found.min_replicas_to_write is None else str(found.min_replicas_to_write)
        yield "replicas", f"{found.replicas} connected, min-replicas-to-write {needed}"
    if found.clients is not None and found.maxclients:
        yield "clients", f"{found.clients} of {found.maxclients}"
    if found.clock_offset is not None:
        yield "clock", f"{abs(found.clock_offset):.3f} s {'ahead of' if found.clock_offset >= 0 else 'behind'} ours"
    if found.unknown:
        yield "unknown", ", ".join(found.unknown)
        for reason in found.because:
            yield "", f"({one_line(reason)})"


def _persistence(found: Capabilities) -> str:
    if found.rdb is None and found.aof is None:
        return "unknown"
    kinds = []
    if found.aof:
        kinds.append(f"append-only file, fsync {found.fsync or 'unknown'}")
    if found.rdb:
        kinds.append("snapshots (a crash loses what came after the last one)" if not found.aof else "snapshots")
    return " and ".join(kinds) or ("none" if found.rdb is False else "no append-only file, snapshots unknown")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def examination_json(seen: Examination) -> dict[str, Any]:
    return {
        "url": seen.url,
        "verdict": seen.verdict,
        "failed": seen.failed or None,
        "findings": [{**asdict(finding), "nodes": nodes} for finding, nodes in seen.findings.items()],
        "tried": [asdict(step) for step in seen.steps],
        "nodes": {node: {**asdict(found), "title": found.title} for node, found in seen.nodes.items()},
    }
