# SPDX-License-Identifier: MIT
"""The module of the invoices."""

import httpx

from eventbus import EventBus
from eventbus.modules import ModuleBase, ModuleMeta

from ..orders.contracts.events import OrderPlaced
from ..relay import is_new
from ..transactions import Transactions
from .contracts.events import InvoicePaid
from .service import InvoiceService


class InvoicesModule(ModuleBase):
    """Issues an invoice for every order, and has paid ones booked."""

    meta = ModuleMeta("invoices", depends_on=("orders",))

    def __init__(self, transactions: Transactions, books: httpx.AsyncClient):
        self._transactions = transactions
        self._books = books

    def register_event_handlers(self, bus: EventBus) -> None:
        """Subscribe both handlers."""
        bus.subscribe(OrderPlaced, self.issue)
        bus.subscribe(InvoicePaid, self.book)

    async def issue(self, event: OrderPlaced) -> None:
        """Issue the invoice of an order, in a transaction of its own, and once."""
        async with self._transactions() as (session, events):
            if await is_new(session, event, "invoices.issue"):
                await InvoiceService(session, events).issue(event.order_id)

    async def book(self, event: InvoicePaid) -> None:
        """Tell the bookkeepers, who may take their time."""
        response = await self._books.post("/paid", json={"invoice_id": event.invoice_id})
        response.raise_for_status()
