# SPDX-License-Identifier: MIT
"""Async tests run in asyncio's debug mode; `errors` is what the library logs meanwhile."""

import asyncio
import importlib
import inspect
import logging

import pytest
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
def bus():
    return EventBus()


@pytest.fixture(params=["first run", "has always finished at once"])
def history(request, monkeypatch):
    """Whether the bus believes that an `async def` has always finished at once in the background.

    It starts it there accordingly.
    """
    has_run = request.param != "first run"
    if has_run:
        compiled = importlib.import_module(f"{PACKAGE}._handler").CompiledHandler
        init = compiled.__init__

        def init_with_history(self, *arguments):
            init(self, *arguments)
            self.is_bare = self.may_be_bare

        monkeypatch.setattr(compiled, "__init__", init_with_history)
    return has_run


@pytest.fixture
def failures():
    """A list, to be filled by a bus that is made with `on_error=failures.append`."""
    return []


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
