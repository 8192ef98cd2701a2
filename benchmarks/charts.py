# SPDX-License-Identifier: MIT
"""The charts, as SVG that reads well on a white page and on a dark one."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from report import Table, number, tables_of

# In the middle between black and white, as far as they go.
GREY = "#808080"
LOSS = "#d1453b"
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
# Rows of the first chart, in words, with the beginning of their table's title, and the case.
SYNC, ASYNC = "One publish, sync", "One publish, async handlers that never"
WAITING, MIXED = "One publish, async handlers that wait", "One publish, mixed"
DONE = "One publish_nowait, batches of 1,000: to completion"
CALL = "One publish_nowait, batches of 1,000: to publish it"
RATIOS = {
    "Publish an event, and wait for its handlers": {
        "nobody listens": (SYNC, "no handler"),
        "1 sync handler": (SYNC, "1 sync"),
        "10 sync handlers": (SYNC, "10 sync"),
        "1 async handler that never waits": (ASYNC, "1 async"),
        "10 that never wait": (ASYNC, "10 async"),
        "1 async handler that waits once": (WAITING, "1 waiting"),
        "10 that wait once": (WAITING, "10 waiting"),
        "5 sync and 5 async handlers": (MIXED, "5 sync + 5 async"),
        "10 async handlers, one of which fails": (MIXED, "10 async, 1 fails"),
        "the same, with logging off": (MIXED, "10 async, 1 fails, logging off"),
    },
    "Publish in the background": {
        "the call alone": (CALL, "1 async"),
        "until 1 sync handler has finished": (DONE, "1 sync"),
        "until 1 async handler has, which never waits": (DONE, "1 async"),
        "until 10 have, which never wait": (DONE, "10 async"),
        "until 1 async handler has, which waits once": (DONE, "1 waiting"),
    },
    "Time of what is done once": {
        "subscribe one more handler": ("Subscriptions of one type: subscribe", "1,000 handlers"),
        "unsubscribe it": ("Subscriptions of one type: unsubscribe", "1,000 handlers"),
        "import the package (pyee: itself)": ("Import", "import"),
    },
    "Memory": {
        "of a subscription": ("Memory", "subscription"),
        "of an event that waits for its turn": ("Memory", "queued event"),
        "of a handler at work in the background": ("Memory", "running handler"),
    },
}
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
    """Draw how many times as long the pyee variant takes: one row a question, a dot a Python."""
    figure, axes = pyplot.subplots(figsize=(9, 7))
    figure.subplots_adjust(left=0.38, right=0.86, top=0.95, bottom=0.08)
    axes.set_xscale("log")
    axes.axvline(1, color=GREY)
    place = 0
    for group, rows in RATIOS.items():
        write(axes, 0, place, group, fontweight="bold")
        for words, (title, case) in rows.items():
            place += 1
            values = {
                colour: table.ratio(case)
                for tables, colour in zip(entries.values(), COLOURS, strict=False)
                for table in tables
                if table.title.startswith(title) and case in table.cases
            }
            found = {colour: value for colour, value in values.items() if value}
            if not found:  # not measured, or too noisy
                write(axes, 0.02, place, words)
                continue
            for colour, value in found.items():
                axes.plot(value, place, "o", color=colour, markersize=6, alpha=0.8)
            least, most = min(found.values()), max(found.values())
            style = {"color": LOSS} if least < 1 else {}
            write(axes, 0.02, place, words, **style)
            write(axes, 0.9, place, f"x{short(least)} to x{short(most)}", **style)
        place += 1.3
    least, most = axes.get_xlim()
    axes.axvspan(least, 1, color=LOSS, alpha=0.1, linewidth=0)
    axes.set_xlim(least, most)
    axes.set_ylim(place - 1, -0.7)
    plain(axes.xaxis, "x")
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set_title("← eventbus loses", loc="left", color=LOSS)
    axes.set_title("eventbus wins →", loc="right")
    axes.set_xlabel("A bus on pyee takes so many times as long, or as much memory")
    legend(figure, marks(entries))
    return figure


def write(axes: Axes, x: float, place: float, text: str, **style: Any) -> None:
    """Write beside a row, from a fraction of the figure's width on."""
    axes.annotate(text, (x, place), xycoords=("figure fraction", "data"), va="center", **style)


def short(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


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
                    (value, place + 0.8 * ((index + 0.5) / len(entries) - 0.5))
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
                    figures = [math.nan if isinstance(cell, str) else cell for cell in figures]
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
