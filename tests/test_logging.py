# SPDX-License-Identifier: MIT
"""C4.4: a failure gets into the log, however that is configured, and as of the place it is from."""

import asyncio
import inspect
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import (
    FAILING,
    Failure,
    InvoiceIssued,
    OrderPlaced,
    every_failure,
    every_way,
    fail_late,
    fail_sync,
    use,
    with_and_without_factories,
)
from target import PACKAGE, Event, EventBus, package

ROOT = Path(package.__file__).parents[len(PACKAGE.split("."))]


@dataclass(frozen=True)
class Registered(Event):
    """An event whose payload is private."""

    password: str = "s3cr3t"

    def __repr__(self):
        raise AssertionError("the payload is looked at")


# Configured after the bus was made

PROGRAM = """
import asyncio, logging, logging.config, sys
import {package} as events

class OrderPlaced(events.Event):
    pass

def fail_sync(event):
    raise LookupError("no paper")

async def fail_async(event):
    await asyncio.sleep(0)
    raise LookupError("no paper")

bus = events.EventBus()
bus.subscribe(OrderPlaced, {handler})
logging.getLogger("other").error("before")
{configure}
assert logging.getLogger("other").disabled

async def main():
    {publish}

asyncio.run(main())
"""

CONFIGURE = {
    "dictConfig": 'logging.config.dictConfig({"version": 1})',
    "fileConfig": "logging.config.fileConfig(sys.argv[1])",
    "dictConfig of root": """logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "%(levelname)s:%(name)s:%(message)s"}},
    "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "INFO", "handlers": ["err"]},
})""",
}

INI = """
[loggers]
keys = root
[handlers]
keys = err
[formatters]
keys =
[logger_root]
level = WARNING
handlers = err
[handler_err]
class = StreamHandler
args = (sys.stderr,)
"""

PUBLISH = {
    "publish": "await bus.publish(OrderPlaced())",
    "publish_nowait": "bus.publish_nowait(OrderPlaced()); await bus.join()",
}


