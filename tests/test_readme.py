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
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not README.exists(), reason="the folder was copied without its README")
def test_examples_print_what_the_readme_says():
    """Every Python example of the README runs; its output is the text block below it, if any."""
    examples = EXAMPLE.findall(README.read_text())
    assert len(examples) >= 5
    names: dict[str, object] = {"__name__": "readme"}
    for source, expected in examples:
        source = re.sub(r"^from eventbus\b", f"from {PACKAGE}", source, flags=re.MULTILINE)
        code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, names))
            else:
                exec(code, names)
        assert printed.getvalue() == expected


@pytest.mark.skipif(not README.exists(), reason="the folder was copied without its README")
def test_quick_start_is_short():
    """The first example of the README has at most twenty lines of code."""
    source, _ = EXAMPLE.findall(README.read_text())[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
