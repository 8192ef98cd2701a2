# SPDX-License-Identifier: MIT
"""The outbox in processes: what wakes a relay, what is missing, and what is killed."""

import asyncio
import os
import re
import sys
import threading

import pytest
from kombu.exceptions import OperationalError
from processes import BEAT, HERE, SECONDS, WORKER, eventually
from servers import find_postgres, sqlite
from shop import worker
from shop.database import create_tables
from shop.worker import EVENTS

ANN = {"customer": "Ann", "cents": 10_00}


@pytest.fixture
def work(broker, start, database, books, tmp_path):
    """Start a worker for relaying and mails, with further options and settings of the shop."""

    def work(*options, **settings):
        environment = {
            "SHOP_DATABASE": database,
            "SHOP_BOOKS": books.url,
            "SHOP_BROKER": broker,
            "SHOP_MAILS": str(tmp_path),
            **settings,
        }
        return start(
            sys.executable, "-m", *WORKER, "--queues", "celery,relay", *options, **environment
        )

    return work


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_nudge(work, open_shop, broker, tmp_path, engine):
    """Without a beat, orders over HTTP have their invoices and mails: the commit wakes a relay.

    There are more events than one task delivers, two of an order: it wakes another one.
    """
    process = work("--pool", "prefork", "--concurrency", "2")
    process.wait_for_output(r" ready\.")
    with open_shop(SHOP_BROKER=broker, SHOP_EVENTS="outbox").client() as client:
        order_ids = client.post("/orders", json=[ANN] * (EVENTS // 2 + 1)).json()
        eventually(lambda: sorted(client.get("/invoices").json()) == order_ids)
    for order_id in order_ids:
        eventually((tmp_path / f"order-{order_id}.txt").exists)
    process.close()
    assert "Traceback" not in process.output


def test_beat(work, open_shop):
    """An event whose nudge reaches nobody is delivered by the next beat."""
    work("--pool", "solo", *BEAT)
    with open_shop(SHOP_BROKER="memory://", SHOP_EVENTS="outbox").client() as client:
        assert client.post("/orders", json=[ANN]).json() == [1]
        eventually(lambda: client.get("/invoices").json() == [1])


async def test_nudges(monkeypatch, caplog):
    """Nobody waits for a nudge; many are one; one that fails is told, and the next is sent."""
    sent, answer = [], threading.Event()

    def send(**_options):
        sent.append(1)
        answer.wait(SECONDS)
        if len(sent) == 1:
            raise OperationalError("no broker")

    monkeypatch.setattr(worker.relay, "apply_async", send)
    async with worker.nudging() as nudge:
        for count in (1, 2):
            for _ in range(3):
                nudge()
            while len(sent) < count:
                await asyncio.sleep(0)
            answer.set()
        assert caplog.messages == ["no relay was nudged, events wait for the next beat: no broker"]
    assert sent == [1, 1]


def test_unreachable_database(work, open_shop, broker, tmp_path):
    """The client is told to try again; the worker says so in one line, and goes on trying."""
    folder = tmp_path / "later"
    database = sqlite(folder)
    process = work("--pool", "solo", *BEAT, SHOP_DATABASE=database)
    shop = open_shop(SHOP_BROKER=broker, SHOP_EVENTS="outbox", SHOP_DATABASE=database)
    with shop.client() as client:
        answer = client.post("/orders", json=[ANN])
        assert (answer.status_code, answer.json()) == (503, {"detail": "try again later"})
        failed = "the outbox cannot be read, next try in a second"
        eventually(lambda: process.output.count(failed) >= 2)
        folder.mkdir()
        asyncio.run(create_tables(database))
        assert client.post("/orders", json=[ANN]).json() == [1]
        eventually(lambda: client.get("/invoices").json() == [1])
    assert "Traceback" not in process.output + shop.process.output


def test_torture(broker, start):
    """A few kills on each database, side by side: all that was committed is invoiced, once."""
    command = (sys.executable, HERE / "torture.py", "--kills", "5", "--measured", "10")
    engines = ["sqlite", "postgresql"] if find_postgres() or "CI" in os.environ else ["sqlite"]
    for process in [start(*command, "--database", engine) for engine in engines]:
        assert process.wait(100) == 0, process.output
        closing = r"(?m)^orders (\d+), invoices \1, lost 0, repeated \d+, kills 5$"
        assert re.search(closing, process.output)
