# SPDX-License-Identifier: MIT
"""The outbox: an event is committed with its data, and is delivered, whatever fails or dies.

Those that ask for `engine` run on SQLite and on PostgreSQL.
"""

import asyncio
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import time

import pytest
from shop.database import UNREACHABLE, open_database
from shop.invoices.contracts.events import InvoiceIssued, InvoicePaid
from shop.invoices.models import Invoice
from shop.invoices.module import InvoicesModule
from shop.orders.contracts.events import OrderPlaced
from shop.orders.models import Order
from shop.orders.module import OrdersModule
from shop.orders.service import OrderService
from shop.outbox import DeadLetter, EventTypes, Outbox, Waiting
from shop.relay import ATTEMPTS, LEASE, Delivery, Relay, is_new, under_way
from shop.transactions import EVENT_TYPES, in_outbox
from sqlalchemy import select, text, update
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError, InvalidRequestError

from eventbus import Event
from eventbus.modules import register_modules

README = (Path(__file__).parent / "shop" / "README.md").read_text("utf-8")


async def place(sessions, *, cents=10_00):
    """Place an order, its event in the outbox; return its id."""
    async with sessions.begin() as session:
        return (await OrderService(session, Outbox(session, EVENT_TYPES)).place("Ann", cents)).id


def new_relay(sessions):
    """A relay with the modules of the shop."""
    relay = Relay(sessions, EVENT_TYPES)
    register_modules(relay.bus, [OrdersModule(), InvoicesModule(in_outbox(sessions), books=None)])
    return relay


async def rows(sessions, *columns):
    """The values of a column, or of several, in all rows of a table, in the order of the first."""
    async with sessions() as session:
        found = await session.execute(select(*columns).order_by(columns[0]))
        return [row[0] if len(columns) == 1 else tuple(row) for row in found]


async def change(sessions, **values):
    """Change all waiting events, as time or another version of the shop would."""
    async with sessions.begin() as session:
        await session.execute(update(Waiting).values(**values))


class Died(BaseException):
    """The process ends here."""


async def test_event_is_committed_with_its_data(engine, database):
    """A service that takes a publisher writes its event in its transaction: both, or none."""
    async with open_database(database) as sessions:
        await place(sessions)
        with pytest.raises(ZeroDivisionError):
            async with in_outbox(sessions)() as (session, events):
                await OrderService(session, events).place("Bob", 10_00)
                await session.flush()
                raise ZeroDivisionError
        assert await rows(sessions, Order.id) == [1]
        assert await rows(sessions, Waiting.type, Waiting.payload) == [
            ("orders.OrderPlaced", '{"order_id":1}')
        ]


async def test_events_follow_each_other(engine, database):
    """What a handler writes in its own transaction is delivered, too; in the end nothing waits."""
    async with open_database(database) as sessions:
        order_ids = [await place(sessions) for _ in range(3)]
        relay = new_relay(sessions)
        mailed = []
        relay.bus.subscribe(InvoiceIssued, lambda event: mailed.append(event.order_id))
        assert await relay.deliver(1000) == 6
        assert mailed == await rows(sessions, Invoice.order_id) == order_ids
        assert await rows(sessions, Waiting.id) == await rows(sessions, DeadLetter.id) == []


async def test_no_id_is_given_twice(engine, database):
    """An event that comes when all others are gone is not taken for one of them."""
    async with open_database(database) as sessions:
        relay = new_relay(sessions)
        for order_id in (1, 2):
            await place(sessions)
            await relay.deliver(1000)
            assert order_id in await rows(sessions, Invoice.order_id)


async def test_nudge_after_commit(database):
    """A relay is nudged when there is something to deliver, and it is committed."""
    async with open_database(database) as sessions:
        nudges = []
        transactions = in_outbox(sessions, lambda: nudges.append(1))
        async with transactions():
            pass
        with pytest.raises(ZeroDivisionError):
            async with transactions() as (_, events):
                await events.publish(OrderPlaced(1))
                raise ZeroDivisionError
        assert nudges == []
        async with transactions() as (_, events):
            await events.publish(OrderPlaced(1))
            assert nudges == []
        assert nudges == [1]


