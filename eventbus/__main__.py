# SPDX-License-Identifier: MIT
"""The command line: `demo` plays an order on a real bus and prints what happens."""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from . import Event, EventBus, HandlerFailure


class OrderEvent(Event):
    """A base class; nothing is ever published as one."""


@dataclass(frozen=True, slots=True)
class OrderPlaced(OrderEvent):
    """A customer has placed an order."""

    order_id: int


@dataclass(frozen=True, slots=True)
class InvoiceIssued(Event):
    """The invoice of an order has been issued."""

    order_id: int


@dataclass(frozen=True, slots=True)
class MailRequested(Event):
    """Somebody wants a mail to be sent."""

    text: str


async def demo() -> None:
    """Play an order, its invoice and its mail, with a handler that fails."""
    began = time.perf_counter()

    def show(text: str) -> None:
        print(f"{(time.perf_counter() - began) * 1000:4.0f} ms  {text}")

    class ShowLog(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(f"    log {record.levelname}: {record.getMessage()}, with its traceback")

    def show_failure(failure: HandlerFailure) -> None:
        show(f"    on_error: {failure.exception!r}")

    logging.getLogger(__package__).addHandler(ShowLog())
    async with EventBus(on_error=show_failure) as bus:

        @bus.on(OrderPlaced)
        async def invoice(event: OrderPlaced) -> None:
            show("    invoice (async) starts, and takes a moment")
            await asyncio.sleep(0.3)
            show("    invoice publishes InvoiceIssued, and waits for its handlers")
            await bus.publish(InvoiceIssued(event.order_id))
            show("    invoice is done")

        @bus.on(OrderPlaced)
        def stock(event: OrderPlaced) -> None:
            show(f"    stock (sync) reserves the goods of order {event.order_id}")

        @bus.on(OrderPlaced)
        def audit(event: OrderPlaced) -> None:
            show("    audit (sync) fails")
            raise OSError("the audit disk is full")

        @bus.on(OrderPlaced)
        def notify(event: OrderPlaced) -> None:
            show("    notify (sync) leaves a mail to the background: publish_nowait")
            bus.publish_nowait(MailRequested(f"Thank you for order {event.order_id}"))

        @bus.on(MailRequested)
        async def mail(event: MailRequested) -> None:
            show("    mail (async, background) starts")
            await asyncio.sleep(0.5)
            show(f"    mail is sent: {event.text!r}")

        @bus.on(InvoiceIssued)
        async def ledger(event: InvoiceIssued) -> None:
            show(f"        ledger (async) books the invoice of order {event.order_id}")

        base_class_calls: list[OrderEvent] = []
        bus.subscribe(OrderEvent, base_class_calls.append)

        print("Four handlers react to OrderPlaced; none of them knows another.\n")
        show("await bus.publish(OrderPlaced(7))")
        await bus.publish(OrderPlaced(7))
        show("publish returns: all four have finished, one of them failed, nobody else noticed")
        show(f"bus.pending is {bus.pending}: the mail; leaving `async with` waits for it")
    show("the bus is closed")
    print(
        f"\nA handler of the base class OrderEvent was called {len(base_class_calls)} times: "
        "delivery is by exact type."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {__package__}", description="An in-process event bus for asyncio."
    )
    commands = parser.add_subparsers(title="commands", dest="command")
    commands.add_parser("demo", help="play an order on a real bus, and print what happens")
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    asyncio.run(demo())
    return 0


if __name__ == "__main__":
    sys.exit(main())
