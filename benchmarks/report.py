# SPDX-License-Identifier: MIT
"""Tables for the terminal and in Markdown, and what they say about the machine."""

import argparse
import importlib.metadata
import platform
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contenders import PACKAGES, Ours
from measure import Cell, Effort, Miscount


@dataclass
class Table:
    """One figure for each contender and case; `lacks` says what a contender does not promise."""

    title: str
    unit: str
    cases: list[str]
    baseline: str = "pyee variant"
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)

    def add(self, contender: str, case: str, cell: Cell) -> None:
        self.rows.setdefault(contender, {})[case] = cell

    def keep_best(self, other: "Table") -> None:
        """Take over the figures of another run of the same question that are smaller."""
        for name, row in self.rows.items():
            for case, cell in row.items():
                theirs = other.rows[name][case]
                if isinstance(cell, float) and isinstance(theirs, float):
                    row[case] = min(cell, theirs)

    def ratio(self, case: str) -> float | None:
        """Return how many times as much the baseline takes as eventbus."""
        theirs = self.rows.get(self.baseline, {}).get(case)
        ours = self.rows.get(Ours.name, {}).get(case)
        if isinstance(theirs, str) or isinstance(ours, str) or not theirs or not ours:
            return None
        return theirs / ours

    def grid(self) -> tuple[list[list[str]], list[str]]:
        """Return the lines of the table, head and ratios included, and its footnotes."""
        order = [name for name in self.lacks if name in self.rows] or list(self.rows)
        marks: dict[str, str] = {}
        absent: dict[str, list[str]] = {}
        lines = []
        for name in order:
            row = self.rows[name]
            if not any(isinstance(cell, float) for cell in row.values()):
                absent.setdefault(", ".join(dict.fromkeys(map(str, row.values()))), []).append(name)
                continue
            line = [name]
            for case in self.cases:
                cell = row.get(case, "not measured")
                if isinstance(cell, str):
                    line.append(f"- [{marks.setdefault(cell, 'abcdefgh'[len(marks)])}]")
                else:
                    line.append(number(cell))
            lines.append(line)
        ratios = [self.ratio(case) for case in self.cases]
        if any(ratios):
            cells = [f"x{number(ratio)}" if ratio else "" for ratio in ratios]
            lines.append([f"{self.baseline} / {Ours.name}", *cells])
        head = [f"{self.title} ({self.unit})", *self.cases]
        if self.lacks:
            head.append("does not promise")
            for line in lines:
                line.append(self.lacks.get(line[0], ""))
        notes = [f"[{mark}] {reason}" for reason, mark in marks.items()]
        notes += [f"without {', '.join(names)}: {reason}" for reason, names in absent.items()]
        return [head, *lines], notes

    def text(self) -> str:
        lines, notes = self.grid()
        lines[0][0] = self.unit
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        last = len(self.cases)
        texts = [
            "  ".join(
                cell.rjust(width) if 0 < index <= last else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([f"\n{self.title}", *texts, *notes])

    def markdown(self) -> str:
        (head, *lines), notes = self.grid()
        aligned = ["---"] + ["---:"] * len(self.cases) + ["---"] * bool(self.lacks)
        texts = ["| " + " | ".join(line) + " |" for line in (head, aligned, *lines)]
        if notes:
            texts += ["", "; ".join(notes) + "."]
        return "\n".join(texts)


def number(value: float) -> str:
    """Write three digits, and no fewer than are before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    import eventbus

    found = {"eventbus": eventbus.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def about(effort: Effort, command: str) -> dict[str, Any]:
    """Return what a reader must know about a run besides its figures."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "loop": "uvloop" if effort.uvloop else "asyncio",
        "processor": processor(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": versions(),
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def describe(entry: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in entry["packages"].items())
    return (
        f"{entry['implementation']} {entry['python']} on {entry['loop']}, {entry['processor']}, "
        f"{entry['system']}; {packages}; `{entry['command']}`, {entry['date']}."
    )


def name_of(entry: dict[str, Any]) -> str:
    """Return the short name of an entry's interpreter, by which entries replace each other."""
    short = ".".join(entry["python"].split(".")[:2])
    name = f"{entry['implementation']} {short}{'t' * entry.get('free_threaded', False)}"
    return name if entry["loop"] == "asyncio" else f"{name}, {entry['loop']}"


def page(entries: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown of all entries: first the ratios of all, then each one's tables."""
    parts = [
        "# Results",
        (
            "Written by `make bench`. Smaller is better, except for ratios. A ratio is the figure "
            "of the pyee variant divided by that of eventbus, in the same run: above 1, eventbus "
            "is better; below 1, it loses."
        ),
        "![Ratios to the pyee variant](ratio.svg)",
        "![All contenders](contenders.svg)",
        "![What grows](growth.svg)",
        "## pyee variant / eventbus",
    ]
    parsed = {name: tables_of(entry) for name, entry in entries.items()}
    lines = [["ratio", *entries], ["---"] + ["---:"] * len(entries)]
    for title, case in {
        (table.title, case): None
        for tables in parsed.values()
        for table in tables
        for case in table.cases
        if table.ratio(case)
    }:
        line = [f"{title}: {case}"]
        for tables in parsed.values():
            found = [table.ratio(case) for table in tables if table.title == title]
            line.append(f"x{number(found[0])}" if found and found[0] else "-")
        lines.append(line)
    parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    for name, entry in entries.items():
        parts += [f"## {name}", describe(entry)]
        parts += [table.markdown() for table in parsed[name]]
    return "\n\n".join(parts) + "\n"


def tables_of(entry: dict[str, Any]) -> list[Table]:
    return [Table(**table) for table in entry["tables"]]


def to_json(tables: list[Table]) -> list[dict[str, Any]]:
    def rounded(cell: Cell) -> Cell:
        return cell if isinstance(cell, str) else float(f"{cell:.4g}")

    found = [asdict(table) for table in tables]
    for table in found:
        for row in table["rows"].values():
            row.update({case: rounded(cell) for case, cell in row.items()})
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="check that it works; figures are poor"
    )
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop")


def main(run: Callable[[Effort], list[Table]], doc: str | None) -> None:
    """Be the command line of one question."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    effort = Effort(quick=arguments.quick, uvloop=arguments.uvloop)
    print(describe(about(effort, " ".join(["python", *sys.argv]))), flush=True)
    try:
        for table in run(effort):
            print(table.text())
    except Miscount as exc:
        sys.exit(f"wrong count: {exc}")
