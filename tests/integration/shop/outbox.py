# SPDX-License-Identifier: MIT
"""An outbox: events are rows, written in the transaction of the data, and delivered after it.

`Outbox(session, types)` is a publisher: services that take one do not know the difference. What
it has written is delivered by a relay (relay.py), at least once.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from time import time

from pydantic import TypeAdapter
from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from eventbus import Event, Publisher

from .database import Base

Id = BigInteger().with_variant(Integer, "sqlite")  # which counts with INTEGER alone


class StoredEvent:
    """What waiting events and dead letters have in common; times are seconds since the epoch."""

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    type: Mapped[str]
    aggregate: Mapped[str]
    payload: Mapped[str]
    written: Mapped[float]


class Waiting(StoredEvent, Base):
    """An event that is to be delivered, and is not taken before it is due."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_order", "aggregate", "id"),
        {"sqlite_autoincrement": True},  # no id is given twice
    )
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[float] = mapped_column(default=0.0)


class DeadLetter(StoredEvent, Base):
    """An event that could not be delivered, and why; to try again, move it back under its id."""

    __tablename__ = "dead_letters"
    error: Mapped[str]


class EventTypes:
    """The events that an outbox takes, by names that stay when a class is renamed.

    Args:
        types: By name, the class, and its field that names the aggregate. A class that was given
            a new name has the old one before it: read by both, it is written by the last.
    """

    def __init__(self, types: Mapping[str, tuple[type[Event], str]]) -> None:
        self._names = {kind: (name, field) for name, (kind, field) in types.items()}
        self._adapters = {name: TypeAdapter(kind) for name, (kind, _) in types.items()}

    def write(self, event: Event) -> Waiting:
        """Return the row of an event; raise `TypeError` if its type has no name."""
        if type(event) not in self._names:
            raise TypeError(f"{type(event).__qualname__} has no name here; add it to EventTypes")
        name, field = self._names[type(event)]
        payload = self._adapters[name].dump_json(event).decode()
        aggregate = f"{field}={getattr(event, field)}"
        return Waiting(type=name, aggregate=aggregate, payload=payload, written=time())

    def read(self, row: StoredEvent) -> Event:
        """Return the event of a row; fields that an older version lacks have their defaults."""
        if row.type not in self._adapters:
            raise LookupError(f"no event is called {row.type!r} here; add it to EventTypes")
        return self._adapters[row.type].validate_json(row.payload)


class Outbox:
    """A publisher whose events are part of the session's transaction, committed or lost with it.

    Attributes:
        used: Whether it has written anything.
    """

    def __init__(self, session: AsyncSession, types: EventTypes) -> None:
        self._types = types
        self._add: Callable[[Waiting], object] = session.add
        self.used = False

    async def publish(self, event: Event) -> None:
        """Write an event, as `publish_nowait`: no handler is waited for."""
        self.publish_nowait(event)

    def publish_nowait(self, event: Event) -> None:
        """Write an event; raise `TypeError`, or pydantic's error, if it cannot be written."""
        self._add(self._types.write(event))
        self.used = True

    @asynccontextmanager
    async def deferred(self) -> AsyncIterator[Publisher]:
        """Write the events of a block when it has succeeded, and none if it has not."""
        rows: list[Waiting] = []
        nested = copy(self)
        nested._add = rows.append
        try:
            yield nested
        finally:
            nested._add = _refuse
        for row in rows:
            self._add(row)
            self.used = True


def _refuse(row: Waiting) -> None:
    raise RuntimeError(f"{row.type} comes after its `deferred()` block; publish it inside")
