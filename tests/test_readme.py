# SPDX-License-Identifier: MIT
"""The README's Python examples run in order, sharing names, and print what it says they print.

Those fenced as ```` ```python integration ```` need other packages, and are left out here.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
from pathlib import Path

import pytest
from target import PACKAGE

README = Path(__file__).parent.parent / "README.md"
EXAMPLE = re.compile(
    r"^```python( integration)?\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE
)


def run_examples(*, integration):
    """Run the examples and compare what they print; return how many of either kind there are.

    Those that need more than the standard library, marked as `integration`, are left out unless
    asked for.
    """
    names: dict[str, object] = {"__name__": "readme"}
    run = {True: 0, False: 0}
    for mark, source, expected in EXAMPLE.findall(README.read_text("utf-8")):
        if mark and not integration:
            continue
        source = re.sub(r"^from eventbus\b", f"from {PACKAGE}", source, flags=re.MULTILINE)
        code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, names))
            else:
                exec(code, names)
        assert printed.getvalue() == expected, source
        run[bool(mark)] += 1
    return run[False], run[True]


@pytest.mark.skipif(not README.exists(), reason="the folder was copied without its README")
def test_examples_print_what_the_readme_says():
    """Every Python example of the README runs; its output is the text block below it, if any."""
    plain, marked = run_examples(integration=False)
    assert plain >= 5
    assert marked == 0


@pytest.mark.skipif(not README.exists(), reason="the folder was copied without its README")
def test_quick_start_is_short():
    """The first example of the README has at most twenty lines of code."""
    _, source, _ = EXAMPLE.findall(README.read_text())[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