def run_program(tmp_path, program):
    """Run a program, warnings being errors, and return what it writes to stderr."""
    script, ini = tmp_path / "program.py", tmp_path / "logging.ini"
    script.write_text(program)
    ini.write_text(INI)
    result = subprocess.run(
        [sys.executable, "-W", "error", script, ini],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize("configure", CONFIGURE.values(), ids=CONFIGURE)
@pytest.mark.parametrize("publish", PUBLISH.values(), ids=PUBLISH)
@pytest.mark.parametrize("handler", ["fail_sync", "fail_async"])
def test_configured_after_import(tmp_path, configure, publish, handler):
    """C4.4: a configuration that disables existing loggers does not silence the first failure."""
    program = PROGRAM.format(package=PACKAGE, configure=configure, publish=publish, handler=handler)
    lines = run_program(tmp_path, program)
    assert lines.count(f"__main__.{handler} failed on OrderPlaced") == 1
    assert lines.count("LookupError: no paper") == 1
    assert lines.count("Traceback") == 1


def test_import_makes_no_logger(tmp_path):
    """C4.4: nor does a bus that nothing goes wrong on: there is nothing to be disabled."""
    program = f"""
import asyncio, logging, sys
import {PACKAGE} as events, {PACKAGE}.flow, {PACKAGE}.modules, {PACKAGE}.testing

class OrderPlaced(events.Event):
    pass

async def main():
    async with events.EventBus() as bus:
        bus.subscribe(OrderPlaced, print.__call__)
        with bus.subscribe(OrderPlaced, lambda event: asyncio.sleep(0)):
            await bus.publish(OrderPlaced())
            bus.publish_nowait(OrderPlaced())

sys.stdout = None
asyncio.run(main())
made = [name for name in logging.root.manager.loggerDict if name.startswith({PACKAGE!r})]
assert made == [], made
"""
    assert run_program(tmp_path, program) == ""


# The record


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def logger():
    """The package's logger; what is added to it in the test is taken off again."""
    logger = logging.getLogger(PACKAGE)
    before = logger.handlers[:], logger.filters[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.filters[:] = before[:2]
    logger.setLevel(before[2])
    logger.propagate = before[3]


@pytest.fixture
def records(logger):
    """The records that the package's logger has handled."""
    handler = Records()
    logger.addHandler(handler)
    return handler.records


def raising_line(function):
    """Return the line of the one `raise` of a function."""
    lines, first = inspect.getsourcelines(function)
    return first + next(n for n, line in enumerate(lines) if line.strip().startswith("raise"))


@every_failure
@every_way
@with_and_without_factories
async def test_record_is_as_of_the_place_that_raised(bus, records, fail, publish, factory):
    """C4.4: name, level, and file, line and function of the `raise`, not of the bus."""
    use(factory)
    bus.subscribe(OrderPlaced, fail)
    raising = fail if fail in FAILING[:3] else fail_late
    await publish(bus, OrderPlaced())
    (record,) = records
    assert (record.name, record.levelname, record.levelno) == (PACKAGE, "ERROR", logging.ERROR)
    assert record.pathname == raising.__code__.co_filename
    assert record.filename == "support.py"
    assert record.module == "support"
    assert record.lineno == raising_line(raising)
    assert record.funcName == raising.__name__
    error_type, error, traceback = record.exc_info
    assert error_type is Failure
    assert str(error) == "no paper"
    assert traceback is error.__traceback__
    assert "no paper" in logging.Formatter().format(record)
    assert f"in {raising.__name__}" in logging.Formatter().format(record)


@every_way
async def test_record_of_what_is_called_by_the_handler(bus, records, publish):
    """C4.4: the place is the innermost one, wherever the handler has called it."""
    bus.subscribe(OrderPlaced, lambda event: json.loads("{"))
    await publish(bus, OrderPlaced())
    (record,) = records
    assert Path(record.pathname).parts[-2] == "json"
    assert record.exc_info[0] is json.JSONDecodeError


@every_way
async def test_message_names_handler_event_and_chain(bus, records, publish):
    """C4.4: once a failure, whatever the level that it happened on."""

    async def place(event):
        await bus.publish(InvoiceIssued())

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, fail_sync)
    await publish(bus, OrderPlaced())
    (record,) = records
    message = record.getMessage()
    assert "support.fail_sync" in message
    assert "InvoiceIssued" in message
    assert "OrderPlaced -> InvoiceIssued" in message


@every_way
async def test_payload_is_not_looked_at(bus, records, publish):
    """C4.4: it is in neither the message nor its arguments, and its repr is not even asked for."""

    async def fail(event):
        raise Failure

    bus.subscribe(Registered, fail)
    bus.subscribe(Registered, lambda event: fail(event))
    await publish(bus, Registered())
    assert len(records) == 2
    for record in records:
        assert "s3cr3t" not in logging.Formatter().format(record)
        assert all(type(argument) is str for argument in record.args)


async def test_level_of_the_logger_is_heeded(bus, failures, records, logger):
    """C4.4: who wants no errors in the log has them in `on_error` still."""
    bus.subscribe(OrderPlaced, fail_sync)
    logger.setLevel(logging.CRITICAL)
    await bus.publish(OrderPlaced())
    assert records == []
    logger.setLevel(logging.NOTSET)
    await bus.publish(OrderPlaced())
    assert len(records) == 1
    assert len(failures) == 2


# Logging that fails


class Broken(logging.Handler):
    def handle(self, record):
        raise OSError("disk full")


def break_handler(logger):
    logger.addHandler(Broken())


def break_filter(logger):
    def fail(record):
        raise OSError("disk full")

    logger.addFilter(fail)


def break_emit(logger):
    class Emitting(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    logger.addHandler(Emitting())


@every_failure
@every_way
@pytest.mark.parametrize("breaking", [break_handler, break_filter, break_emit])
@with_and_without_factories
async def test_log_that_raises_loses_no_handler(
    logger, monkeypatch, fail, publish, breaking, factory
):
    """C4.4: neither those before and after the failed one nor `on_error`, nor the publisher."""
    use(factory)
    hooked, failures, finished = [], [], []
    monkeypatch.setattr(sys, "excepthook", lambda *exc_info: hooked.append(exc_info[0]))
    bus = EventBus(on_error=failures.append)

    async def work(event):
        await asyncio.sleep(0)
        finished.append("async")

    for handler in (work, lambda event: finished.append("sync"), fail):
        bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, lambda event: work(event))
    bus.subscribe(OrderPlaced, lambda event: finished.append("sync"))
    logger.propagate = False
    breaking(logger)
    for count in (1, 2):
        await publish(bus, OrderPlaced())
        assert finished.count("sync") == finished.count("async") == 2 * count
        assert len(failures) == count
    assert hooked == [OSError] * 2
    assert bus.pending == 0


@every_way
async def test_broken_log_and_broken_on_error(logger, monkeypatch, publish):
    """C4.4: both at once change nothing for the others either."""
    hooked, finished = [], []
    monkeypatch.setattr(sys, "excepthook", lambda *exc_info: hooked.append(exc_info[0]))

    def on_error(failure):
        raise LookupError

    bus = EventBus(on_error=on_error)
    bus.subscribe(OrderPlaced, fail_sync)
    bus.subscribe(OrderPlaced, finished.append)
    logger.propagate = False
    break_filter(logger)
    await publish(bus, OrderPlaced())
    assert len(finished) == 1
    assert hooked == [OSError] * 2


async def test_log_that_is_switched_off():
    """C4.4: an application that wants no errors logged gets none, an `on_error`'s included."""
    log, handler, records = logging.getLogger(PACKAGE), logging.Handler(), []
    handler.emit = records.append
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        bus = EventBus(on_error=lambda failure: int("on_error"))
        bus.subscribe(OrderPlaced, lambda event: int("handler"))
        await bus.publish(OrderPlaced())
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
    assert records == []