async def test_deferred_block(database):
    """C9: a nested block writes its events when it succeeds, and none when it does not."""
    async with open_database(database) as sessions:
        async with sessions.begin() as session:
            outbox = Outbox(session, EVENT_TYPES)
            async with outbox.deferred() as events:
                events.publish_nowait(OrderPlaced(1))
                assert not outbox.used
                async with events.deferred() as inner:
                    await inner.publish(OrderPlaced(2))
            assert outbox.used
            with pytest.raises(ZeroDivisionError):
                async with outbox.deferred() as events:
                    await events.publish(OrderPlaced(3))
                    raise ZeroDivisionError
            with pytest.raises(RuntimeError, match="after its `deferred"):
                await events.publish(OrderPlaced(4))
        payloads = await rows(sessions, Waiting.id, Waiting.payload)
        assert [payload for _, payload in payloads] == ['{"order_id":1}', '{"order_id":2}']


async def test_late_event_is_refused(database):
    """An event that comes after the transaction is refused: nobody would commit it."""
    async with open_database(database) as sessions:
        async with in_outbox(sessions)() as (_, events):
            pass
        with pytest.raises(InvalidRequestError, match="closed"):
            await events.publish(OrderPlaced(1))


async def test_type_without_a_name_is_refused(database):
    """Its publisher is told at once, and the remedy."""
    async with open_database(database) as sessions, sessions.begin() as session:
        with pytest.raises(TypeError, match="InvoicePaid has no name here; add it"):
            await Outbox(session, EVENT_TYPES).publish(InvoicePaid(1))


async def test_death_between_commit_and_relay(engine, database):
    """An event waits for a relay that has not even been there when it was written."""
    async with open_database(database) as sessions:
        await place(sessions)
    async with open_database(database) as sessions:
        assert await new_relay(sessions).deliver(1000) == 2
        assert await rows(sessions, Invoice.order_id) == [1]


async def test_death_before_the_handlers(engine, database, monkeypatch):
    """A relay that dies with an event in hand: another one takes it, when its lease is over."""
    async with open_database(database) as sessions:
        await place(sessions)
        dying = new_relay(sessions)
        monkeypatch.setattr(dying.bus, "publish", die)
        with pytest.raises(Died):
            await dying.deliver(1)
        relay = new_relay(sessions)
        assert await relay.deliver(1000) == 0
        ((attempts, due),) = await rows(sessions, Waiting.attempts, Waiting.due)
        assert (attempts, due) == (1, pytest.approx(time() + LEASE, abs=LEASE / 2))
        await change(sessions, due=0)
        assert await relay.deliver(1000) == 2
        assert await rows(sessions, Invoice.order_id) == [1]


async def test_death_after_the_handlers(engine, database, monkeypatch):
    """A relay that dies after the handler's commit: the event comes again, and is known."""
    async with open_database(database) as sessions:
        await place(sessions)
        dying = new_relay(sessions)
        monkeypatch.setattr(dying.bus, "join", die)  # what follows it is never done
        with pytest.raises(Died):
            await dying.deliver(1)
        assert await rows(sessions, Invoice.order_id) == [1]
        await change(sessions, due=0)
        assert await new_relay(sessions).deliver(1000) == 2
        assert await rows(sessions, Invoice.order_id) == [1]
        assert await rows(sessions, Delivery.handler, Delivery.repeated) == [("invoices.issue", 1)]


async def die(*_):
    raise Died


