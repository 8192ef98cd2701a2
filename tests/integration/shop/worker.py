# SPDX-License-Identifier: MIT
"""The worker that delivers events: `celery --app shop.worker worker --queues relay --beat`.

It is woken by a nudge after each commit, and every second, in case that a nudge was lost.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from os import environ

import httpx
from celery import Task
from celery.signals import worker_process_shutdown, worker_shutdown
from kombu.exceptions import OperationalError

from eventbus.modules import register_modules

from .database import UNREACHABLE, open_database
from .invoices.module import InvoicesModule
from .jobs import app
from .mail.module import MailModule
from .orders.module import OrdersModule
from .relay import Relay
from .transactions import EVENT_TYPES, in_outbox

EVENTS = 100  # that one task delivers; then those beside it have their turn

logger = logging.getLogger(__name__)
app.conf.beat_schedule = {"relay": {"task": "shop.worker.relay", "schedule": 1.0}}
app.conf.task_routes = {"shop.worker.relay": {"queue": "relay"}}


class RelayTask(Task):
    """Keeps the loop, the database and the relay of its process from one run to the next."""

    def __init__(self) -> None:
        self._resources = AsyncExitStack()
        worker_shutdown.connect(self._close)
        worker_process_shutdown.connect(self._close)

    @cached_property
    def runner(self) -> asyncio.Runner:
        """The loop, started in the process that uses it."""
        return asyncio.Runner()

    @cached_property
    def relay(self) -> Relay:
        """The relay, with all modules subscribed to its bus."""
        return self.runner.run(self._open())

    async def _open(self) -> Relay:
        enter = self._resources.enter_async_context
        sessions = await enter(open_database(environ["SHOP_DATABASE"]))
        books = await enter(httpx.AsyncClient(base_url=environ["SHOP_BOOKS"], timeout=None))
        relay = Relay(sessions, EVENT_TYPES)
        bus = await enter(relay.bus)
        invoices = InvoicesModule(in_outbox(sessions), books)
        register_modules(bus, [OrdersModule(), invoices, MailModule()])
        return relay

    def _close(self, **_signal: object) -> None:
        if "runner" in vars(self):
            with self.runner as runner:
                runner.run(self._resources.aclose())


# No task of this kind is missed: those that a relay finds after ten seconds are left out.
@app.task(base=RelayTask, bind=True, acks_late=False, expires=10)
def relay(task: RelayTask) -> None:
    """Deliver what is due."""
    try:
        tried = task.runner.run(task.relay.deliver(EVENTS))
    except UNREACHABLE as error:
        cause = getattr(error, "orig", error)  # SQLAlchemy says it in several lines
        logger.error("the outbox cannot be read, next try in a second: %s", cause)
    else:
        if tried == EVENTS:
            relay.delay()


@asynccontextmanager
async def nudging() -> AsyncIterator[Callable[[], None]]:
    """Offer a function that has a relay woken, and returns at once; calls meanwhile are one.

    If the broker does not answer, the next beat does the same.
    """
    wanted = asyncio.Event()
    task = asyncio.create_task(_nudge(wanted))
    try:
        yield wanted.set
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _nudge(wanted: asyncio.Event) -> None:
    while await wanted.wait():
        wanted.clear()
        try:
            await asyncio.to_thread(relay.apply_async, retry=False)
        except (OperationalError, OSError) as error:
            logger.warning("no relay was nudged, events wait for the next beat: %s", error)
