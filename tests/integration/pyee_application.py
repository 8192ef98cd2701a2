# SPDX-License-Identifier: MIT
"""An application written against the pyee variant, with sync lambdas as spies."""

import asyncio
from dataclasses import dataclass

from pyee_variant import Event, EventBus


@dataclass(frozen=True)
class OrderPlaced(Event):
    order_id: int


@dataclass(frozen=True)
class InvoiceIssued(Event):
    order_id: int


class InvoiceService:
    def __init__(self, bus: EventBus) -> None:
        self.bus = bus

    async def on_order_placed(self, event: OrderPlaced) -> None:
        await asyncio.sleep(0)
        await self.bus.publish(InvoiceIssued(event.order_id))


async def main() -> dict[str, list[int]]:
    bus = EventBus()
    placed, invoiced, mailed, announced = [], [], [], []
    finished = asyncio.Event()

    async def send_mail(event: InvoiceIssued) -> None:
        await asyncio.sleep(0)
        mailed.append(event.order_id)
        if event.order_id == 2:
            finished.set()

    def fail(event: OrderPlaced) -> None:
        raise OSError("the audit disk is full")

    announce = lambda event: announced.append(event.order_id)  # noqa: E731
    bus.subscribe(OrderPlaced, lambda event: placed.append(event.order_id))
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, InvoiceService(bus).on_order_placed)
    bus.subscribe(OrderPlaced, announce)
    bus.subscribe(InvoiceIssued, lambda event: invoiced.append(event.order_id))
    bus.subscribe(InvoiceIssued, send_mail)

    await bus.publish(OrderPlaced(1))
    assert mailed == [1]  # publish has waited, for what the handlers published too
    bus.unsubscribe(OrderPlaced, announce)
    bus.publish_nowait(OrderPlaced(2))
    assert placed == [1]  # publish_nowait has not
    await finished.wait()
    return {"placed": placed, "invoiced": invoiced, "mailed": mailed, "announced": announced}
