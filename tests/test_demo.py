# SPDX-License-Identifier: MIT
"""`python -m eventbus`: the command line, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from target import PACKAGE, package

ROOT = Path(package.__file__).parents[len(PACKAGE.split("."))]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", PACKAGE, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_demo_tells_the_whole_story():
    """The demo fits on a screen, tells what happens in order, and succeeds."""
    result = run("demo")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) <= 40
    moments = [
        "invoice (async) starts",
        "stock (sync) reserves",
        "audit (sync) fails",
        "log ERROR",
        "on_error: OSError",
        "mail (async, background) starts",
        "ledger (async) books",
        "invoice is done",
        "publish returns",
        "mail is sent",
        "the bus is closed",
        "OrderEvent was called 0 times",
    ]
    positions = [result.stdout.index(moment) for moment in moments]
    assert positions == sorted(positions)


def test_without_a_command_it_prints_the_help():
    """`python -m eventbus` alone names its commands."""
    result = run()
    assert result.returncode == 0
    assert "demo" in result.stdout


def test_an_unknown_command_is_refused():
    """A wrong word gives exit status 2, and the words that would be right."""
    result = run("dmeo")
    assert result.returncode == 2
    assert "demo" in result.stderr
