# SPDX-License-Identifier: MIT
"""How long does the import take?

Milliseconds in a fresh interpreter that has imported asyncio before, which is the floor, since
every application of these has; its own import is the last row.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from measure import Effort, progress
from report import Table, main

STATEMENTS = {
    "eventbus": "import eventbus",
    "pyee": "import pyee.asyncio",
    "blinker": "import blinker",
    "Django signal": "import django.dispatch",
    "psygnal": "import psygnal",
    "bubus": "import bubus",
    "abxbus": "import abxbus",
    "Litestar emitter": "import litestar.events",
}
PROGRAM = (
    "from time import perf_counter; {before}; begin = perf_counter(); {statement};"
    "print((perf_counter() - begin) * 1e3)"
)


def milliseconds_of(before: str, statement: str) -> float:
    program = PROGRAM.format(before=before, statement=statement)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    # The contenders come with their bytecode; here the first round writes it.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def run(effort: Effort) -> list[Table]:
    table = Table("Import, asyncio already imported", "ms", ["import"], baseline="pyee")
    programs = {}
    for name, statement in STATEMENTS.items():
        module = statement.split()[1].partition(".")[0]
        if importlib.util.find_spec(module) or name == "eventbus":
            programs[name] = ("import asyncio", statement)
        else:
            print(f"{name} is skipped: not installed", file=sys.stderr)
    programs["asyncio itself"] = ("pass", "import asyncio")
    figures: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(1, effort.rounds + 1):
        progress(f"  import: round {number} of {effort.rounds}")
        for name, program in programs.items():
            figures[name].append(milliseconds_of(*program))
    progress()
    for name, taken in figures.items():
        table.add(name, "import", effort.best(taken))
    return [table]


if __name__ == "__main__":
    main(run, __doc__)
