# SPDX-License-Identifier: MIT
"""A relay: delivers the events of an outbox on a bus, each until every handler has succeeded.

Events of one aggregate are delivered one after the other, in the order of their ids. One that
fails holds up its aggregate alone, and is a dead letter in the end; then the next ones follow.
"""

import logging
from time import time

from sqlalchemy import ColumnElement, Float, Update, and_, bindparam, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import aliased

from eventbus import Event, EventBus, HandlerFailure

from .outbox import DeadLetter, EventTypes, StoredEvent, Waiting, under_way

ATTEMPTS = 10  # until an event is a dead letter; the pauses are 2, 4, 8 ... 512 seconds
LEASE = 10.0  # seconds until an event is tried again whose relay has died; handlers have half

logger = logging.getLogger(__name__)


class Relay:
    """Delivers events on its `bus`, one at a time; any number of relays may share an outbox.

    It takes an event by making it due again after LEASE seconds, and counting the attempt, before
    it is read: should that, or a handler, end the process, the others go on, and this one is
    tried again, but not for ever.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], types: EventTypes) -> None:
        self._sessions = sessions
        self._types = types
        self._failures: list[HandlerFailure] = []
        self.bus = EventBus(on_error=self._failures.append, handler_timeout=LEASE / 2)

    async def deliver_next(self) -> bool:
        """Deliver the first event that is due; return False if there is none."""
        async with self._sessions.begin() as session:
            row = await session.scalar(TAKE_FIRST, {"now": time()})
        if row is None:
            return False
        try:
            if row.attempts > ATTEMPTS:
                raise TimeoutError("the last attempt has ended its process, or taken too long")
            event = self._types.read(row)
        except Exception as error:  # which would be the same next time
            await self._finish(row, f"{type(error).__name__}: {error}")
            return True
        error = await self._publish(event, row)
        if error and row.attempts < ATTEMPTS:
            await self._postpone(row)
        else:
            await self._finish(row, error)
        return True

    async def _publish(self, event: Event, row: Waiting) -> str:
        """Return what has failed, if anything has; the bus has logged it."""
        self._failures.clear()
        under_way.set((event, row))
        await self.bus.publish(event)
        await self.bus.join()
        return "; ".join(f"{each.handler.name}: {each.exception!r}" for each in self._failures)

    async def _postpone(self, row: Waiting) -> None:
        async with self._sessions.begin() as session:
            later = time() + 2**row.attempts
            await session.execute(update(Waiting).where(_is_still(row)).values(due=later))

    async def _finish(self, row: Waiting, error: str) -> None:
        """End an event, as a dead letter if there is an error."""
        async with self._sessions.begin() as session:
            found = await session.scalar(
                delete(Waiting).where(_is_still(row)).returning(Waiting.id)
            )
            if error and found:
                columns = {name: getattr(row, name) for name in StoredEvent.__annotations__}
                session.add(DeadLetter(**columns, error=error))
                logger.error("event %s, %s, is a dead letter now", row.id, row.type)


def _is_still(row: Waiting) -> ColumnElement[bool]:
    """No other relay has taken the row since, for want of a sign of life."""
    return and_(Waiting.id == row.id, Waiting.attempts == row.attempts)


def _take_first() -> Update:
    """Take the first event that is due and has none of its aggregate before it, in one statement.

    PostgreSQL passes over those that another relay is just taking; SQLite has one writer at a time.
    """
    waiting, earlier, now = aliased(Waiting), aliased(Waiting), bindparam("now", type_=Float)
    blocked = exists().where(earlier.aggregate == waiting.aggregate, earlier.id < waiting.id)
    first = select(waiting.id).where(waiting.due <= now, ~blocked).order_by(waiting.id).limit(1)
    return (
        update(Waiting)
        .where(Waiting.id == first.with_for_update(skip_locked=True).scalar_subquery())
        .values(attempts=Waiting.attempts + 1, due=now + LEASE)
        .returning(Waiting)
        .execution_options(synchronize_session=False)
    )


TAKE_FIRST = _take_first()
