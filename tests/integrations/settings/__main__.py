"""``python -m tests.integrations.settings [FILE]``: ``docs/settings.md``, as the code has it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sessionlock.integrations.settings import ALL, FRAMEWORKS, Setting
from tests.integrations.settings.parts import ENVIRONMENT, FRAMEWORK, PARTS, Part, default_of, field_names

__all__ = ["document"]

INTRODUCTION = """\
# Settings

<!-- Made by `python -m tests.integrations.settings docs/settings.md` of sessionlock/integrations/settings/. -->

All of them, by what they are called where. Everything has a default but the URL. Times are seconds, sizes bytes. A
setting that does not exist, or has a value that makes no sense, is an error as the application starts, by its own name
and with the nearest that exists. What other session packages or back ends left behind, without effect, is named.
"""

FACES = """\
Flask and Quart take them from `app.config`, or as arguments of `SessionLock(app, url, …)` by the name in the first
column, which win. ASGI: of `SessionLockMiddleware(app, guard, …)`, for Starlette, FastAPI and whatever speaks ASGI.
aiohttp: of `setup(app, guard, …)`.
"""


def document() -> str:
    """The whole text."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    yield "## The applications'\n"
    yield FACES
    yield from _table(
        (
            "Setting",
            "Django",
            "Flask, Quart",
            "ASGI, FastAPI",
            "Litestar",
            "aiohttp",
            "Type",
            "Unit",
            "Default",
            "Effect",
        ),
        (
            (f"`{s.name}`", *(_spelled(s, face) for face in FRAMEWORKS), s.kind.type, s.kind.unit, s.default, s.effect)
            for s in ALL
        ),
    )
    for part in PARTS:
        yield f"## `{part.spelled}`\n"
        if part.about:
            yield f"{part.about}\n"
        yield from _table(("Option", "Type", "Unit", "Default", "Effect"), _fields(part))
    yield "## The frameworks' own settings that hold here\n"
    yield "They are read at each request.\n"
    yield from _table(
        ("Framework", "Setting", "Effect"),
        (
            (framework, ", ".join(f"`{one}`" for one in names.split(", ")), effect)
            for framework, settings in FRAMEWORK.items()
            for names, effect in settings.items()
        ),
    )
    yield "## The environment\n"
    yield from _table(
        ("Variable", "Value", "Default", "Effect"), ((f"`{name}`", *told) for name, told in ENVIRONMENT.items())
    )


def _spelled(setting: Setting, face: str) -> str:
    spelled = setting.spelling(face)
    if spelled is None:
        return "–"
    return spelled if " " in spelled else f"`{spelled}`"


def _fields(part: Part) -> Iterator[tuple[str, ...]]:
    for name in field_names(part):
        field = part.fields[name]
        yield f"`{name}`", field.type, field.unit, default_of(part, name), field.effect


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _row(head)
    yield _row(("---",) * len(head))
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(document(), encoding="utf-8")
    else:
        print(document(), end="")
