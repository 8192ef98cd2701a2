# SPDX-License-Identifier: MIT
"""`python -m eventbus map`: the bus of an application, found in what people have."""

import importlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from target import PACKAGE, package

ROOT = Path(package.__file__).parents[len(PACKAGE.split("."))]
HERE = str(Path("company", "shop.py"))

# An application, and what else its module might hold.
SHOP = """
import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from eventbus import Event, EventBus

class OrderPlaced(Event):
    pass

async def send_mail(event):
    pass

bus = EventBus()
bus.subscribe(OrderPlaced, send_mail)

class Application:
    bus = bus
    def make(self):
        return bus

application = Application()
make = lambda: bus

async def make_later():
    await asyncio.sleep(0)
    return bus

class Later:
    def __await__(self):
        return make_later().__await__()

later = Later()

@contextlib.contextmanager
def opened():
    print("open")
    yield bus
    print("closed")

@contextlib.asynccontextmanager
async def opened_later():
    print("open")
    yield bus
    print("closed")

manager = opened()

class ShopBus(EventBus):
    def __init__(self):
        super().__init__()
        self.subscribe(OrderPlaced, send_mail)

class App:
    def __init__(self, in_lifespan={}, **in_app):
        self.in_lifespan = in_lifespan
        self.state = SimpleNamespace(**in_app)

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "lifespan"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        scope["app"] = self
        scope["state"].update(self.in_lifespan)
        assert await receive() == {"type": "lifespan.startup"}
        print("open")
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        print("closed")
        await send({"type": "lifespan.shutdown.complete"})

class State:  # as Starlette and Litestar have it
    __slots__ = "_state"
    def __init__(self, **values):
        self._state = values

app = App({"number": 7, "bus": bus})
app_with_both = App({"bus": bus}, number=7, events=bus)
app_with_attribute = App(bus=bus)
app_with_state = App()
app_with_state.state = State(number=7, bus=bus)
app_with_mapping = App()
app_with_mapping.state = {"bus": bus}

async def wrapped(scope, receive, send):
    await app_with_attribute(scope, receive, send)

def make_app():
    return app

async def make_app_later():
    return app
"""
MAP = f"""\
OrderPlaced  no place found that makes it
└─ company.shop.send_mail  async  {HERE}:11
"""


@pytest.fixture
def shop(company):
    company("shop", SHOP)
    return company


@pytest.mark.parametrize(
    "attribute",
    [
        "bus",
        "make",
        "make_later",
        "later",
        "application.bus",
        "Application.bus",
        "application.make",
        "ShopBus",
    ],
)
def test_bus_is_found(shop, command, capsys, attribute):
    """Section 5: a bus, or what makes one; the current folder is importable."""
    assert command(["map", f"company.shop:{attribute}"]) == 0
    assert capsys.readouterr() == (MAP, "")


@pytest.mark.parametrize(
    "attribute",
    [
        "opened",
        "opened_later",
        "manager",
        "app",
        "make_app",
        "make_app_later",
        "wrapped",
        "app_with_both",
        "app_with_attribute",
        "app_with_state",
        "app_with_mapping",
    ],
)
def test_application_is_up_meanwhile(shop, command, capsys, attribute):
    """Section 5: context managers and lifespans are entered, the map is printed, and they end."""
    assert command(["map", f"company.shop:{attribute}"]) == 0
    assert capsys.readouterr() == (f"open\n{MAP}closed\n", "")


