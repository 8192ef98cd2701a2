# SPDX-License-Identifier: MIT
"""What can be done with mails."""

import asyncio

from eventbus import Publisher

from . import tasks
from .contracts.events import MailQueued


class MailService:
    """Leaves mails to the worker."""

    def __init__(self, events: Publisher) -> None:
        self._events = events

    async def send(self, order_id: int) -> None:
        """Enqueue the mail of an order; `delay` talks to the broker, and blocks meanwhile."""
        await asyncio.to_thread(tasks.send.delay, order_id)
        await self._events.publish(MailQueued(order_id))
