# SPDX-License-Identifier: MIT
"""What other modules may ask about orders: a question is a function, and not an event."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..models import Order


async def cents_of(session: AsyncSession, order_id: int) -> int:
    """Return what an order costs; raise `NoResultFound` if there is no such order."""
    return (await session.execute(select(Order.cents).where(Order.id == order_id))).scalar_one()
