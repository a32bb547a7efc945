"""All benchmarks, or those that are named; then the tables and pictures of the documentation are made of the results.

``python -m benchmarks --quick`` takes about ten minutes. ``python -m benchmarks page`` measures nothing and only makes
the pages. Results are kept in benchmarks/results.json: what is not run stays as it was.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks import (
    audit,
    blocking,
    crowd,
    dead,
    demo,
    frameworks,
    hot_session,
    instructions,
    many_sessions,
    memory,
    operators,
    outage,
    page,
    quorum,
    shards,
    sizes,
    uncontended,
)
from benchmarks.commands import Options, options_from, parser
from benchmarks.report import Report
from benchmarks.results import Results, made_here
from benchmarks.stage import choose_server, named


class Benchmark(NamedTuple):
    """``everywhere``: on every server, else on the first. ``by_name``: only when it is named, as it takes long."""

    run: Callable[[Options], Report]
    everywhere: bool = False
    by_name: bool = False


BENCHMARKS = {
    "instructions": Benchmark(instructions.run, everywhere=True),
    "uncontended": Benchmark(uncontended.run, everywhere=True),
    "many_sessions": Benchmark(many_sessions.run, everywhere=True),
    "hot_session": Benchmark(hot_session.run, everywhere=True),
    "sizes": Benchmark(sizes.run),
    "dead": Benchmark(dead.run),
    "crowd": Benchmark(crowd.run),
    "memory": Benchmark(memory.run),
    "shards": Benchmark(shards.run),
    "blocking": Benchmark(blocking.run),
    "quorum": Benchmark(quorum.run),
    "audit": Benchmark(audit.run),
    "demo": Benchmark(demo.run),
    "frameworks": Benchmark(frameworks.run),
    "operators": Benchmark(operators.run, by_name=True),
    "outage": Benchmark(lambda options: outage.run(), by_name=True),
}
SERVERS = ("redis70", "redis86", "valkey91")
PAGE = "page"


def main(argv: Sequence[str] | None = None) -> int:
    """Run them. A missed goal is shown, not an error; the status is 1 when sessionlock lost an update, 2 when a
    benchmark could not be run.
    """
    arguments_for = parser(__doc__)
    arguments_for.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*BENCHMARKS, PAGE))}")
    arguments = arguments_for.parse_args(argv)
    if wrong := set(arguments.names) - {*BENCHMARKS, PAGE}:
        arguments_for.error(f"no such benchmark: {', '.join(sorted(wrong))}")
    wanted = arguments.names or [name for name, benchmark in BENCHMARKS.items() if not benchmark.by_name]
    results = Results({}) if arguments.json else Results.load()
    missing, lost = 0, 0
    for place, server in enumerate(arguments.server or SERVERS):
        options = options_from(arguments)
        options = replace(options, curves=options.curves and not place)
        for name in wanted:
            if name == PAGE or (place and not BENCHMARKS[name].everywhere):
                continue
            try:
                report = _run(name, server, options, results)
            except Exception:  # it shall not take the time of the others with it
                print(f"{name} on {server} failed:\n{traceback.format_exc()}", file=sys.stderr)
                missing += 1
                continue
            lost += report.lost
            if not arguments.json:
                print(report.text(), end="\n\n", flush=True)
                results.save()
    if arguments.json:
        print(json.dumps([report.as_dict() for _, report in results.all], indent=1))
    else:
        page.write(results)
        print(page.claims(results))
    return 1 if lost else 2 if missing else 0


def _run(name: str, server: str, options: Options, results: Results) -> Report:
    binary = choose_server(server)
    began = time.monotonic()
    print(f"{name} on {named(binary)} ...", file=sys.stderr, end=" ", flush=True)
    made = made_here()
    report = BENCHMARKS[name].run(options)
    report.made = made
    results.put(named(binary), report)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    raise SystemExit(main())
