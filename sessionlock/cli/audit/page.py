"""The verdict on one screen, with what to do next. No I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from ...audit.verdict import OfSession, Verdict
from ..terminal import Style

__all__ = ["COST", "page"]

COST = (
    "MONITOR sends every command here, with its values, and slows the server while it runs: where we measured, a"
    " command of a 1 KB session took 2 to 4 times its time, of 10 KB 4 to 18 times (docs/audit.md)"
)
LABEL = 13
FIELDS = 8
EXAMPLE_FIELDS = 5
WORST = 3
ALMOST_NOTHING = 20  # sessions


def page(verdict: Verdict, where: str, style: Style, columns: int) -> list[str]:
    """Its lines, ``columns`` wide at most where words allow."""
    lines = [f"{style.bold('sessionlock audit')}: {where}, {verdict.seconds:.1f} s, {verdict.commands:,} commands", ""]
    bold = {"loses": style.bad, "likely": style.bad, "none": style.good, "unknown": style.bold}[verdict.told]
    lines += [f"  {bold(_headline(verdict))}", *_wrapped("  ", _beneath(verdict), columns), ""]
    if verdict.tally.fields:
        lines += [*_table(verdict, columns), ""]
    for label, text in _facts(verdict):
        lines += _wrapped(f"  {label:<{LABEL}}", text, columns)
    notes = list(_notes(verdict))
    if notes:
        lines.append("")
        for note in notes:
            lines += _wrapped("  - ", note, columns)
    lines.append("")
    lines += _wrapped("Next:  ", _next(verdict), columns)
    return lines


def _headline(verdict: Verdict) -> str:
    updates = verdict.tally.updates
    if verdict.told == "unknown":
        unclear = verdict.tally.saves["unclear"]
        if unclear:
            return f"CANNOT TELL: of {_times(unclear, 'save')} it is not clear what had been read"
        return "NOTHING TO JUDGE: no key was read and saved"
    if verdict.told == "none":
        return "No lost update was seen."
    counts = [f"{updates[grade]:,} {grade}" for grade in ("sure", "likely") if updates[grade]]
    word = "LOSES UPDATES" if verdict.told == "loses" else "LIKELY LOSES UPDATES"
    return f"{word}: {', '.join(counts)}"


def _beneath(verdict: Verdict) -> str:
    tally = verdict.tally
    if verdict.told == "unknown":
        return "so this says neither yes nor no"
    sessions = f"{tally.judged:,} session{'s' if tally.judged != 1 else ''} read and saved"
    if not verdict.lost:
        overlapping = tally.saves["overlapping"]
        return f"{sessions}; {_times(overlapping, 'save')} overlapped another of the same session"
    hurt = len(tally.sessions) + tally.more_sessions
    rate = "" if verdict.per_hour is None else f", about {verdict.per_hour:,.0f} an hour at this rate"
    back = tally.updates["came back"]
    came_back = f"; {back:,} came back when a save that still had them overwrote the next one" if back else ""
    return f"in {hurt:,} of {sessions}{rate}{came_back}"


def _table(verdict: Verdict, columns: int) -> Iterator[str]:
    fields = sorted(verdict.tally.fields.items(), key=lambda pair: -(pair[1].sure + pair[1].likely))
    shown = fields[:FIELDS]
    width = max(24, *(len(name) + 2 for name, _ in shown))
    yield f"  {'overwritten':<{width}}{'sure':>6}{'likely':>8}{'came back':>11}"
    for name, of in shown:
        back = f"   {of.undone:,} taken out, and in again" if of.undone and columns > width + 55 else ""
        yield f"    {name:<{width - 2}}{of.sure:>6}{of.likely:>8}{of.came_back or '-':>11}{back}"
    if len(fields) > FIELDS:
        yield f"    … and {len(fields) - FIELDS} more (--json)"


def _facts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    tally = verdict.tally
    families = tally.shown_families()
    if families:
        told = (
            f"{name or '(others)'} {judged:,}" + (f", {lost:,} lost" if lost else "")
            for name, judged, lost in families[:4]
        )
        yield "keys", "; ".join(told)
    if tally.forms:
        yield "stored as", ", ".join(form for form, _ in tally.forms.most_common(3))
    if tally.saves:
        yield "saves", _saves(verdict)
    yield "locks", _locks(verdict)
    worst = sorted(tally.sessions.items(), key=lambda pair: -_lost(pair[1]))[:WORST]
    if worst:
        yield "worst", "; ".join(f"{name} lost {_lost(one)}" for name, one in worst)
    for example in sorted(tally.examples, key=lambda one: one.grade != "sure")[:1]:
        read = "before the capture" if example.read is None else f"at {example.read:.4f} s"
        yield (
            "one of them",
            f"{example.session}: read {read}; another saved {_some(example.fields)} at {example.lost:.4f} s;"
            f" overwritten at {example.saved:.4f} s ({example.grade})",
        )


SAVES = {
    "fresh": "of what had been read last",
    "overlapping": "of something older",
    "watched": "under WATCH",
    "script": "by scripts that had read it",
    "compared": "compared by the server",
    "created": "only where there was none",
    "unread": "without reading",
    "early": "of a key that was not seen before",
    "unclear": "of one of several reads, and the values cannot be read",
}


def _some(names: Sequence[str]) -> str:
    more = len(names) - EXAMPLE_FIELDS
    return ", ".join(names[:EXAMPLE_FIELDS]) + (f" and {more} more" if more > 0 else "")


def _saves(verdict: Verdict) -> str:
    saves = verdict.tally.saves
    return ", ".join(f"{saves[name]:,} {told}" for name, told in SAVES.items() if saves[name])


def _locks(verdict: Verdict) -> str:
    locked = verdict.tally.locked
    if not verdict.locks_seen:
        return "none seen"
    seen = f"{verdict.locks_seen:,} seen"
    if not locked.saves:
        return f"{seen}, none of a session that was saved"
    if not locked.lost:
        return f"{seen}, around {locked.saves:,} saves, which lost nothing"
    reasons = [
        (locked.not_held, "nobody held it any more, or yet"),
        (locked.read_before, "read before the lock was taken"),
        (locked.lost - locked.not_held - locked.read_before, "held all the time"),
    ]
    why = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
    return f"{seen}; all the same {locked.lost:,} updates were lost: {why}"


def _notes(verdict: Verdict) -> Iterator[str]:
    tally = verdict.tally
    if verdict.stopped:
        yield f"stopped early: {verdict.stopped}"
    if verdict.in_cluster:
        yield "this is one server of a Cluster; what the others keep was not read: redis+cluster:// reads all"
    if verdict.backwards:
        yield (
            f"{_times(verdict.backwards, 'line')} older than the line before: captures that were joined, or sorted? Who"
            " read before whom is told by their order, so read one server's lines as they came"
        )
    if tally.contested:
        names = ", ".join(name for name, _ in tally.contested.most_common(3))
        yield f"two requests each assigned something else, which is no loss where the last may decide: {names}"
    if verdict.one_name and verdict.lost:
        yield "over a unix socket connections cannot be told apart, so nothing is sure"
    if verdict.tracking:
        yield "a client keeps copies of what it reads (CLIENT TRACKING); reads from a copy are not seen"
    if tally.saves["unread"] and tally.saves["unread"] >= tally.saves["fresh"]:
        yield "most saves came without a read: it is read elsewhere (a replica?), or never; nothing is said about them"
    if tally.saves["unclear"]:
        yield (
            "values that cannot be read (compressed, encrypted) do not tell which of several reads a save is based on."
            " Look at it with another serializer for a while, on a test system"
        )
    if tally.dropped:
        yield f"{_times(tally.dropped, 'key')} forgotten while there was too much at once: losses there may be missing"
    if verdict.strange:
        yield f"{_times(verdict.strange, 'line')} not understood"


def _next(verdict: Verdict) -> str:
    capture = "redis-cli MONITOR > capture.monitor, and look at that"
    if verdict.stopped and verdict.told in ("unknown", "none") and verdict.stopped != "interrupted":
        return f"save what it says, where there is room for it: {capture}"
    if verdict.told == "unknown" and verdict.unmatched and not verdict.tally.saves:
        others = _times(verdict.unmatched, "command")
        return f"no key is of the URL's database and fits --match; {others} were about other keys: mend these two"
    if verdict.told == "unknown" and not verdict.tally.judged:
        return (
            "is this the server and the hour? Sessions on another server or read from a replica are not seen here. Give"
            " it longer: --seconds 60"
        )
    if verdict.told == "unknown":
        return "store sessions as JSON or pickle without compression on a test system, and audit that"
    if verdict.told == "none":
        if verdict.tally.judged < ALMOST_NOTHING:
            return "that was little traffic: look again at a busy hour, or longer: --seconds 60"
        return "look again at the busiest hour; only two requests of one session at once can lose something"
    return (
        "lock each session from load to save. `sessionlock demo` shows how it works; docs/ has a page for Django,"
        " Flask, FastAPI, Starlette, Litestar, Quart and aiohttp. Then audit again: --json to compare"
    )


def _lost(one: OfSession) -> int:
    return one.sure + one.likely


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _wrapped(first: str, text: str, columns: int) -> list[str]:
    return textwrap.wrap(
        text,
        columns,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
