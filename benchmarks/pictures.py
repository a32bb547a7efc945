"""The pictures, by matplotlib (the extra ``benchmarks``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.ticker import LogLocator

from benchmarks.report import Plot, Report

__all__ = ["draw"]

matplotlib.use("Agg")


def draw(reports: dict[str, Report], folder: Path) -> None:
    """All plots of one benchmark, as PNG: bars of all servers beside each other, lines of the first one."""
    by_name: dict[str, dict[str, Plot]] = {}
    for server, report in reports.items():
        for plot in report.plots:
            by_name.setdefault(plot.name, {})[server] = plot
    for name, plots in by_name.items():
        first = next(iter(plots.values()))
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        if first.bars:
            _bars(axes, plots)
        else:
            _lines(axes, first)
            axes.set_xlabel(first.x)
        axes.set_title(first.title, fontsize=10)
        axes.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(folder / f"benchmark-{name}.png", dpi=110, metadata={"Software": None})
        pyplot.close(figure)


def _bars(axes: Any, plots: dict[str, Plot]) -> None:
    names = list(next(iter(plots.values())).bars)
    height = 0.8 / len(plots)
    for number, (server, plot) in enumerate(plots.items()):
        places = [place + height * number for place in range(len(names))]
        axes.barh(places, [plot.bars.get(name, 0) for name in names], height, label=server)
        axes.set_xlabel(plot.y)
    axes.set_yticks([place + height * (len(plots) - 1) / 2 for place in range(len(names))], names, fontsize=8)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.invert_yaxis()


def _lines(axes: Any, plot: Plot) -> None:
    for name, points in plot.lines.items():
        shown = [(x, y) for x, y in points if y > 0]
        axes.plot([x for x, _ in shown], [y for _, y in shown], marker="o", label=name)
    places = sorted({x for points in plot.lines.values() for x, _ in points})
    if plot.linear:
        axes.set_ylim(bottom=0)
    else:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.set_xticks(places, [f"{place:,.0f}" for place in places], fontsize=8)
    axes.minorticks_off()
    axes.set_ylabel(plot.y)
    axes.grid(alpha=0.3)
