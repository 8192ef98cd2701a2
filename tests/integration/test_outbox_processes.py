# SPDX-License-Identifier: MIT
"""The outbox in processes: what wakes a relay, what is missing, and what is killed."""

import asyncio
import re
import sys

import pytest
from processes import HERE, eventually
from shop.database import create_tables

ANN = {"customer": "Ann", "cents": 10_00}
WORKER = ("celery", "--app", "shop.worker", "worker", "--queues", "celery,relay", "-l", "INFO")
BEAT = ("--beat", "--scheduler", "celery.beat:Scheduler")  # one that keeps no file
NOWHERE = "redis://127.0.0.1:1/0"


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
        return start(sys.executable, "-m", *WORKER, *options, **environment)

    return work


@pytest.mark.parametrize(
    ("engine", "pool"), [("sqlite", "solo"), ("postgresql", "prefork")], indirect=["engine"]
)
def test_nudge(work, open_shop, broker, tmp_path, engine, pool):
    """Without a beat, an order over HTTP has its invoice and its mail: the commit wakes a relay."""
    worker = work("--pool", pool, "--concurrency", "2")
    worker.wait_for_output(r" ready\.")
    with open_shop(SHOP_BROKER=broker, SHOP_EVENTS="outbox").client() as client:
        assert client.post("/orders", json=[ANN, ANN]).json() == [1, 2]
        eventually(lambda: client.get("/invoices").json() == [1, 2])
    for order_id in (1, 2):
        eventually((tmp_path / f"order-{order_id}.txt").exists)
    worker.close()
    assert "Traceback" not in worker.output


def test_beat(work, open_shop):
    """A commit whose nudge cannot be sent is no failure, and the next beat delivers its event."""
    work("--pool", "solo", *BEAT)
    shop = open_shop(SHOP_BROKER=NOWHERE, SHOP_EVENTS="outbox")
    with shop.client() as client:
        assert client.post("/orders", json=[ANN]).json() == [1]
        eventually(lambda: client.get("/invoices").json() == [1])
    shop.process.wait_for_output("no relay was nudged, events wait for the next beat")


@pytest.mark.parametrize("server", ["sqlite+aiosqlite://", "postgresql+asyncpg://shop@/shop?host="])
def test_unreachable_database(work, open_shop, broker, tmp_path, server):
    """The client is told to try again; the worker says so in one line, and goes on trying."""
    folder = tmp_path / "later"
    url = f"{server}/{folder}/shop.db" if "sqlite" in server else f"{server}{folder}"
    worker = work("--pool", "solo", *BEAT, SHOP_DATABASE=url)
    shop = open_shop(SHOP_BROKER=broker, SHOP_EVENTS="outbox", SHOP_DATABASE=url)
    with shop.client() as client:
        answer = client.post("/orders", json=[ANN])
        assert (answer.status_code, answer.json()) == (503, {"detail": "try again later"})
        failed = "the outbox cannot be read, next try in a second"
        eventually(lambda: worker.output.count(failed) >= 2)
        if "sqlite" in server:
            folder.mkdir()
            asyncio.run(create_tables(url))
            assert client.post("/orders", json=[ANN]).json() == [1]
            eventually(lambda: client.get("/invoices").json() == [1])
    assert "Traceback" not in worker.output + shop.process.output


def test_torture(broker, new_postgresql, start):
    """A few kills on each database, side by side: all that was committed is invoiced, once."""
    command = (sys.executable, HERE / "torture.py", "--kills", "5", "--measured", "20")
    engines = ("sqlite", "postgresql")
    for process in [start(*command, "--database", engine) for engine in engines]:
        assert process.wait(100) == 0
        closing = r"(?m)^orders (\d+), invoices \1, lost 0, repeated \d+, kills 5$"
        assert re.search(closing, process.output)
