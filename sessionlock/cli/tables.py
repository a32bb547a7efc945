"""Tables that fit: what matters least is left out of a narrow terminal, and rich draws them where it is installed.

Without rich (the extra ``cli``), and wherever the output is no terminal, they are plain text.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from .failure import one_line
from .terminal import Style, cells, shortened, spelled, style_of, width_of

__all__ = ["Column", "Page", "Table", "lines_of", "print_page", "rich_page", "spelled_page"]

GAP = 2
SHORTEST = 10  # of a column that may be cut


@dataclass(frozen=True, slots=True)
class Column:
    """``rank``: columns of the highest are left out first; those of 0 stay. ``cut``: its cells may be shortened."""

    name: str
    rank: int = 0
    right: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    empty: str = "none"


@dataclass(frozen=True, slots=True)
class Page:
    """``head``: lines above the tables; ``notes``: below them."""

    head: Sequence[str] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default=())


def print_page(page: Page, stream: TextIO | None = None) -> None:
    """Print it, as the stream can have it."""
    out = sys.stdout if stream is None else stream
    page = spelled_page(page, out)
    drawn = rich_page(page, width_of(out)) if out.isatty() else None
    if drawn is not None:
        _console(out).print(drawn)
        return
    for line in lines_of(page, width_of(out), style_of(out)):
        print(line, file=out)


def spelled_page(page: Page, stream: TextIO) -> Page:
    """As the stream's encoding can have it."""

    def all_of(lines: Sequence[str]) -> list[str]:
        return [spelled(line, stream) for line in lines]

    tables = [replace(table, rows=[all_of(row) for row in table.rows]) for table in page.tables]
    return Page(all_of(page.head), tables, all_of(page.notes))


def lines_of(page: Page, width: int | None, style: Style) -> Iterator[str]:
    """As plain text."""
    yield from _wrapped(page.head, width)
    for table in page.tables:
        yield ""
        yield style.bold(table.title)
        if not table.rows:
            yield f"  {table.empty}"
            continue
        columns, rows = fitted(table, width)
        widths = _widths(columns, rows)
        yield style.dim(_line([column.name for column in columns], columns, widths))
        for row in rows:
            yield _line(row, columns, widths)
    if page.notes:
        yield ""
    yield from _wrapped(page.notes, width)


def _wrapped(lines: Sequence[str], width: int | None) -> list[str]:
    return [part for line in lines for part in (textwrap.wrap(line, width) if width is not None else [line])]


def fitted(table: Table, width: int | None) -> tuple[list[Column], list[list[str]]]:
    """Columns and rows that have room in ``width``; None: there is no end of it."""
    kept = list(range(len(table.columns)))
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    while width is not None:
        columns = [table.columns[place] for place in kept]
        chosen = [[row[place] for place in kept] for row in rows]
        over = sum(_widths(columns, chosen)) + GAP * len(columns) - width
        if over <= 0 or _cut(columns, chosen, over):
            return columns, chosen
        rank = max(column.rank for column in columns)
        if rank == 0:
            return columns, chosen
        kept.remove(next(place for place in reversed(kept) if table.columns[place].rank == rank))
    return list(table.columns), rows


def _cut(columns: Sequence[Column], rows: list[list[str]], over: int) -> bool:
    """Shorten what may be; whether that is enough."""
    for place in sorted((place for place, column in enumerate(columns) if column.cut), reverse=True):
        longest = _widths(columns, rows)[place]
        room = max(SHORTEST, len(columns[place].name), longest - over)
        over -= longest - room
        if over <= 0:
            for other in (one for one, column in enumerate(columns) if column.cut and one >= place):
                limit = room if other == place else max(SHORTEST, len(columns[other].name))
                for row in rows:
                    row[other] = shortened(row[other], limit)
            return True
    return False


def _widths(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(map(cells, column)) for column in zip([column.name for column in columns], *rows, strict=True)]


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    placed = (
        " " * (width - cells(cell)) + cell if column.right else cell + " " * (width - cells(cell))
        for cell, column, width in zip(row, columns, widths, strict=True)
    )
    return ("  " + (" " * GAP).join(placed)).rstrip()


# --- rich


def rich_page(page: Page, width: int | None) -> Any:
    """For rich; None: it is not installed."""
    try:
        from rich.console import Group
        from rich.table import Table as Drawn
        from rich.text import Text
    except ImportError:
        return None
    parts: list[Any] = [Text(line) for line in _wrapped(page.head, width)]
    for table in page.tables:
        parts.append(Text(f"\n{table.title}", style="bold"))
        if not table.rows:
            parts.append(Text(f"  {table.empty}", style="dim"))
            continue
        columns, rows = fitted(table, width)
        drawn = Drawn(box=None, pad_edge=True, padding=(0, 1), header_style="bold cyan")
        for column in columns:
            drawn.add_column(column.name, justify="right" if column.right else "left", no_wrap=True)
        for row in rows:
            drawn.add_row(*(Text(cell) for cell in row))
        parts.append(drawn)
    if page.notes:
        parts.append(Text(""))
    parts += [Text(note, style="dim") for note in _wrapped(page.notes, width)]
    return Group(*parts)


def _console(stream: TextIO) -> Any:
    from rich.console import Console

    return Console(file=stream, highlight=False, width=width_of(stream), legacy_windows=False)
