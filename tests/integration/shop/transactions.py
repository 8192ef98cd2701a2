# SPDX-License-Identifier: MIT
"""A transaction and its publisher: the one place that knows how events travel."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from eventbus import EventBus, Publisher

from .invoices.contracts.events import InvoiceIssued
from .orders.contracts.events import OrderPlaced
from .outbox import EventTypes, Outbox

Sessions = async_sessionmaker[AsyncSession]
Transactions = Callable[[], AbstractAsyncContextManager[tuple[AsyncSession, Publisher]]]

EVENT_TYPES = EventTypes(
    {
        "orders.OrderPlaced": (OrderPlaced, "order_id"),
        "invoices.InvoiceIssued": (InvoiceIssued, "order_id"),
    }
)


def on_bus(bus: EventBus, sessions: Sessions) -> Transactions:
    """Publish events after the commit, in this process, which may die in between."""

    @asynccontextmanager
    async def begin() -> AsyncIterator[tuple[AsyncSession, Publisher]]:
        async with bus.deferred() as events, sessions.begin() as session:
            yield session, events

    return begin


def in_outbox(sessions: Sessions, nudge: Callable[[], object] | None = None) -> Transactions:
    """Write events in the transaction; nudge a relay after the commit, if there are any.

    The handlers of a relay nudge nobody: it finds next what they have written.
    """

    @asynccontextmanager
    async def begin() -> AsyncIterator[tuple[AsyncSession, Publisher]]:
        async with sessions.begin() as session:
            outbox = Outbox(session, EVENT_TYPES)
            yield session, outbox
        if outbox.used and nudge is not None:
            nudge()

    return begin
