# SPDX-License-Identifier: MIT
"""The command line: `demo` plays an order on a real bus, `map` shows who handles what."""

import argparse
import asyncio
import importlib
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import EventBus
from ._demo import OrderPlaced, shop
from .flow import record, wiring

# `__name__` is "__main__" here, and `__package__` is on its way out of Python.
PACKAGE = EventBus.__module__.rpartition(".")[0]


async def demo() -> None:
    """Play an order, its invoice and its mail, and print what happens and who handles what."""
    log: list[str] = []

    class KeepLog(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.append(f"{record.levelname} {record.getMessage()}")

    logger, keeping = logging.getLogger(PACKAGE), KeepLog()
    logger.addHandler(keeping)
    try:
        async with shop() as bus:
            with record(bus) as flow:
                await bus.publish(OrderPlaced(7))
                await bus.join()
            who = wiring(bus)
    finally:
        logger.removeHandler(keeping)
    print(
        "What happened: an order was placed, one handler failed, and nobody else noticed.",
        f"\n{flow.tree()}\n",
        *[f"The log: {line}" for line in log],
        "\nWho handles what: by exact type, so the handler of the base OrderEvent was not called.",
        f"\n{who}",
        sep="\n",
    )


class MapError(Exception):
    """Why there is no bus to map, in one line."""


def load(target: str) -> EventBus:
    """Return the bus that `package.module:attribute` names, or is made by the function there.

    Raises:
        MapError: It cannot be imported, is not there, or is neither a bus nor makes one.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path or module_name.startswith("."):
        raise MapError(f"expected package.module:attribute, as in shop.app:bus, got {target!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:
        raise MapError(f"cannot import {module_name}: {_one_line(exc)}") from exc
    found: Any = module
    try:
        for name in path.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as exc:
        raise MapError(f"cannot find {path} in {module_name}: {_one_line(exc)}") from exc
    if callable(found) and not isinstance(found, type) and not inspect.iscoroutinefunction(found):
        try:
            found = found()
        except (Exception, SystemExit) as exc:
            raise MapError(f"cannot call {target}: {_one_line(exc)}") from exc
        path += "()"
    made: object = found
    if isinstance(made, EventBus):
        return made
    if inspect.iscoroutine(made):
        made.close()
    kind = type(made)
    raise MapError(
        f"expected a bus of {PACKAGE}, or a plain function that returns one; "
        f"{module_name}:{path} is a {kind.__module__}.{kind.__qualname__}"
    )


def _one_line(problem: object) -> str:
    text = f"{problem}".strip().partition("\n")[0]
    return f"{type(problem).__name__}: {text}" if isinstance(problem, BaseException) else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {PACKAGE}", description="An in-process event bus for asyncio."
    )
    commands = parser.add_subparsers(title="commands", dest="command")
    commands.add_parser("demo", help="play an order on a real bus, and print what happens")
    mapping = commands.add_parser("map", help="import an application, and print who handles what")
    mapping.add_argument(
        "bus",
        metavar="package.module:attribute",
        help="a bus, or a function without arguments that returns one",
    )
    mapping.add_argument("--format", choices=["text", "mermaid"], default="text")
    options = parser.parse_args(arguments)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # not every terminal knows the lines of a tree
    if options.command is None:
        parser.print_help()
    elif options.command == "demo":
        asyncio.run(demo())
    else:
        try:
            print(wiring(load(options.bus), options.format))
        except MapError as exc:
            print(f"{parser.prog} map: {exc}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
