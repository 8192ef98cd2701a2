# SPDX-License-Identifier: MIT
"""The shop over HTTP, on its database: what is committed is published, and nothing else."""

import pytest
from processes import eventually, read_events
from shop.database import open_database
from shop.invoices.models import Invoice
from shop.invoices.module import InvoicesModule
from shop.orders.module import OrdersModule
from shop.orders.service import OrderService
from shop.transactions import on_bus
from sqlalchemy import select
from sqlalchemy.exc import NoResultFound

from eventbus import EventBus
from eventbus.modules import register_modules

ANN = {"customer": "Ann", "cents": 10_00}


def handlers(client):
    return client.get("/status").json()["handlers"]


def test_order_is_invoiced(client):
    """An order over HTTP has its invoice when the response comes: `publish` has waited."""
    assert client.post("/orders", json=[ANN, ANN]).json() == [1, 2]
    assert client.get("/invoices").json() == [1, 2]
    assert handlers(client) == {
        "OrderPlaced": ["shop.invoices.module.InvoicesModule.issue"],
        "InvoicePaid": ["shop.invoices.module.InvoicesModule.book"],
        "InvoiceIssued": ["shop.mail.module.MailModule.send"],
    }


def test_rolled_back_request_publishes_nothing(open_shop):
    """C9: an event recorded before the request fails goes with its order."""
    shop = open_shop()
    too_much = {"customer": "Bob", "cents": 10_000_00}
    with shop.client() as client:
        assert client.post("/orders", json=[ANN, too_much]).status_code == 409
        assert client.get("/orders").json() == client.get("/invoices").json() == []
        assert client.post("/orders", json=[ANN]).json() == [1]
        assert client.get("/invoices").json() == [1]
    shop.process.close()
    assert "failed on OrderPlaced" not in shop.process.output  # for want of an order


@pytest.mark.parametrize("deferred", [True, False])
async def test_handlers_see_what_is_committed(database, deferred):
    """C9: published before the commit, an event reaches handlers that cannot see its row yet."""
    failures = []
    async with open_database(database) as sessions, EventBus(on_error=failures.append) as bus:
        register_modules(bus, [OrdersModule(), InvoicesModule(on_bus(bus, sessions), books=None)])
        if deferred:
            async with bus.deferred() as events, sessions.begin() as session:
                await OrderService(session, events).place("Ann", 10_00)
        else:  # the wrong way
            async with sessions.begin() as session:
                await OrderService(session, bus).place("Ann", 10_00)
        async with sessions() as session:
            invoiced = list(await session.scalars(select(Invoice.order_id)))
    if deferred:
        assert (invoiced, failures) == ([1], [])
    else:
        assert invoiced == []
        assert [type(failure.exception) for failure in failures] == [NoResultFound]


def test_stream(client, books):
    """Events of the loop and of a thread are streamed; a client that goes leaves nothing behind.

    The payment comes from a plain route, which runs in a thread: `call_soon_threadsafe`.
    """
    books.open.set()
    before = handlers(client)
    with client.stream("GET", "/invoices/stream") as response:
        eventually(lambda: len(handlers(client)["InvoicePaid"]) == 2)
        assert handlers(client)["InvoiceIssued"][1:] == ["asyncio.queues.Queue.put"]
        client.post("/orders", json=[ANN])
        assert client.post("/invoices/1/payment").status_code == 202
        assert read_events(response.iter_lines(), 2) == [
            ("InvoiceIssued", {"invoice_id": 1, "order_id": 1}),
            ("InvoicePaid", {"invoice_id": 1}),
        ]
    eventually(lambda: handlers(client) == before)
    eventually(lambda: books.booked == 1)
