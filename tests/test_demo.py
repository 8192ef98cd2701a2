# SPDX-License-Identifier: MIT
"""`python -m eventbus`: the command line, the demo and the map of an application."""

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

# An application, and what else its module might hold.
SHOP = f"""
import {PACKAGE} as events

class OrderPlaced(events.Event):
    pass

async def send_mail(event):
    pass

bus = events.EventBus()
bus.subscribe(OrderPlaced, send_mail)

class Application:
    bus = bus
    def make(self):
        return bus

application = Application()
make = lambda: bus
number = 7

async def make_later():
    return bus

make_hidden = lambda: make_later()

def fail():
    raise LookupError("no settings\\nat all")

def leave():
    raise SystemExit("not configured")
"""


def run(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", PACKAGE, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
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


# map


@pytest.fixture
def shop(tmp_path):
    """A folder with the application in a module of a package."""
    folder = tmp_path / "company"
    folder.mkdir()
    (folder / "shop.py").write_text(SHOP)
    (folder / "broken.py").write_text("import nowhere_to_be_found")
    (folder / "leaving.py").write_text("raise SystemExit('not configured')")
    return tmp_path


@pytest.fixture
def main(shop, monkeypatch):
    """The command line in this process, and in that folder, which Python was told to leave out."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    monkeypatch.chdir(shop)
    yield importlib.import_module(f"{PACKAGE}.__main__").main
    for name in [name for name in sys.modules if name.split(".")[0] == "company"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "attribute", ["bus", "make", "Application.bus", "application.bus", "application.make"]
)
def test_map_finds_the_bus(main, capsys, attribute):
    """The current folder is importable; attributes may have dots, and make the bus."""
    assert main(["map", f"company.shop:{attribute}"]) == 0
    path = Path("company", "shop.py")
    assert capsys.readouterr().out == f"OrderPlaced\n└─ company.shop.send_mail  async  {path}:7\n"


def test_without_a_command_it_prints_the_help(main, capsys):
    """`python -m eventbus` alone names its commands."""
    assert main([]) == 0
    assert "{demo,map}" in capsys.readouterr().out


def test_map_as_mermaid(main, capsys):
    """`--format mermaid` prints the flowchart."""
    assert main(["map", "company.shop:bus", "--format", "mermaid"]) == 0
    chart = capsys.readouterr().out.splitlines()
    assert (chart[0], chart[-1]) == ("flowchart LR", "    n0 --> n1")


def test_map_in_a_process_of_its_own(shop):
    """`python -m eventbus map` does all of this from a shell, and leaves its exit status."""
    result = run("map", "company.shop:make", cwd=shop)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("OrderPlaced\n└─ company.shop.send_mail")
    result = run("map", "company.shop:fail", cwd=shop)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            "company.shop",
            "expected package.module:attribute, as in shop.app:bus, got 'company.shop'",
        ),
        (":bus", "expected package.module:attribute, as in shop.app:bus, got ':bus'"),
        (".shop:bus", "expected package.module:attribute, as in shop.app:bus, got '.shop:bus'"),
        ("company.nowhere:bus", "cannot import company.nowhere: ModuleNotFoundError: No module"),
        ("company.broken:bus", "cannot import company.broken: ModuleNotFoundError: No module"),
        ("company.leaving:bus", "cannot import company.leaving: SystemExit: not configured"),
        ("company.shop:buss", "cannot find buss in company.shop: AttributeError: module"),
        ("company.shop:bus.", "cannot find bus. in company.shop: AttributeError: "),
        ("company.shop:number", "company.shop:number is a builtins.int"),
        ("company.shop:Application", "company.shop:Application is a builtins.type"),
        ("company.shop:make_later", "company.shop:make_later is a builtins.function"),
        ("company.shop:make_hidden", "company.shop:make_hidden() is a builtins.coroutine"),
        ("company.shop:send_mail", "company.shop:send_mail is a builtins.function"),
        ("company.shop:fail", "cannot call company.shop:fail: LookupError: no settings"),
        ("company.shop:leave", "cannot call company.shop:leave: SystemExit: not configured"),
    ],
)
def test_map_says_what_is_wrong(main, capsys, target, problem):
    """Whatever is wrong with the target is one line on stderr, and exit status 2."""
    assert main(["map", target]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"python3 -m {PACKAGE} map: ")
    assert problem in line
    assert printed.out == ""
