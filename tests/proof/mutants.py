# SPDX-License-Identifier: MIT
"""Break the core in every small way, one at a time, and see whether the tests notice.

    python tests/proof/mutants.py [--module _bus.py ...] [--sample N] [--seed S] [--match TEXT]

Run by hand, with pytest installed, on a quiet machine: it works on a copy in a temporary folder,
and takes hours for everything. Prints the mutants that survive, with their diffs, as it
goes; the exit status is 1 if there are any. Each is a test that is missing, or makes no difference.
"""

import argparse
import ast
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    "_delivery.py",
    "_backlog.py",
    "_registry.py",
    "_subscription.py",
    "_bus.py",
    "_handler.py",
    "_wrapping.py",
    "_checks.py",
    "_loop_end.py",
    "_misses.py",
    "_failure.py",
    "_deferred.py",
    "_wait.py",
]
# The tests that kill most come first. Those of packaging and documents cannot tell.
LEAVE_OUT = {"test_demo.py", "test_package.py", "test_readme.py"}
FIRST = [
    "test_publish.py",
    "test_subscribe.py",
    "test_publish_nowait.py",
    "test_failures.py",
    "test_chains.py",
    "test_cancellation.py",
    "test_cancelled_handlers.py",
]

HANGS = 40  # seconds after which a test is taken to have no end

Mutant = tuple[ast.AST, str, str]  # what is replaced, by which code, and the name of the way

COMPARISONS: dict[type[ast.cmpop], list[str]] = {
    ast.Eq: ["!="],
    ast.NotEq: ["=="],
    ast.Lt: ["<=", ">="],
    ast.LtE: ["<", ">"],
    ast.Gt: [">=", "<="],
    ast.GtE: [">", "<"],
    ast.Is: ["is not"],
    ast.IsNot: ["is"],
    ast.In: ["not in"],
    ast.NotIn: ["in"],
}


