# SPDX-License-Identifier: MIT
"""Async tests run in asyncio's debug mode; `errors` is what the library logs meanwhile."""

import asyncio
import gc
import importlib
import inspect
import logging
import re
import signal
import sys
import textwrap
import weakref
from pathlib import Path

import pytest
from support import OrderPlaced
from target import PACKAGE, EventBus


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a coroutine function as a test, on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    with asyncio.Runner(debug=True) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def bus(request):
    """A bus; a test that asks for `failures` as well finds there what is reported."""
    if "failures" in request.fixturenames:
        return EventBus(on_error=request.getfixturevalue("failures").append)
    return EventBus()


@pytest.fixture
def failures():
    """A list, to be filled by `bus`, or by one that is made with `on_error=failures.append`."""
    return []


class Gated:
    """A handler that waits until its gate is open, and counts how far it came."""

    def __init__(self):
        self.started, self.gate = asyncio.Event(), asyncio.Event()
        self.finished = self.cancelled = 0

    async def __call__(self, event):
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1


@pytest.fixture
def gated(bus):
    """A handler that waits for its gate to be opened, subscribed to OrderPlaced."""
    handler = Gated()
    bus.subscribe(OrderPlaced, handler)
    return handler


@pytest.fixture
def loop():
    """A loop to be run by hand, by a test that is no coroutine function."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    yield loop
    loop.close()


@pytest.fixture
def little_stack():
    """Leave as little room on the stack as serves code that does not pile up."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    yield
    sys.setrecursionlimit(before)


@pytest.fixture
def no_gc():
    """What has a reference cycle stays alive."""
    gc.disable()
    yield
    gc.enable()


def modules_below(folder):
    """Return the names of the modules that were imported from there, namespaces included."""

    def places(module):
        yield getattr(module, "__file__", None) or ""
        yield from getattr(module, "__path__", ())

    return [
        name
        for name, module in list(sys.modules.items())
        if any(place.startswith(str(folder)) for place in places(module))
    ]


@pytest.fixture
def company(tmp_path, monkeypatch):
    """Write a module of the package `company`, in a current folder that Python does not know.

    Meanwhile the tests' own modules are none, which would be taken for the application's.
    """
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    monkeypatch.chdir(tmp_path)
    for name in modules_below(Path(__file__).parent):
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()

    def write(name, source):
        file = tmp_path.joinpath("company", *name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(re.sub(r"\beventbus\b", PACKAGE, textwrap.dedent(source)), "utf-8")

    yield write
    for name in modules_below(tmp_path):
        del sys.modules[name]


@pytest.fixture
def command(company):
    """The command line, run in this process and in that folder."""
    return importlib.import_module(f"{PACKAGE}.__main__").main


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, though whoever has started the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def classes_die():
    """Skip what an interpreter rules out: 3.13t keeps every class, from its first thread on."""

    class Passing:
        pass

    died = weakref.ref(Passing)
    del Passing
    gc.collect()
    if died() is not None:
        pytest.skip("this interpreter keeps every class")


@pytest.fixture
def no_log(monkeypatch):
    """The library's log is off: pytest keeps the records, and with them what they are about."""
    monkeypatch.setattr(logging.getLogger(PACKAGE), "disabled", True)


@pytest.fixture
def no_noise(caplog):
    """After the test: asyncio has logged no exception or task that nobody took care of."""
    gc.freeze()  # what is there already need not be looked through
    yield
    gc.collect()
    gc.unfreeze()
    records = [record for record in caplog.get_records("call") if record.name == "asyncio"]
    assert [record.getMessage() for record in records if record.levelname == "ERROR"] == []


@pytest.fixture
def errors(caplog):
    """The records that the library has logged at WARNING or above so far; a live view."""

    class Records(list):
        def __iter__(self):
            return (
                record
                for record in caplog.records
                if record.name == PACKAGE and record.levelno >= logging.WARNING
            )

        def __len__(self):
            return sum(1 for _ in self)

        def __getitem__(self, index):
            return list(iter(self))[index]

    return Records()
