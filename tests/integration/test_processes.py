# SPDX-License-Identifier: MIT
"""The shop's processes: a worker, two servers, and how they end."""

import signal
import sys
from contextlib import ExitStack

import pytest
from processes import eventually, read_events

ANN = {"customer": "Ann", "cents": 10_00}
BOOK = "shop.invoices.module.InvoicesModule.book"


def test_enqueued_task_survives_its_process(open_shop, start, broker, tmp_path):
    """What a handler has enqueued is done by a worker, though the server was killed at once."""
    settings = {"SHOP_BROKER": broker, "SHOP_MAILS": str(tmp_path)}
    shop = open_shop(**settings)
    with shop.client() as client:
        assert client.post("/orders", json=[ANN]).json() == [1]
        shop.process.send(signal.SIGKILL)
    assert shop.process.wait() == -signal.SIGKILL
    mail = tmp_path / "order-1.txt"
    assert not mail.exists()
    command = ("celery", "--app", "shop.mail.tasks", "worker", "--pool", "solo")
    start(sys.executable, "-m", *command, **settings)
    eventually(mail.exists)


def test_event_stays_in_its_process(open_shop):
    """Two servers of one shop: a stream gets the events of its own process, and no others."""
    shop = open_shop("--workers", "2")
    with ExitStack() as stack:
        clients = {}  # by process; the connection of a client stays with the one that accepted it

        def connect():
            client = stack.enter_context(shop.client())
            clients.setdefault(client.get("/status").json()["process"], []).append(client)
            return len(clients) == 2 and all(len(each) >= 2 for each in clients.values())

        eventually(connect)
        (here, listening_here, *_), (there, listening_there, *_) = clients.values()
        streams = []
        for client, listening in ((here, listening_here), (there, listening_there)):
            response = stack.enter_context(listening.stream("GET", "/invoices/stream"))
            streams.append(response.iter_lines())
            eventually(lambda client=client: "Queue.put" in client.get("/status").text)
        for order_id, client in ((1, here), (2, there)):
            assert client.post("/orders", json=[ANN]).json() == [order_id]
        for order_id, lines in enumerate(streams, start=1):
            (first,) = read_events(lines, 1)
            assert first == ("InvoiceIssued", {"invoice_id": order_id, "order_id": order_id})


@pytest.mark.parametrize("patient", [True, False])
def test_shutdown_under_load(open_shop, books, patient):
    """C6.2: at SIGTERM, background work is finished; what is out of time is named and cancelled."""
    shop = open_shop(SHOP_GRACE_SECONDS="30" if patient else "0.1")
    with shop.client() as client:
        for invoice_id in range(20):
            client.post(f"/invoices/{invoice_id}/payment")
        eventually(lambda: books.asked == 20)
        assert client.get("/status").json()["pending"] == 20
    shop.process.send(signal.SIGTERM)
    if patient:
        shop.process.wait_for_output("Waiting for application shutdown")
        books.open.set()
    assert shop.process.wait() in (0, -signal.SIGTERM)  # uvicorn ends as the signal would have
    assert "Application shutdown complete" in shop.process.output
    assert "Traceback" not in shop.process.output
    assert shop.process.output.count(BOOK) == (0 if patient else 20)
    assert books.booked == (20 if patient else 0)