def mutants(node: ast.AST) -> Iterator[Mutant]:
    """Yield the ways to break this node, its children not included."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            for other in COMPARISONS[type(operator)]:
                yield node, f"({ast.unparse(left)} {other} {ast.unparse(right)})", "comparison"
        case ast.BoolOp(op=operator, values=values):
            operands = [f"({ast.unparse(value)})" for value in values]
            word, other = (" and ", " or ") if isinstance(operator, ast.And) else (" or ", " and ")
            yield node, f"({other.join(operands)})", "and/or"
            for place in range(len(operands)):
                rest = operands[:place] + operands[place + 1 :]
                yield node, f"({word.join(rest)})", "operand"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, f"({ast.unparse(operand)})", "not"
        case ast.If(test=test) | ast.IfExp(test=test):
            yield test, "True", "condition"
            yield test, "False", "condition"
        case ast.While(test=test):
            yield test, "False", "condition"
        case ast.Constant(value=bool(value)):
            yield node, str(not value), "constant"
        case ast.Constant(value=int(value)):
            yield node, str(value + 1), "constant"
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as operator, right=right):
            sign = "-" if isinstance(operator, ast.Add) else "+"
            yield node, f"({ast.unparse(left)} {sign} {ast.unparse(right)})", "arithmetic"
        case ast.AugAssign(target=target, op=ast.Add() | ast.Sub() as operator, value=value):
            sign = "-=" if isinstance(operator, ast.Add) else "+="
            yield node, f"{ast.unparse(target)} {sign} {ast.unparse(value)}", "arithmetic"
            yield node, "pass", "statement"
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.Expr() | ast.Raise() | ast.Delete() | ast.Break() | ast.Continue():
            yield node, "pass", "statement"
            if isinstance(node, ast.Break):
                yield node, "continue", "statement"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, "pass", "statement"
        case ast.Assign(targets=[ast.Name()] as targets, value=value) if not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            yield node, f"{ast.unparse(targets[0])} = None", "assignment"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, "return None", "return"
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds) as several):
            for kind in kinds:
                yield several, ast.unparse(kind), "except"
        case ast.ExceptHandler(type=ast.Name() as kind):
            yield kind, "ZeroDivisionError", "except"


def skipped(node: ast.AST) -> bool:
    """Whether nothing in here is ever run, or only where nothing is broken."""
    match node:
        case ast.AnnAssign(value=None) | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return True
        case ast.FunctionDef(decorator_list=decorators):
            return any(ast.unparse(each) == "overload" for each in decorators)
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__")]):
            return True
        case _:
            return False


def walk(node: ast.AST) -> Iterator[ast.AST]:
    if skipped(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child)


def broken_sources(source: str) -> Iterator[tuple[str, str]]:
    """Yield each way to break a module: its name, and the source with that one change."""
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    whole = source.encode()
    for node in walk(ast.parse(source)):
        for target, code, way in mutants(node):
            begin = starts[target.lineno - 1] + target.col_offset
            end = starts[target.end_lineno - 1] + target.end_col_offset
            broken = (whole[:begin] + code.encode() + whole[end:]).decode()
            if broken == source:
                continue
            try:
                compile(broken, "mutant", "exec")
            except SyntaxError:
                continue
            yield way, broken


def tests(folder: Path) -> list[str]:
    names = [path.name for path in sorted((folder / "tests").glob("test_*.py"))]
    names = [name for name in names if name not in LEAVE_OUT]
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return [f"tests/{name}" for name in names]


def run_tests(folder: Path, names: list[str], seconds: float) -> tuple[bool, str]:
    """Return whether all tests pass, and else which one did not."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
    command += ["-o", f"faulthandler_timeout={HANGS}", "-o", "faulthandler_exit_on_timeout=true"]
    command += names
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False, "no end"
    # The status is 1, and nothing is said, if a test hung.
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return process.returncode == 0, failed[0].split(" - ")[0] if failed else "no end"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", action="append", help="file in the package; may be repeated")
    parser.add_argument("--sample", type=int, help="try so many mutants of each module only")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--match", default="", help="only those whose changed line has this text")
    parser.add_argument("--list", action="store_true", help="print the mutants, and run nothing")
    parser.add_argument("--tests", action="append", help="test file; may be repeated")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist")
        shutil.copytree(ROOT, folder, ignore=ignored)
        names = arguments.tests or tests(folder)
        seconds = 0.0
        if not arguments.list:
            began = time.monotonic()
            passed, failed = run_tests(folder, names, 600)
            if not passed:
                print(f"the tests fail without any mutant: {failed}", file=sys.stderr)
                return 2
            seconds = time.monotonic() - began
            print(f"without any mutant: {seconds:.0f} s", flush=True)
        counts: Counter[str] = Counter()
        for module in arguments.module or MODULES:
            path = folder / "eventbus" / module
            source = path.read_text()
            chosen = []
            for way, broken in broken_sources(source):
                old, new = source.splitlines(), broken.splitlines()
                diff = list(difflib.unified_diff(old, new, module, module, lineterm="", n=1))
                if any(arguments.match in line for line in diff[3:] if line.startswith("-")):
                    chosen.append((way, broken, "\n".join(diff[2:])))
            if arguments.sample is not None and arguments.sample < len(chosen):
                chosen = random.Random(arguments.seed).sample(chosen, arguments.sample)
            for way, broken, diff in chosen:
                if arguments.list:
                    print(f"{module}, {way}\n{diff}\n")
                    continue
                path.write_text(broken)
                survived, killer = run_tests(folder, names, 2 * seconds + 30)
                counts["survived" if survived else "killed"] += 1
                if survived:
                    print(f"\nSURVIVED: {module}, {way}\n{diff}\n", flush=True)
                else:
                    print(f"killed: {module}, {way}, by {killer}", flush=True)
            path.write_text(source)
            counts["mutants"] += len(chosen)
            print(f"{module}: {len(chosen)} mutants", flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
