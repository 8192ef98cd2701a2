# SPDX-License-Identifier: MIT
"""The charts, as SVG that reads well on a white page and on a dark one."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from report import Table, number, tables_of

# In the middle between black and white, as far as they go.
GREY = "#808080"
COLOURS = ("#2f86d1", "#d9731a", "#2a9d5c", "#a066d3", "#c94f7c", "#8c8c22")

STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "legend.frameon": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "charts",  # the same figures give the same file
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlecolor": GREY,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
}

Entries = dict[str, list[Table]]

# Cases of the second chart, with the beginning of their table's title.
ABSOLUTE = (
    ("One publish,", "1 sync"),
    ("One publish,", "10 sync"),
    ("One publish,", "5 sync + 5 async"),
    ("One publish,", "1 async"),
    ("One publish,", "10 async"),
    ("One publish,", "10 waiting"),
)
GROWTH = (
    ("One publish to one sync handler", "one publish, by event types"),
    ("One sync handler of a publish", "one sync handler, by handlers"),
    ("One async handler of a publish", "one async handler, by handlers"),
    ("Subscriptions of one type: one more comes and goes", "subscribe + unsubscribe, by handlers"),
    ("Subscriptions of one type: subscribe each", "one subscribe, by handlers"),
    ("One level of awaited publishes", "one level of awaited publishes, by levels"),
)


def draw(entries: dict[str, dict[str, Any]], folder: Path) -> None:
    parsed = {name: tables_of(entry) for name, entry in entries.items()}
    with pyplot.rc_context(STYLE):
        for name, chart in (("ratio", ratio), ("contenders", contenders), ("growth", growth)):
            figure = chart(parsed)
            figure.savefig(
                folder / f"{name}.svg",
                bbox_inches="tight",
                metadata={"Date": None, "Creator": None},
            )
            pyplot.close(figure)


def plain(axis: Any, suffix: str = "") -> None:
    """Label a logarithmic axis with numbers instead of powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{number(value)}{suffix}"))
    axis.set_minor_locator(NullLocator())


def legend(figure: Figure, handles: list[Any]) -> None:
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles)
    )


def marks(entries: Entries) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker="o", linestyle="none", label=name)
        for name, colour in zip(entries, COLOURS, strict=False)
    ]


def ratio(entries: Entries) -> Figure:
    """Draw how many times as long the pyee variant takes, case by case."""
    cases = {
        (table.title, case): None
        for tables in entries.values()
        for table in tables
        if table.title.startswith(("One publish,", "One publish_nowait, batches"))
        for case in table.cases
        if table.ratio(case)
    }
    figure, axes = pyplot.subplots(figsize=(9, 1 + len(cases) * (0.12 + 0.12 * len(entries))))
    height = 0.8 / len(entries)
    for index, (tables, colour) in enumerate(zip(entries.values(), COLOURS, strict=False)):
        found = {(table.title, case): table.ratio(case) for table in tables for case in table.cases}
        for place, case in enumerate(cases):
            value = found.get(case)
            if value is None:
                continue
            y = place - 0.4 + height * (index + 0.5)
            # From 1, which is a draw: to the left of it are the losses.
            axes.barh(y, value - 1, height * 0.9, left=1, color=colour)
            axes.annotate(
                f"{value:.2g}" if value < 10 else f"{value:.0f}",
                (value, y),
                xytext=(3 if value >= 1 else -3, 0),
                textcoords="offset points",
                ha="left" if value >= 1 else "right",
                va="center",
                fontsize=7,
            )
    axes.axvline(1, color=GREY)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.01)
    plain(axes.xaxis, "x")
    axes.set_yticks(range(len(cases)), [label_of(title, case) for title, case in cases])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title("pyee variant / eventbus: how many times as long the pyee variant takes")
    legend(figure, marks(entries))
    figure.tight_layout()
    return figure


def label_of(title: str, case: str) -> str:
    if "nowait" not in title:
        return case
    return f"nowait, {case}, {title.rpartition(': ')[2]}"


def contenders(entries: Entries) -> Figure:
    """Draw what a publish costs with each contender, for a few cases."""
    figure, grid = pyplot.subplots(2, 3, figsize=(11, 6), sharex=True, sharey=True)
    names = list(
        dict.fromkeys(
            name
            for tables in entries.values()
            for table in tables
            if table.title.startswith("One publish,")
            for name, row in table.rows.items()
            if any(isinstance(row.get(case), float) for _, case in ABSOLUTE)
        )
    )
    for axes, (title, case) in zip(grid.flat, ABSOLUTE, strict=True):
        for index, (tables, colour) in enumerate(zip(entries.values(), COLOURS, strict=False)):
            for table in tables:
                if not table.title.startswith(title) or case not in table.cases:
                    continue
                figures = {name: table.rows.get(name, {}).get(case) for name in names}
                points = [
                    (value, place + 0.22 * (index - (len(entries) - 1) / 2))
                    for place, value in enumerate(figures.values())
                    if isinstance(value, float)
                ]
                axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=5)
        finish(axes, f"{case}, µs")
        axes.set_yticks(range(len(names)), names)
    grid[0][0].invert_yaxis()
    legend(figure, marks(entries))
    figure.tight_layout()
    return figure


def growth(entries: Entries) -> Figure:
    """Draw what grows with the application, eventbus in full lines, the pyee variant in dashes."""
    figure, grid = pyplot.subplots(2, 3, figsize=(11, 6), sharey=True)
    styles: dict[str, Any] = {"eventbus": "-", "pyee variant": "--"}
    for axes, (title, label) in zip(grid.flat, GROWTH, strict=True):
        for tables, colour in zip(entries.values(), COLOURS, strict=False):
            for table in tables:
                if table.title != title:
                    continue
                counts = [int(case.split()[0].replace(",", "")) for case in table.cases]
                for name, style in styles.items():
                    figures = [table.rows[name][case] for case in table.cases]
                    axes.plot(counts, figures, style, color=colour, marker="o", markersize=3)
        axes.set_yscale("log")
        plain(axes.yaxis)
        finish(axes, f"{label}, µs")
    legend(
        figure,
        marks(entries)
        + [
            Line2D([], [], color=GREY, linestyle=style, label=name)
            for name, style in styles.items()
        ],
    )
    figure.tight_layout()
    return figure


def finish(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    plain(axes.xaxis)
    axes.set_title(title)