async def test_event_that_kills_its_relay(engine, database, monkeypatch):
    """It holds up nobody, and is a dead letter in the end: attempts are counted beforehand."""
    async with open_database(database) as sessions:
        await place(sessions)
        relay = new_relay(sessions)
        with monkeypatch.context() as patch:
            patch.setattr(relay.bus, "publish", die)
            for _ in range(ATTEMPTS):
                with pytest.raises(Died):
                    await relay.deliver(1)
                await change(sessions, due=0)
        assert await relay.deliver(1000) == 1
        ((order_id, error),) = await rows(sessions, DeadLetter.id, DeadLetter.error)
        assert order_id == 1
        assert "has ended its process" in error
        assert await rows(sessions, Invoice.order_id) == await rows(sessions, Waiting.id) == []


async def test_failing_handler(engine, database):
    """It is tried again after growing pauses; then its event is a dead letter, with the error.

    Meanwhile the handler beside it works once, later events of its order wait, and others do not.
    """
    async with open_database(database) as sessions:
        await place(sessions)
        async with sessions.begin() as session:
            await Outbox(session, EVENT_TYPES).publish(InvoiceIssued(9, order_id=1))
        await place(sessions)
        relay = new_relay(sessions)
        mailed = []
        relay.bus.subscribe(InvoiceIssued, lambda event: mailed.append(event.invoice_id))

        async def reserve(event):
            if event.order_id == 1:
                raise LookupError("out of stock")

        relay.bus.subscribe(OrderPlaced, reserve)
        for attempt in range(1, ATTEMPTS):
            assert await relay.deliver(1000) == (3 if attempt == 1 else 1)
            assert await rows(sessions, Invoice.order_id) == [1, 2]
            assert 9 not in mailed
            ((_, attempts, due), *_) = await rows(
                sessions, Waiting.id, Waiting.attempts, Waiting.due
            )
            assert attempts == attempt
            assert due == pytest.approx(time() + 2**attempt, abs=1)
            await change(sessions, due=0)
        assert await rows(sessions, DeadLetter.id) == []
        assert await relay.deliver(1000) == 3
        assert await rows(sessions, DeadLetter.aggregate, DeadLetter.error) == [
            ("order_id=1", f"{reserve.__module__}.{reserve.__qualname__}: {OUT_OF_STOCK!r}")
        ]
        assert sorted(mailed) == [1, 2, 9]
        assert await rows(sessions, Waiting.id) == []


OUT_OF_STOCK = LookupError("out of stock")


async def test_background_work_of_a_handler(engine, database):
    """What a handler leaves to `publish_nowait` belongs to the delivery; so does its failure."""
    async with open_database(database) as sessions:
        await place(sessions)
        relay = Relay(sessions, EVENT_TYPES)
        relay.bus.subscribe(OrderPlaced, lambda event: relay.bus.publish_nowait(InvoicePaid(7)))

        async def book(event):
            await asyncio.sleep(0)
            raise LookupError

        relay.bus.subscribe(InvoicePaid, book)
        await relay.deliver(1000)
        assert await rows(sessions, Waiting.attempts) == [1]


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("orders.OrderLost", '{"order_id": 1}', "no event is called 'orders.OrderLost' here"),
        ("orders.OrderPlaced", '{"order_id": 1', "ValidationError"),
        ("orders.OrderPlaced", '{"order_id": "one"}', "ValidationError"),
        ("orders.OrderPlaced", "{}", "Field required"),
        ("orders.OrderPlaced", "[" * 100_000, "ValidationError"),
    ],
)
async def test_what_cannot_be_read_is_set_aside(engine, database, name, payload, error):
    """An unknown type or a broken payload is a dead letter at once, and holds up nothing."""
    async with open_database(database) as sessions:
        await place(sessions)
        await change(sessions, type=name, payload=payload)
        await place(sessions)
        assert await new_relay(sessions).deliver(1000) == 3
        assert await rows(sessions, Invoice.order_id) == [2]
        assert await rows(sessions, DeadLetter.type, DeadLetter.payload) == [(name, payload)]
        assert error in (await rows(sessions, DeadLetter.error))[0]


