# SPDX-License-Identifier: MIT
"""A shop of five modules that know events but not each other: what `demo` plays."""

import asyncio
from dataclasses import dataclass

from . import Event, EventBus


class OrderEvent(Event):
    """A base class; nothing is ever published as one."""


@dataclass(frozen=True, slots=True)
class OrderPlaced(OrderEvent):
    """A customer has placed an order."""

    order_id: int


@dataclass(frozen=True, slots=True)
class GoodsReserved(Event):
    """The goods of an order are set aside; nobody cares yet."""

    order_id: int


@dataclass(frozen=True, slots=True)
class InvoiceIssued(Event):
    """The invoice of an order has been issued."""

    order_id: int


@dataclass(frozen=True, slots=True)
class MailRequested(Event):
    """Somebody wants a mail to be sent."""

    text: str


class Stock:
    """Sets goods aside."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        bus.subscribe(OrderPlaced, self.reserve)

    async def reserve(self, event: OrderPlaced) -> None:
        """Set the goods of an order aside."""
        await self._bus.publish(GoodsReserved(event.order_id))


class Invoices:
    """Issues invoices, which takes a moment."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        bus.subscribe(OrderPlaced, self.issue)

    async def issue(self, event: OrderPlaced) -> None:
        """Issue the invoice of an order."""
        await asyncio.sleep(0.03)
        await self._bus.publish(InvoiceIssued(event.order_id))


class Ledger:
    """Books invoices."""

    def __init__(self, bus: EventBus) -> None:
        bus.subscribe(InvoiceIssued, self.book)

    def book(self, event: InvoiceIssued) -> None:
        """Book an invoice."""


class Mails:
    """Thanks for orders, in the background."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        bus.subscribe(OrderPlaced, self.thank)
        bus.subscribe(MailRequested, self.send)

    def thank(self, event: OrderPlaced) -> None:
        """Request a mail, and wait for nothing."""
        self._bus.publish_nowait(MailRequested(f"Thank you for order {event.order_id}"))

    async def send(self, event: MailRequested) -> None:
        """Send a mail, however long it takes."""
        await asyncio.sleep(0.05)


class Audit:
    """Writes everything down, as long as there is room."""

    def __init__(self, bus: EventBus) -> None:
        bus.subscribe(OrderPlaced, self.write)
        bus.subscribe(OrderEvent, self.write)

    def write(self, event: OrderEvent) -> None:
        """Fail, which nobody else will notice."""
        raise OSError("the audit disk is full")


def shop() -> EventBus:
    """Return a bus on which the whole shop listens."""
    bus = EventBus()
    for module in (Audit, Stock, Invoices, Ledger, Mails):
        module(bus)
    return bus