def test_current_folder_comes_first(shop, command, capsys, tmp_path, monkeypatch):
    """Section 5: as with uvicorn, the application is the one in the current folder."""
    (tmp_path / "elsewhere" / "company").mkdir(parents=True)
    (tmp_path / "elsewhere" / "company" / "shop.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    shop("__init__", "")
    (tmp_path / "elsewhere" / "company" / "__init__.py").touch()
    assert command(["map", "company.shop:bus"]) == 0
    assert capsys.readouterr() == (MAP, "")


def test_map_as_mermaid(shop, command, capsys):
    """`--format mermaid` prints the flowchart, what is missing being told and marked."""
    assert command(["map", "company.shop:bus", "--format", "mermaid"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "flowchart LR",
        '    n0(["OrderPlaced<br/>no place found that makes it"]):::unmade',
        f'    n1["company.shop.send_mail<br/>async<br/>{HERE}:11"]',
        "    n0 --> n1",
        "    classDef unmade stroke-dasharray:4",
    ]


def test_map_of_the_demo(command, capsys):
    """The package's own demo is an application like any other, if it is named."""
    assert command(["map", f"{PACKAGE}._demo:shop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "OrderEvent  no place found that makes it" in lines
    assert "GoodsReserved  nobody handles it" in lines
    assert any(line.startswith("└─ made in ") and "Stock.reserve" in line for line in lines)


# Errors


def error_of(command, capsys, *arguments):
    """Run `map`, which fails; return the line that says why, and what was printed before."""
    assert command(["map", *arguments]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    prefix = f"python3 -m {PACKAGE} map: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix), printed.out


FAILING = """
import asyncio, contextlib
from eventbus import Event, EventBus

number = 7

def fail(*_):
    raise LookupError("no settings\\nat all")

async def fail_later():
    fail()

def leave():
    raise SystemExit("not configured")

@contextlib.contextmanager
def fail_to_open():
    fail()
    yield

@contextlib.asynccontextmanager
async def fail_to_close():
    yield EventBus()
    fail()

@contextlib.contextmanager
def open_nothing():
    yield number

async def fail_in_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(fail_later())

def make_generator():
    yield EventBus()

def handle(event):
    pass

class Unfit:
    def __getattr__(self, name):
        return fail()

unfit = Unfit()

def refused():
    EventBus().subscribe(int, handle)

def fail_namelessly():
    raise AttributeError("gone")

def fail_to_import():
    raise ModuleNotFoundError("gone")

table = dict
"""


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [
        ("fail", "cannot call company.failing:fail: LookupError: no settings at all ({}:8)"),
        ("fail_later", "cannot call company.failing:fail_later: LookupError: no settings"),
        ("fail_in_group", "cannot call company.failing:fail_in_group: LookupError: no settings"),
        ("leave", "cannot call company.failing:leave: SystemExit: not configured ({}:14)"),
        ("refused", "({}:47)"),
        ("fail_to_open", "cannot start company.failing:fail_to_open(): LookupError: no settings"),
        ("unfit.bus", "cannot find unfit.bus in company.failing: LookupError: no settings"),
        ("fail_namelessly", "AttributeError: gone ({}:50)"),
        ("fail_to_import", "ModuleNotFoundError: gone ({}:53)"),
        ("number", "company.failing:number is a builtins.int"),
        ("table", "company.failing:table is a builtins.type"),
        ("handle", "company.failing:handle is a builtins.function"),
        ("make_generator", "company.failing:make_generator() is a builtins.generator"),
        ("open_nothing", "what company.failing:open_nothing() yields is a builtins.int"),
        ("nmber", "AttributeError: module 'company.failing' has no attribute 'nmber'; did you"),
        ("nmber", "; did you mean 'number'?"),
        ("xyz", "cannot find xyz in company.failing: AttributeError: module 'company.failing' has"),
    ],
)
def test_what_is_wrong_is_one_line(company, command, capsys, attribute, problem):
    """Section 5: what is wrong is one line, with file and line of the application's own code."""
    company("failing", FAILING)
    line, printed = error_of(command, capsys, f"company.failing:{attribute}")
    assert problem.format(Path("company", "failing.py")) in line
    assert printed == ""


def test_end_that_fails(company, command, capsys):
    """Section 5: the map has been printed when the application fails at its end."""
    company("failing", FAILING)
    line, printed = error_of(command, capsys, "company.failing:fail_to_close")
    assert line.startswith("cannot end company.failing:fail_to_close(): LookupError: no settings")
    assert printed == "nobody handles anything\n"


@pytest.mark.parametrize(
    "target", ["", "company.shop", ":bus", ".shop:bus", "company.shop:bus.", "company/shop.py:bus"]
)
def test_target_that_is_no_name(shop, command, capsys, target):
    """Section 5: what is no name of an attribute is told what is."""
    line, _ = error_of(command, capsys, target)
    assert line == f"expected package.module:attribute, as in shop.app:app, got {target!r}"


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("company.shp", "No module named 'company.shp'; did you mean 'company.shop'?"),
        ("compny.shop", "No module named 'compny'; did you mean 'company'?"),
        ("company.shop.bus", "'company.shop' is not a package"),
        ("company.broken", "ModuleNotFoundError: No module named 'nowhere_to_be_found' ({}:2)"),
        ("company.leaving", "SystemExit: not configured ({}:1)"),
        ("company.invalid", "SyntaxError: "),
        ("company.invalid", " ({}:2)"),
    ],
)
def test_module_that_cannot_be_imported(shop, command, capsys, module, problem):
    """Section 5: the nearest name of what is not there; the place where an import fails."""
    shop("broken", "\nimport nowhere_to_be_found")
    shop("leaving", "raise SystemExit('not configured')")
    shop("invalid", "\nx = = 1")
    line, _ = error_of(command, capsys, f"{module}:bus")
    assert line.startswith(f"cannot import {module}: ")
    assert problem.format(Path(*module.split(".")).with_suffix(".py")) in line


def test_traceback(company, command, capsys):
    """Section 5: `--traceback` shows all of what went wrong, and the line."""
    company("failing", FAILING)
    assert command(["map", "--traceback", "company.failing:fail"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert '    raise LookupError("no settings\\nat all")' in lines
    assert "cannot call company.failing:fail" in lines[-1]
    assert command(["map", "--traceback", "company"]) == 2  # nothing was raised but the line
    assert "MapError: expected package.module:attribute" in capsys.readouterr().err


# Lifespans that go wrong


def in_lifespan(body):
    """Return an application whose lifespan runs these statements."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"""
from eventbus import EventBus

async def app(scope, receive, send):
{lines}
"""


UP = """\
await receive()
scope["state"]["bus"] = EventBus()
await send({"type": "lifespan.startup.complete"})
"""
FAILED = "await send({'type': 'lifespan.startup.failed', 'message': 'A:\\n  no settings\\n'})\n"
NO_LIFESPAN = "cannot start company.app:app: it has no lifespan{}; name the bus, or what makes it"
NO_BUS = """\
found no bus in the state of company.app:app; yield {{"bus": bus}} in its lifespan or set \
app.state.bus, or name a function or context manager that makes the one to map"""
SEVERAL = """\
found several buses (bus, audit) in the state of company.app:app; name a function or context \
manager that makes the one to map"""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise ValueError('http only')", NO_LIFESPAN.format(" (ValueError: http only)")),
        ("pass", NO_LIFESPAN.format("")),
        (
            "await receive()\nraise SystemExit('not configured')",
            "cannot start company.app:app: SystemExit: not configured ({}:6)",
        ),
        (
            f"await receive()\n{FAILED}raise LookupError('no settings')",
            "cannot start company.app:app: LookupError: no settings ({}:7)",
        ),
        (
            f"await receive()\n{FAILED}await __import__('asyncio').sleep(0)\nraise LookupError(1)",
            "cannot start company.app:app: LookupError: 1 ({}:8)",
        ),
        (
            f"await receive()\n{FAILED}",
            "cannot start company.app:app: RuntimeError: no settings",
        ),
        (
            "await receive()\nawait send({'type': 'lifespan.startup.failed'})",
            "cannot start company.app:app: RuntimeError: it did not say why",
        ),
        ("await receive()", "cannot start company.app:app: RuntimeError: it did not say why"),
        ("await receive()\nawait send({'type': 'lifespan.startup.complete'})", NO_BUS),
        (UP + "scope['state'].update(audit=EventBus())", SEVERAL),
    ],
)
def test_start_that_fails(company, command, capsys, body, problem):
    """Section 5: no lifespan, one that fails, no bus in its state, or more than one: one line."""
    company("app", in_lifespan(body))
    line, printed = error_of(command, capsys, "company.app:app")
    assert line == problem.format(Path("company", "app.py"))
    assert printed == ""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise LookupError('gone')", "LookupError: gone ({}:8)"),
        (
            "await receive()\nawait send({'type': 'lifespan.shutdown.failed', 'message': 'gone'})",
            "RuntimeError: gone",
        ),
    ],
)
def test_shutdown_that_fails(company, command, capsys, body, problem):
    """Section 5: a lifespan that fails at its end is told, after the map."""
    company("app", in_lifespan(UP + body))
    line, printed = error_of(command, capsys, "company.app:app")
    assert line == "cannot end company.app:app: " + problem.format(Path("company", "app.py"))
    assert printed == "nobody handles anything\n"


@pytest.mark.parametrize("body", ["", "raise __import__('asyncio').CancelledError"])
def test_lifespan_that_ends_early(company, command, capsys, body):
    """Section 5: an application that does not wait for its shutdown is mapped as well."""
    company("app", in_lifespan(UP + body))
    assert command(["map", "company.app:app"]) == 0
    assert capsys.readouterr() == ("nobody handles anything\n", "")


def test_application_that_goes_on_after_its_failure(company, command, capsys):
    """Section 5: one that waits for more after it has failed to start is ended."""
    company("app", in_lifespan(f"await receive()\n{FAILED}await receive()"))
    line, _ = error_of(command, capsys, "company.app:app")
    assert line == "cannot start company.app:app: RuntimeError: no settings"


# Processes


@contextmanager
def start(*arguments, **options):
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", PACKAGE, "map", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # should it hang


def test_map_in_a_process_of_its_own(shop):
    """`python -m eventbus map` does all of this from a shell, and leaves its exit status."""
    with start("company.shop:make_app", stdout=subprocess.PIPE) as process:
        assert process.communicate(timeout=30) == (f"open\n{MAP}closed\n", "")
    assert process.returncode == 0
    with start("company.shop:nothing", stdout=subprocess.PIPE) as process:
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, printed, len(errors.splitlines())) == (2, "", 1)


def test_closed_pipe_ends_it_silently(shop):
    """Section 5: where nobody reads the map, the application is ended, and nothing is said."""
    shop("quiet", SHOP.replace("print(", "Path(__file__).with_suffix('.log').write_text("))
    reading, writing = os.pipe()
    os.close(reading)
    with start("company.quiet:app", stdout=writing) as process:
        os.close(writing)
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
    assert Path("company", "quiet.log").read_text("utf-8") == "closed"


HANGING = """
print("starting", flush=True)
try:
    await __import__("asyncio").Event().wait()
finally:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C goes to all processes")
def test_ctrl_c_ends_a_start_that_hangs(company, interruptible):
    """Section 5: Ctrl-C ends it, lets the application clean up, and leaves one line."""
    company("app", in_lifespan(HANGING))
    with start("company.app:app", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "starting\n"
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "stopped\n")
    assert errors == f"python3 -m {PACKAGE} map: interrupted\n"


def test_start_that_takes_long_says_so(company, command, capfd, monkeypatch):
    """Section 5: nobody stares at a silent start, even one that blocks: it is told once."""
    command_line = importlib.import_module(f"{PACKAGE}.__main__")
    monkeypatch.setattr(command_line, "PATIENCE", 0)
    company("slow", "import threading\nfor each in threading.enumerate()[1:]: each.join(10)\n")
    assert command(["map", "company.slow:bus"]) == 2
    told, _ = capfd.readouterr().err.splitlines()
    assert told == (
        f"python3 -m {PACKAGE} map: company.slow:bus has taken 0 seconds so far; Ctrl-C ends it"
    )