async def test_payload_of_another_version(database):
    """A field that was added has its default; one that was removed is passed over."""

    @dataclass(frozen=True, slots=True)
    class OrderPlaced(Event):
        order_id: int
        currency: str = "EUR"

    async with open_database(database) as sessions:
        await place(sessions)
        await change(sessions, payload='{"order_id": 1, "customer": "Ann"}')
        relay = Relay(sessions, EventTypes({"orders.OrderPlaced": (OrderPlaced, "order_id")}))
        events = []
        relay.bus.subscribe(OrderPlaced, events.append)
        await relay.deliver(1000)
        assert events == [OrderPlaced(1, "EUR")]


def test_renamed_event():
    """A class with two names is written by the last, and read by both."""
    types = EventTypes({"Placed": (OrderPlaced, "order_id"), "orders.2": (OrderPlaced, "order_id")})
    row = types.write(OrderPlaced(7))
    assert row.type == "orders.2"
    assert types.read(row) == OrderPlaced(7)
    row.type = "Placed"
    assert types.read(row) == OrderPlaced(7)


async def test_dead_letter_is_moved_back(engine, database):
    """Its id stays, and with it the keys of the handlers that have succeeded."""
    async with open_database(database) as sessions:
        await place(sessions)
        relay = new_relay(sessions)
        fail = relay.bus.subscribe(OrderPlaced, lambda event: 1 / 0)
        await change(sessions, attempts=ATTEMPTS - 1)
        await relay.deliver(1000)
        assert await rows(sessions, DeadLetter.id) == [1]
        fail.cancel()
        async with sessions.begin() as session:
            for statement in MOVE_BACK.split(";"):
                await session.execute(text(statement))
        await relay.deliver(1000)
        assert await rows(sessions, Waiting.id) == await rows(sessions, DeadLetter.id) == []
        assert await rows(sessions, Invoice.order_id) == [1]


(MOVE_BACK,) = re.findall(r"```sql\n(INSERT INTO outbox.*?);\n```", README, re.DOTALL)


async def test_many_relays(engine, database):
    """Side by side they deliver each event once, and those of an order one after the other."""
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(open_database(database)) for _ in range(4)]
        async with databases[0].begin() as session:
            for number in range(40):
                await Outbox(session, EVENT_TYPES).publish(InvoiceIssued(number, number % 5))
        running, delivered, all_run = set(), {}, asyncio.Event()

        async def handle(event):
            assert event.order_id not in running
            running.add(event.order_id)
            delivered.setdefault(event.order_id, []).append(event.invoice_id)
            if len(running) == len(relays):
                all_run.set()
            await all_run.wait()
            running.remove(event.order_id)

        relays = [Relay(sessions, EVENT_TYPES) for sessions in databases]
        for relay in relays:
            relay.bus.subscribe(InvoiceIssued, handle)
        while await rows(databases[0], Waiting.id):
            await asyncio.gather(*(relay.deliver(1000) for relay in relays))
        assert delivered == {order: list(range(order, 40, 5)) for order in range(5)}
        assert await rows(databases[0], DeadLetter.error) == []


@pytest.mark.parametrize("fails", [False, True])
async def test_event_in_two_hands(engine, database, fails):
    """A relay that has outlived its lease does no harm: one invoice, or one dead letter."""
    async with open_database(database) as sessions:
        await place(sessions)
        slow, quick = new_relay(sessions), new_relay(sessions)
        started, ended = asyncio.Event(), asyncio.Event()

        async def linger(event):
            started.set()
            await ended.wait()
            if fails:
                raise LookupError

        slow.bus.subscribe(OrderPlaced, linger)
        await change(sessions, attempts=ATTEMPTS - 1 if fails else 0)
        lingering = asyncio.create_task(slow.deliver(1))
        await started.wait()
        while await rows(sessions, Invoice.id) == []:
            await asyncio.sleep(0)
        await change(sessions, due=0)
        assert await quick.deliver(1) == 1
        ended.set()
        assert await lingering == 1
        assert len(await rows(sessions, DeadLetter.id)) == fails
        assert await rows(sessions, Invoice.order_id) == [1]
        assert await rows(sessions, Waiting.type) == ["invoices.InvoiceIssued"]


