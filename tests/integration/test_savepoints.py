# SPDX-License-Identifier: MIT
"""C9: a savepoint's events go the way of its rows; nothing is published before the commit."""

import pytest
from shop.database import open_database
from shop.invoices.models import Invoice
from shop.invoices.module import InvoicesModule
from shop.orders.models import Order
from shop.orders.module import OrdersModule
from shop.orders.service import OrderService
from shop.transactions import on_bus
from sqlalchemy import select

from eventbus import EventBus, Publisher
from eventbus.modules import register_modules


class Refused(Exception):
    """The payment provider will not have it."""


async def place_in_savepoint(session, events: Publisher, customer: str, *, refused: bool) -> None:
    """A service that is handed a publisher and opens a savepoint, and a block of its own."""
    async with events.deferred() as nested, session.begin_nested():
        await OrderService(session, nested).place(customer, 10_00)
        if refused:
            raise Refused


async def customers(sessions):
    async with sessions() as session:
        ordered = list(await session.scalars(select(Order.customer).order_by(Order.id)))
        issued = list(
            await session.scalars(
                select(Order.customer)
                .join(Invoice, Invoice.order_id == Order.id)
                .order_by(Order.id)
            )
        )
    return ordered, issued


@pytest.mark.parametrize("outer_fails", [False, True])
async def test_savepoints(database, outer_fails):
    """A savepoint that is rolled back drops its events alone; the outer rollback drops them all."""
    failures = []
    async with open_database(database) as sessions, EventBus(on_error=failures.append) as bus:
        register_modules(bus, [OrdersModule(), InvoicesModule(on_bus(bus, sessions), books=None)])
        try:
            async with bus.deferred() as events, sessions.begin() as session:
                # Before the first savepoint: sqlite3 begins a transaction with a change only.
                await OrderService(session, events).place("Zoe", 10_00)
                await place_in_savepoint(session, events, "Ann", refused=False)
                with pytest.raises(Refused):
                    await place_in_savepoint(session, events, "Bob", refused=True)
                await place_in_savepoint(session, events, "Cid", refused=False)
                assert (await customers(sessions))[1] == []
                if outer_fails:
                    raise Refused
        except Refused:
            assert outer_fails
        kept = [] if outer_fails else ["Zoe", "Ann", "Cid"]
        assert await customers(sessions) == (kept, kept)
    assert failures == []
