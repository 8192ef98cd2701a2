# SPDX-License-Identifier: MIT
"""`python -m eventbus`: the command line, and its demo."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from target import PACKAGE, package

ROOT = Path(package.__file__).parents[len(PACKAGE.split("."))]
README = Path(__file__).parent.parent / "README.md"


def run(*arguments, stdout=subprocess.PIPE, **environment):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", PACKAGE, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        timeout=30,
    )


def normal(output):
    """Return what is the same for every run of the demo, under whatever name of the package."""
    output = output.replace(PACKAGE.replace(".", os.sep) + os.sep, "eventbus/")
    output = re.sub(r"[\d.]+ ms", "# ms", output.replace(f"{PACKAGE}.", "eventbus."))
    return [re.sub(r"(?<=\w) +", " ", line) for line in output.splitlines()]


def test_demo_tells_the_whole_story():
    """The demo fits on a screen, shows what happens and who handles what, and succeeds."""
    result = run("demo")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines if not line.startswith("The log:")) <= 100
    for wonder in ("failed: OSError", "background", "nobody handles it", "ERROR handler", "async"):
        assert wonder in result.stdout


def in_readme(language, beginning):
    """Return the block of the README in that language that begins so, in its normal form."""
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    (block,) = [block for block in blocks if block.startswith(beginning)]
    return normal(block)


@pytest.mark.skipif(not README.exists(), reason="the folder was copied without its README")
def test_demo_is_in_the_readme(monkeypatch):
    """The README shows the tree of the demo as printed, but for the milliseconds."""
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert importlib.import_module(f"{PACKAGE}.__main__").main(["demo"]) == 0
    _, _, tree = printed.getvalue().partition("\n\n")
    assert normal(tree.partition("\n\n")[0]) == in_readme("text", "OrderPlaced")


def test_a_poor_terminal_will_do():
    """A terminal that knows no lines to draw with gets something else in their place."""
    result = run("demo", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "InvoiceIssued" in result.stdout


def test_an_unknown_command_is_refused():
    """A wrong word gives exit status 2, and the words that would be right."""
    result = run("dmeo")
    assert result.returncode == 2
    assert "demo" in result.stderr


def test_without_a_command_it_prints_the_help(command, capsys):
    """`python -m eventbus` alone names its commands."""
    assert command([]) == 0
    assert "{demo,map}" in capsys.readouterr().out


def test_version(command, capsys):
    """`--version` tells the name and the version."""
    with pytest.raises(SystemExit) as end:
        command(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"{PACKAGE} {package.__version__}\n"


@pytest.mark.parametrize("arguments", [["demo"], ["--help"]])
def test_a_closed_pipe_ends_it_silently(arguments):
    """Where nobody reads what it prints, as after `| head -1`, it ends, and says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    result = run(*arguments, stdout=writing)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")
