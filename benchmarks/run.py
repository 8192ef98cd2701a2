# SPDX-License-Identifier: MIT
"""Ask all questions, print the tables, and write figures, tables and charts.

A run replaces the results of its own interpreter and leaves those of others. With --quick it
checks that the benchmarks work; its figures are poor, and kept only where --results says.
"""

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import ModuleType

import cost
import growth
import importing
import latency
import memory
import nowait
from measure import Effort, Miscount, progress
from report import Table, about, add_arguments, describe, name_of, page, to_json

QUESTIONS = (cost, nowait, growth, memory, latency, importing)
NANOSECONDS_COUNT = (cost, nowait)
RESULTS = Path(__file__).resolve().parent / "results"


def ask(question: ModuleType, effort: Effort) -> list[Table]:
    """Return the tables of a question, with the best of several processes where that matters."""
    if question not in NANOSECONDS_COUNT:
        return question.run(effort)
    tables: list[Table] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for number in range(1, effort.processes + 1):
            progress(f"  process {number} of {effort.processes} starts")
            found = pool.submit(question.run, effort).result()
            if not tables:
                tables = found
            for table, other in zip(tables, found, strict=True):
                table.keep_best(other)
    return tables


def ask_all(effort: Effort) -> list[Table]:
    tables = []
    for number, question in enumerate(QUESTIONS, 1):
        begin = perf_counter()
        asked = (question.__doc__ or "").splitlines()[0]
        print(f"\n## {number} of {len(QUESTIONS)}, {question.__name__}: {asked}", flush=True)
        for table in ask(question, effort):
            print(table.text(), flush=True)
            tables.append(table)
        print(f"\n({question.__name__} took {perf_counter() - begin:.0f} s)", flush=True)
    return tables


def write(tables: list[Table], effort: Effort, command: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    entry = {**about(effort, command), "tables": to_json(tables)}
    entries[name_of(entry)] = entry
    entries = dict(sorted(entries.items()))
    file.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(page(entries), encoding="utf-8")
    try:
        from charts import draw  # only now: matplotlib must not weigh on what was measured
    except ImportError as error:
        print(f"no charts are drawn: {error}", file=sys.stderr)
    else:
        draw(entries, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--results", type=Path, help="the folder to write to")
    arguments = parser.parse_args()
    effort = Effort(quick=arguments.quick, uvloop=arguments.uvloop)
    command = " ".join(["python", "benchmarks/run.py", *sys.argv[1:]])
    print(describe(about(effort, command)), flush=True)
    begin = perf_counter()
    try:
        tables = ask_all(effort)
    except Miscount as exc:
        sys.exit(f"wrong count: {exc}")
    with TemporaryDirectory() as temporary:
        elsewhere = Path(temporary) if effort.quick else RESULTS
        folder = arguments.results or elsewhere
        write(tables, effort, command, folder)
        kept = "" if folder == Path(temporary) else f", results in {folder}"
        print(f"\ndone in {perf_counter() - begin:.0f} s{kept}")


if __name__ == "__main__":
    main()
