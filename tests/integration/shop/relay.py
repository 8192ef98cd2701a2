# SPDX-License-Identifier: MIT
"""A relay: delivers the events of an outbox on a bus, each until every handler has succeeded.

Events of one aggregate are delivered one after the other, in the order of their ids. One that
fails holds up its aggregate alone, and is a dead letter in the end; then the next ones follow.
"""

import logging
from contextvars import ContextVar
from time import time

from sqlalchemy import (
    Float,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, aliased, mapped_column
from sqlalchemy.sql.dml import UpdateBase

from eventbus import Event, EventBus, HandlerFailure

from .database import Base
from .outbox import DeadLetter, EventTypes, Id, StoredEvent, Waiting

ATTEMPTS = 10  # until an event is a dead letter; the pauses are 2, 4, 8 ... 512 seconds
LEASE = 10.0  # seconds until an event is tried again whose relay has died; handlers have half

logger = logging.getLogger(__name__)
# The event that a relay delivers, and its row; whatever its handlers start is in this context.
under_way: ContextVar[tuple[Event, StoredEvent] | None] = ContextVar("under_way", default=None)


class Delivery(Base):
    """What a handler has done, written in its own transaction: its idempotency key."""

    __tablename__ = "deliveries"
    event_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    handler: Mapped[str] = mapped_column(primary_key=True)
    delay: Mapped[float]  # seconds since the event was written
    repeated: Mapped[int] = mapped_column(default=0)


async def is_new(session: AsyncSession, event: Event, handler: str) -> bool:
    """Tell whether `handler` sees an event for the first time, and note it in its transaction."""
    delivered, row = under_way.get() or (None, None)
    if row is None or delivered is not event:
        return True  # it was published directly
    known = await session.get(Delivery, (row.id, handler))
    if known is None:
        session.add(Delivery(event_id=row.id, handler=handler, delay=time() - row.written))
    else:
        known.repeated += 1
    await session.flush()  # of two at the same time one fails here, before it has done anything
    return known is None


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

    async def deliver(self, most: int) -> int:
        """Deliver what is due, the oldest first; return how many events, at most `most`, it tried.

        What has become of one is written in the transaction that takes the next.
        """
        outcome: list[UpdateBase] = []
        tried = 0
        while True:
            async with self._sessions.begin() as session:
                for statement in outcome:
                    await session.execute(statement)
                wanted = tried < most
                row = await session.scalar(TAKE_FIRST, {"now": time()}) if wanted else None
            if row is None:
                return tried
            outcome = await self._attempt(row)
            tried += 1

    async def _attempt(self, row: Waiting) -> list[UpdateBase]:
        """Deliver an event; return the statements that end or postpone it."""
        # If it was not so long, another relay has the row by now, and the last word on it.
        mine = and_(Waiting.id == row.id, Waiting.attempts == row.attempts)
        try:
            if row.attempts > ATTEMPTS:
                raise TimeoutError("the last attempt has ended its process, or taken too long")
            event = self._types.read(row)
        except Exception as exception:  # which would be the same next time
            error = f"{type(exception).__name__}: {exception}"
        else:
            error = await self._publish(event, row)
            if error and row.attempts < ATTEMPTS:
                return [update(Waiting).where(mine).values(due=time() + 2**row.attempts)]
        if not error:
            return [delete(Waiting).where(mine)]
        logger.error("event %s, %s, becomes a dead letter", row.id, row.type)
        columns = Waiting.id, Waiting.type, Waiting.aggregate, Waiting.payload, Waiting.written
        letter = select(*columns, literal(error)).where(mine)
        names = [*(column.key for column in columns), "error"]
        return [insert(DeadLetter).from_select(names, letter), delete(Waiting).where(mine)]

    async def _publish(self, event: Event, row: Waiting) -> str:
        """Return what has failed, if anything has; the bus has logged it."""
        self._failures.clear()
        under_way.set((event, row))
        await self.bus.publish(event)
        await self.bus.join()
        return "; ".join(f"{each.handler.name}: {each.exception!r}" for each in self._failures)


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
