"""The matrix's result as a table: a short one for docs/servers.md, a long one with what was skipped and what is red."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .cells import THOROUGH, Cell
from .recipes import RECIPES

__all__ = ["put_into", "report", "short_table"]


def report(cells: Sequence[Cell], command: str, notes: Sequence[str] = ()) -> str:
    """The long form. ``command``: what printed it. ``notes``: what could not be run, and why."""
    lines = [
        "# The tests on every server",
        "",
        f"What `{command}` printed: on each server the tests that meet it",
        f"(by Python {THOROUGH} all of them, `tests/servers/cell.txt`; by the others those of the lock itself,",
        "`tests/servers/cell_short.txt`). How the servers are had: `python -m tests.servers list`.",
        "",
        short_table(cells),
        "Seconds and counts, of cells that shared two cores:",
        "",
        _row(["server", "by", "result", "seconds"]),
        _row(["---"] * 4),
    ]
    for cell in sorted(cells, key=lambda cell: (list(RECIPES).index(cell.server), cell.column)):
        lines.append(_row([_title(cells, cell.server), str(cell.column), str(cell), f"{cell.seconds:.0f}"]))
    lines += ["", *(f"- {note}" for note in notes), *([""] if notes else []), *_skips(cells), *_reds(cells)]
    return "\n".join(lines)


def short_table(cells: Sequence[Cell]) -> str:
    """A row for each server, a column for each Python and what else was varied; how many tests passed, or failed."""
    columns = sorted({cell.column for cell in cells}, key=lambda column: (len(column.factors), column))
    lines = [_row(["", *map(str, columns)]), _row(["---", *["---:"] * len(columns)])]
    for name in (name for name in RECIPES if any(cell.server == name for cell in cells)):
        row = {cell.column: cell for cell in cells if cell.server == name}
        lines.append(_row([_title(cells, name), *(_short(row.get(column)) for column in columns)]))
    return "\n".join([*lines, ""])


def put_into(readme: Path, table: str, name: str = "matrix") -> None:
    """In place of the table that stands between the two comments of that name."""
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"{readme.name} has no place for the table: <!-- {name} --> ... <!-- /{name} -->")
    readme.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


def _short(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.trouble:
        return "**no result**"
    return f"**{len(cell.failed)} red**" if cell.failed else str(cell.passed)


def _title(cells: Iterable[Cell], name: str) -> str:
    version = next((cell.version for cell in cells if cell.server == name and cell.version), RECIPES[name].version)
    return f"{RECIPES[name].flavour.capitalize()} {version}"


def _skips(cells: Iterable[Cell]) -> list[str]:
    """Each reason for a skip, and the servers that it holds for."""
    reasons: dict[str, dict[str, set[int]]] = {}
    for cell in cells:
        for reason, count in cell.skipped.items():
            reasons.setdefault(reason, {}).setdefault(cell.server, set()).add(count)
    if not reasons:
        return []
    lines = ["Skipped, and why:", ""]
    everywhere = len({cell.server for cell in cells})
    for reason, counts in reasons.items():
        where = "everywhere" if len(counts) == everywhere else ", ".join(counts)
        each = set().union(*counts.values())
        number = f"{min(each)} to {max(each)}" if len(each) > 1 else f"{min(each)}"
        lines.append(f"- {where}: {reason} (tests: {number})")
    return [*lines, ""]


def _reds(cells: Iterable[Cell]) -> list[str]:
    red = [cell for cell in cells if not cell.green]
    if not red:
        return ["Every cell is green.", ""]
    lines = ["Red:", ""]
    for cell in red:
        what = cell.trouble or ", ".join(f"`{name}`" for name in cell.failed)
        lines.append(f"- {cell.name}: {what}")
    return [*lines, ""]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
