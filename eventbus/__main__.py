# SPDX-License-Identifier: MIT
"""The command line: `demo` plays an order on a real bus, `map` shows who handles and makes what."""

import argparse
import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from . import __version__
from ._application import PACKAGE
from ._demo import OrderPlaced, shop
from ._finding import MapError, Target
from ._makers import find_makers
from ._wiring import draw
from .flow import record, wiring

PATIENCE = 10  # seconds that `map` may take before it says so


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


async def show_map(target: Target, format: str) -> None:
    """Print who handles what in an application, and who makes it, while the application is up."""
    async with target.bus() as bus:
        makers, problems = find_makers(target.application)
        for problem in problems:
            print(f"left out: {problem}", file=sys.stderr)
        with silent_pipe():
            print(draw(bus, format, makers))


@contextmanager
def silent_pipe() -> Generator[None, None, None]:
    """Print what the block prints; nothing more if the reader has enough, like `head -1`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # which the interpreter's end would run into again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def told_if_slow(message: str) -> Generator[None, None, None]:
    """Print a message if the block, blocking or not, has taken `PATIENCE`."""
    timer = threading.Timer(PATIENCE, lambda: print(message, file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; print the help if there is no command."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {PACKAGE}", description="An in-process event bus for asyncio."
    )
    parser.add_argument("--version", action="version", version=f"{PACKAGE} {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command")
    commands.add_parser("demo", help="play an order on a real bus, and print what happens")
    mapping = commands.add_parser(
        "map",
        help="start an application, and print who handles which events, and who makes them",
        description="Print who handles which events on an application's bus, and the places that "
        "make them, found by reading the source of the application's own modules.",
    )
    mapping.add_argument(
        "target",
        metavar="package.module:attribute",
        help="an ASGI application, which is started and ended for it, with the bus in the state of "
        "its lifespan or in app.state; a bus; or a function without arguments, sync or async, or a "
        "context manager that makes either",
    )
    mapping.add_argument("--format", choices=["text", "mermaid"], default="text")
    mapping.add_argument(
        "--traceback", action="store_true", help="on an error, show all of it, not one line"
    )
    options = parser.parse_args(arguments)
    options.prog = parser.prog
    if options.command is None:
        parser.print_help()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # not every terminal knows the lines of a tree
    with silent_pipe():
        options = parse(arguments)
        if options.command == "demo":
            asyncio.run(demo())
        elif options.command == "map":
            return map_application(options)
    return 0


def map_application(options: argparse.Namespace) -> int:
    """Run `map`, and return its exit status."""
    prefix = f"{options.prog} map: "
    slow = f"{prefix}{options.target} has taken {PATIENCE} seconds so far; Ctrl-C ends it"
    try:
        with told_if_slow(slow):
            asyncio.run(show_map(Target(options.target), options.format))
    except MapError as exc:
        if options.traceback:
            traceback.print_exception(exc.__cause__ or exc)
        print(f"{prefix}{exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prefix}interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