async def test_late_failure(engine, database):
    """A relay that fails after its lease does not touch that of the one that is at it now."""
    async with open_database(database) as sessions:
        await place(sessions)
        slow, quick = Relay(sessions, EVENT_TYPES), Relay(sessions, EVENT_TYPES)
        started, failed, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def fail(event):
            started.set()
            await failed.wait()
            raise LookupError

        async def work(event):
            failed.set()
            await ended.wait()

        slow.bus.subscribe(OrderPlaced, fail)
        quick.bus.subscribe(OrderPlaced, work)
        failing = asyncio.create_task(slow.deliver(1))
        await started.wait()
        await change(sessions, due=0)
        working = asyncio.create_task(quick.deliver(1))
        await failing
        ((attempts, due),) = await rows(sessions, Waiting.attempts, Waiting.due)
        assert (attempts, due) == (2, pytest.approx(time() + LEASE, abs=LEASE / 2))
        ended.set()
        await working
        assert await rows(sessions, Waiting.id) == []


async def test_handler_that_hangs(database, monkeypatch):
    """It is cancelled before the lease is over, and has failed."""
    monkeypatch.setattr("shop.relay.LEASE", 0.1)
    async with open_database(database) as sessions:
        await place(sessions)
        relay = Relay(sessions, EVENT_TYPES)
        relay.bus.subscribe(OrderPlaced, lambda event: asyncio.Event().wait())
        assert await relay.deliver(1) == 1
        assert await rows(sessions, Waiting.attempts) == [1]


async def test_handlers_at_the_same_time(engine, database):
    """Of two that find the same event new, the second fails before it has done anything."""
    async with open_database(database) as sessions:
        event, row = OrderPlaced(1), Waiting(id=1, written=time())
        under_way.set((event, row))
        noted, found_new = asyncio.Event(), asyncio.Event()

        async def first():
            async with sessions.begin() as session:
                assert await is_new(session, event, "handle")
                noted.set()
                await found_new.wait()

        async def second():
            async with sessions.begin() as session:
                listen(session.sync_session, "before_flush", lambda *_: found_new.set())
                await is_new(session, event, "handle")

        running = asyncio.create_task(first())
        await noted.wait()
        with pytest.raises(IntegrityError):
            await second()
        await running


async def test_unreachable_database():
    """A relay says so by an error that its task knows: asyncpg raises what the socket does."""
    url = "postgresql+asyncpg://shop@/shop?host=/nowhere"
    async with open_database(url) as sessions:
        with pytest.raises(UNREACHABLE):
            await Relay(sessions, EVENT_TYPES).deliver(1)


async def test_directly_published_event_is_new(database):
    """Without an outbox there is no key: neither is one written, nor is anything taken for known.

    So it is with an event that a handler publishes directly, while an event of the outbox is under
    way: the two of one type must not be taken for one.
    """
    async with open_database(database) as sessions:
        await place(sessions)
        relay = Relay(sessions, EVENT_TYPES)
        new = []

        async def note(event):
            async with sessions.begin() as session:
                new.append(await is_new(session, event, "note"))

        async def publish_two(event):
            for _ in range(2):
                await relay.bus.publish(InvoiceIssued(1, event.order_id))

        relay.bus.subscribe(OrderPlaced, publish_two)
        relay.bus.subscribe(OrderPlaced, note)
        relay.bus.subscribe(InvoiceIssued, note)
        await relay.deliver(1000)
        await relay.bus.publish(OrderPlaced(1))
        assert new == [True] * 6
        assert await rows(sessions, Delivery.handler) == ["note"]
