# SPDX-License-Identifier: MIT
"""What can be done with orders."""

from sqlalchemy.ext.asyncio import AsyncSession

from eventbus import Publisher

from .contracts.events import OrderPlaced
from .models import Order

CREDIT = 1_000_00


class CreditExceededError(ValueError):
    """The order costs more than customers are trusted with."""


class OrderService:
    """Places orders, in the transaction and on the publisher of its caller."""

    def __init__(self, session: AsyncSession, events: Publisher) -> None:
        self._session = session
        self._events = events

    async def place(self, customer: str, cents: int) -> Order:
        """Place an order.

        Raises:
            CreditExceededError: It costs too much.
        """
        if cents > CREDIT:
            raise CreditExceededError(f"an order may cost {CREDIT} cents, got {cents}")
        order = Order(customer=customer, cents=cents)
        self._session.add(order)
        await self._session.flush()  # which gives it its id
        await self._events.publish(OrderPlaced(order.id))
        return order
