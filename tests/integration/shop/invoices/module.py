# SPDX-License-Identifier: MIT
"""The module of the invoices."""

from functools import partial

import httpx
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from eventbus import EventBus
from eventbus.modules import ModuleBase, ModuleMeta

from ..orders.contracts.events import OrderPlaced
from .contracts.events import InvoicePaid
from .service import InvoiceService


class InvoicesModule(ModuleBase):
    """Issues an invoice for every order, and has paid ones booked."""

    meta = ModuleMeta("invoices", depends_on=("orders",))

    def __init__(self, sessions: async_sessionmaker[AsyncSession], books: httpx.AsyncClient):
        self._sessions = sessions
        self._books = books

    def register_event_handlers(self, bus: EventBus) -> None:
        """Subscribe both handlers."""
        bus.subscribe(OrderPlaced, partial(self.issue, bus))
        bus.subscribe(InvoicePaid, self.book)

    async def issue(self, bus: EventBus, event: OrderPlaced) -> None:
        """Issue the invoice of an order, in a transaction of its own."""
        async with bus.deferred() as events, self._sessions.begin() as session:
            await InvoiceService(session, events).issue(event.order_id)

    async def book(self, event: InvoicePaid) -> None:
        """Tell the bookkeepers, who may take their time."""
        response = await self._books.post("/paid", json={"invoice_id": event.invoice_id})
        response.raise_for_status()
