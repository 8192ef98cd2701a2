# SPDX-License-Identifier: MIT
"""Invoices over HTTP."""

from asyncio import Queue
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select

from eventbus import Event

from ..dependencies import Bus, Loop, Session
from .contracts.events import InvoiceIssued, InvoicePaid
from .models import Invoice

router = APIRouter(prefix="/invoices")


@router.get("")
async def invoiced_orders(session: Session) -> list[int]:
    """Return the ids of the orders that have got their invoices."""
    return list(await session.scalars(select(Invoice.order_id)))


@router.post("/{invoice_id}/payment", status_code=202)
def pay(invoice_id: int, bus: Bus, loop: Loop) -> None:
    """Take the bank's word that an invoice is paid.

    FastAPI calls a plain function in a thread of its own: the event goes back to the loop.
    """
    loop.call_soon_threadsafe(bus.publish_nowait, InvoicePaid(invoice_id))


@router.get("/stream", response_class=EventSourceResponse)
async def stream(bus: Bus) -> AsyncIterator[ServerSentEvent]:
    """Send what happens to invoices, until the client has gone."""
    queue: Queue[Event] = Queue()
    with bus.subscribe(InvoiceIssued, queue.put), bus.subscribe(InvoicePaid, queue.put):
        while True:
            event = await queue.get()
            yield ServerSentEvent(event=type(event).__name__, data=event)
