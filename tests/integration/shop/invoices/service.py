# SPDX-License-Identifier: MIT
"""What can be done with invoices."""

from sqlalchemy.ext.asyncio import AsyncSession

from eventbus import Publisher

from ..orders.contracts.queries import cents_of
from .contracts.events import InvoiceIssued
from .models import Invoice


class InvoiceService:
    """Issues invoices, in the transaction and on the publisher of its caller."""

    def __init__(self, session: AsyncSession, events: Publisher) -> None:
        self._session = session
        self._events = events

    async def issue(self, order_id: int) -> None:
        """Issue the invoice of an order; raise `NoResultFound` if there is no such order."""
        invoice = Invoice(order_id=order_id, cents=await cents_of(self._session, order_id))
        self._session.add(invoice)
        await self._session.flush()
        await self._events.publish(InvoiceIssued(invoice.id, order_id))
