# SPDX-License-Identifier: MIT
"""The README keeps its word: each block of Python runs, pasted alone into a file of its own.

It prints what the text block below it says. One that defines tests is given to pytest, with the
option that the paragraph above it names. Those fenced as ```` ```python integration ```` need other
packages: tests/integration runs them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from target import PACKAGE, package

ROOT = Path(package.__file__).parents[len(PACKAGE.split("."))]
README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text("utf-8") if README.exists() else ""
BLOCK = re.compile(
    r"^```python( integration)?\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE
)
PROSE = re.sub(r"^```.*?^```\n", "", TEXT, flags=re.DOTALL | re.MULTILINE)

needs_readme = pytest.mark.skipif(not TEXT, reason="the folder was copied without its README")


class Block(NamedTuple):
    """A block of Python, its output, and the paragraph above it."""

    line: int
    source: str
    output: str
    above: str

    def __str__(self):
        return f"line {self.line}"

    @property
    def is_test(self):
        return bool(re.search(r"^(async )?def test_", self.source, re.MULTILINE))

    def write(self, folder):
        """Save it as a file, with its configuration beside it; return the file."""
        file = folder / "app.py"
        file.write_text(self.source, "utf-8")
        option = re.search(r"`(\w+ = .*?)`.*?`(\[tool\.pytest\S+\])`", self.above, re.DOTALL)
        if option:
            (folder / "pyproject.toml").write_text(f"{option[2]}\n{option[1]}\n")
        return file

    def command(self, file):
        """Return the command that runs the file, warnings being errors, or told by pytest."""
        if self.is_test:
            return [sys.executable, "-m", "pytest", "-q", file]
        return [sys.executable, "-X", "dev", "-W", "error", file]


def run(command, folder):
    """Run a command in a folder; return its status, and what it writes to stdout and stderr."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    return result.returncode, result.stdout, result.stderr


def renamed(text):
    """Return what it is where the package was copied to another place."""
    return re.sub(r"\beventbus\b", PACKAGE, text)


def blocks(text, *, integration):
    """Return the blocks that need other packages, or those that do not."""
    return [
        Block(
            text[: found.start()].count("\n") + 1,
            renamed(found[2]),
            renamed(found[3] or ""),
            text[: found.start()].rstrip().rpartition("\n\n")[2],
        )
        for found in BLOCK.finditer(text)
        if bool(found[1]) is integration
    ]


PLAIN = blocks(TEXT, integration=False)


def check(block, folder):
    """Run a block in an empty folder; it succeeds, and prints what the README says, and no more."""
    result = run(block.command(block.write(folder)), folder)
    if block.is_test:
        assert result[0] == 0, result
        assert re.search(r"^\d+ passed in", result[1], re.MULTILINE), result
    else:
        assert result == (0, block.output, "")


@pytest.mark.parametrize("block", PLAIN, ids=str)
def test_block_runs_alone(block, tmp_path):
    """Every block runs in a process of its own, and prints exactly what the README says."""
    check(block, tmp_path)


@needs_readme
def test_blocks_are_found():
    """Every fence of Python is one of them, and few need more than the standard library."""
    others = blocks(TEXT, integration=True)
    assert len(PLAIN) + len(others) == TEXT.count("\n```python")
    assert len(PLAIN) >= len(others) >= 2


# Runs a file many times over, its threads taking turns as often as can be.
OFTEN = """
import runpy, sys
sys.setswitchinterval(1e-6)
for _ in range(100):
    runpy.run_path(sys.argv[1], run_name="__main__")
"""


@needs_readme
def test_threads_lose_no_event(tmp_path):
    """The recipe for threads handles its last event before the bus is closed, every time."""
    (recipe,) = (block for block in PLAIN if "to_thread" in block.source)
    command = [sys.executable, "-W", "error", "-c", OFTEN, recipe.write(tmp_path)]
    assert run(command, tmp_path) == (0, recipe.output * 100, "")


@needs_readme
def test_it_is_short():
    """It has at most 350 lines, and its first example at most twenty of code."""
    assert TEXT.count("\n") <= 350
    assert len([line for line in PLAIN[0].source.splitlines() if line.strip()]) <= 20


@needs_readme
def test_links_lead_somewhere():
    """Each link is to a section, and the contents have all of them: on PyPI there are no files."""
    headings = re.findall(r"^## (.*)$", PROSE, re.MULTILINE)
    anchors = ["#" + re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings]
    links = re.findall(r"\]\(([^)\s]+)\)", PROSE)
    assert links[: len(anchors)] == anchors
    assert [link for link in links if link not in anchors and "://" not in link] == []


@needs_readme
def test_it_reads_well_on_pypi():
    """There neither Mermaid nor pictures of the repository are shown."""
    assert "```mermaid" not in TEXT
    assert re.findall(r"!\[|<img", PROSE) == []
