# SPDX-License-Identifier: MIT
"""How fast events go through the outbox, and beside it, directly on a bus.

Both ways have the same handlers: an invoice in a transaction of its own, a mail enqueued.
"""

import asyncio
from statistics import median, quantiles
from time import perf_counter

from shop import jobs
from shop.database import open_database
from shop.invoices.module import InvoicesModule
from shop.mail.module import MailModule
from shop.orders.contracts.events import OrderPlaced
from shop.orders.module import OrdersModule
from shop.orders.service import OrderService
from shop.relay import Delivery
from shop.transactions import in_outbox, on_bus
from shop.worker import nudging
from sqlalchemy import select

from eventbus import EventBus
from eventbus.modules import register_modules

PAUSE = 0.05  # seconds between orders whose delay is measured
WARMING = 5  # orders before, whose delay is not: relays open their database with the first


def figures(events, seconds, delays):
    """Say it: events a second, and the delays, given in seconds."""
    milliseconds = [1000 * delay for delay in delays]
    last = quantiles(milliseconds, n=100)[-1]
    rate = f"{events / seconds:,.0f} events/s"
    return f"{rate}; to the handler {median(milliseconds):.1f} ms (median), {last:.1f} ms (99 %)"


async def place(transactions):
    async with transactions() as (session, events):
        await OrderService(session, events).place("Ann", 10_00)


async def measure_outbox(database, broker, orders, wait_until_empty):
    """Measure the relays that are running: first the delay, then how fast they catch up."""
    jobs.app.conf.broker_url = broker
    async with open_database(database) as sessions, nudging() as nudge:
        for _ in range(WARMING + orders):
            await place(in_outbox(sessions, nudge))
            await asyncio.sleep(PAUSE)
        await wait_until_empty(sessions)
        async with sessions() as session:
            newest = select(Delivery.delay).order_by(Delivery.event_id.desc()).limit(orders)
            delays = list(await session.scalars(newest))
        async with in_outbox(sessions)() as (session, events):
            for _ in range(orders):
                await OrderService(session, events).place("Ann", 10_00)
        began = perf_counter()
        nudge()
        await wait_until_empty(sessions)
        return figures(2 * orders, perf_counter() - began, delays)


async def measure_direct(database, orders):
    """Measure a bus in this process."""
    delays, began = [], [0.0]
    async with open_database(database) as sessions, EventBus() as bus:
        bus.subscribe(OrderPlaced, lambda event: delays.append(perf_counter() - began[0]))
        transactions = on_bus(bus, sessions)
        modules = [OrdersModule(), InvoicesModule(transactions, books=None), MailModule()]
        register_modules(bus, modules)
        spent = 0.0
        for _ in range(orders):
            async with transactions() as (session, events):
                await OrderService(session, events).place("Ann", 10_00)
                began = [perf_counter()]
            spent += perf_counter() - began[0]
        return figures(2 * orders, spent, delays)
