# SPDX-License-Identifier: MIT
"""The README's examples run with the real libraries, and so does what was written for pyee."""

import asyncio
import sys
from pathlib import Path

import pytest
from test_readme import run_examples

HERE = Path(__file__).parent
PYEE = "from pyee_variant import Event, EventBus\n"


def test_readme():
    """Every example of the README runs, in order, and prints what it says."""
    _, marked = run_examples(integration=True)
    assert marked >= 5


@pytest.mark.parametrize("line", [PYEE, "from eventbus import Event, EventBus\n"])
def test_application_of_the_pyee_variant(monkeypatch, line):
    """An application written against the pyee variant runs with nothing changed but its import."""
    monkeypatch.syspath_prepend(str(HERE.parent.parent / "benchmarks"))
    source = (HERE / "pyee_application.py").read_text("utf-8")
    assert source.count(PYEE) == 1
    names = {"__name__": "application"}
    exec(source.replace(PYEE, line), names)
    assert asyncio.run(names["main"]()) == {
        "placed": [1, 2],
        "invoiced": [1, 2],
        "mailed": [1, 2],
        "announced": [1],
    }
    assert names["EventBus"].__module__.startswith(line.split()[1])
    sys.modules.pop("pyee_variant", None)
