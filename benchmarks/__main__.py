"""All benchmarks, and one table of what was claimed and what was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from benchmarks import hot_session, many_sessions, uncontended
from benchmarks.commands import options_from, parser
from benchmarks.report import Report, table

BENCHMARKS = (uncontended, hot_session, many_sessions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all. A missed goal is shown, not an error; the status is 1 only when sessionlock lost an update."""
    arguments_for = parser(__doc__)
    arguments_for.add_argument("--markdown", action="store_true", help="print only the table of claims")
    arguments = arguments_for.parse_args(argv)
    options = options_from(arguments)
    reports: list[Report] = []
    for benchmark in BENCHMARKS:
        print(f"{benchmark.__name__} ...", file=sys.stderr, flush=True)
        reports.append(benchmark.run(options))
    if arguments.json:
        print(json.dumps([report.as_dict() for report in reports], indent=1))
    else:
        if not arguments.markdown:
            print("\n\n".join(report.text() for report in reports), end="\n\n")
        print(claims(reports))
    return 1 if any(report.lost for report in reports) else 0


def claims(reports: Sequence[Report]) -> str:
    """One Markdown table of all claims."""
    return table(["claim", "goal", "measured", "met"], [claim.cells() for report in reports for claim in report.claims])


if __name__ == "__main__":
    raise SystemExit(main())
