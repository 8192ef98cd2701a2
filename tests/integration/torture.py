# SPDX-License-Identifier: MIT
"""Kill the shop's processes at random moments, over and over; then count orders and invoices.

`python torture.py --kills 20 --database postgresql` measures first (figures.py), then kills. Its
status is 1 if an order has no invoice, or two, or if anything else is left.
"""

import argparse
import asyncio
import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from tempfile import TemporaryDirectory

import httpx
from figures import measure_direct, measure_outbox
from processes import BEAT, SECONDS, WORKER, Process
from servers import MissingServerError, free_port, postgresql, redis, sqlite
from shop.database import create_tables, open_database
from shop.invoices.models import Invoice
from shop.orders.models import Order
from shop.orders.service import CREDIT
from shop.outbox import DeadLetter, Waiting
from shop.relay import Delivery
from sqlalchemy import func, select

SOLO = (*WORKER, "--pool", "solo", "--hostname")
READY = {"web": "Application startup complete", "worker": r" ready\.", "relay": r" ready\."}
CUSTOMERS = 4
SECONDS_AT_LAST = 120  # until the last event is handled; leases and pauses are shorter


class Shop:
    """The shop's three processes: the web, a worker for everything, and a relay with the beat."""

    def __init__(self, database, broker, folder):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {
            "SHOP_DATABASE": database,
            "SHOP_BROKER": broker,
            "SHOP_BOOKS": "http://127.0.0.1:1",
            "SHOP_EVENTS": "outbox",
            "SHOP_GRACE_SECONDS": "10",
            "SHOP_MAILS": folder,
        }
        self._commands = {
            "web": ("uvicorn", "shop.app:app", "--port", port, "--no-access-log"),
            "worker": (*SOLO, "worker@shop", "--queues", "celery,relay"),
            "relay": (*SOLO, "relay@shop", "--queues", "relay", *BEAT),
        }
        self._processes = {}

    def start(self, name):
        command = (sys.executable, "-m", *self._commands[name])
        self._processes[name] = Process(*command, **self._environment)

    def wait_for(self, *names):
        for name in names:
            self._processes[name].wait_for_output(READY[name])

    def kill(self, name):
        """Kill a process; start it again, and do not wait for that."""
        self._processes[name].kill()
        self.start(name)

    @contextmanager
    def running(self):
        with ExitStack() as stack:
            for name in READY:
                self.start(name)
                stack.callback(lambda name=name: self._processes[name].close())
            self.wait_for(*READY)
            yield


class Customers:
    """They place orders, some beyond their credit, in threads; the answers are counted."""

    def __init__(self, url, seed):
        self._url = url
        self._seed = seed
        self._leaving = threading.Event()
        self.sending = threading.Event()
        self.placed = []
        self.answers = Counter()

    @contextmanager
    def shopping(self):
        with ThreadPoolExecutor(CUSTOMERS) as pool:
            customers = [pool.submit(self._shop, number) for number in range(CUSTOMERS)]
            try:
                yield
            finally:
                self._leaving.set()
            for placed, answers in [customer.result() for customer in customers]:
                self.placed += placed
                self.answers += answers

    def _shop(self, number):
        chance = random.Random(self._seed + number)
        placed, answers = [], Counter()
        with httpx.Client(base_url=self._url, timeout=SECONDS) as client:
            while not self._leaving.wait(chance.uniform(0, 0.1)):
                orders = [{"customer": "Ann", "cents": 1}] * chance.randint(1, 3)
                if chance.random() < 0.2:  # the last one is refused, and those before it with it
                    orders = [{"customer": "Bob", "cents": cents} for cents in (1, CREDIT + 1)]
                self.sending.set()
                try:
                    answer = client.post("/orders", json=orders)
                except httpx.TransportError:  # placed or not: the process has died, or begins
                    answers["none"] += 1
                    continue
                answers[answer.status_code] += 1
                if answer.status_code == 201:
                    placed += answer.json()
        return placed, answers


async def kill_over_and_over(shop, customers, database, kills, chance):
    """Kill the shop's processes one by one, at moments when they are at work; count them."""
    killed = Counter()
    async with open_database(database) as sessions:
        for _ in range(kills):
            name = chance.choice(list(READY))
            shop.wait_for("web", name)  # without the web there are no orders
            customers.sending.clear()
            assert customers.sending.wait(SECONDS), "nobody orders anything"
            if name != "web" and chance.random() < 0.5:
                await next_invoice(sessions)  # its event is about to be deleted
            else:  # the commit comes after some milliseconds, the relay takes some more
                await asyncio.sleep(chance.uniform(0, 0.03))
            shop.kill(name)
            killed[name] += 1
    return killed


async def next_invoice(sessions):
    """Wait until there is an invoice more."""
    first = None
    async with asyncio.timeout(SECONDS):
        while True:
            async with sessions() as session:
                newest = await session.scalar(select(func.max(Invoice.id)))
            first = first or newest
            if newest != first:
                return


async def wait_until_empty(sessions):
    """Wait until no event is left to be delivered."""
    async with asyncio.timeout(SECONDS_AT_LAST):
        while True:
            async with sessions() as session:
                if not await session.scalar(select(func.count(Waiting.id))):
                    return
            await asyncio.sleep(0.02)


async def count(database, placed):
    """Wait for the last event; return the figures of the closing lines, by name."""
    async with open_database(database) as sessions:
        with suppress(TimeoutError):
            await wait_until_empty(sessions)
        async with sessions() as session:
            orders = list(await session.scalars(select(Order.id)))
            invoices = list(await session.scalars(select(Invoice.order_id)))
            return {
                "orders": len(orders),
                "invoices": len(invoices),
                "lost": len({*orders, *placed} - set(invoices)),
                "wrong": len(invoices) - len(set(orders) & set(invoices)),  # twice, or no order
                "undone": await session.scalar(
                    select(func.count(Order.id)).where(Order.customer == "Bob")
                ),
                "repeated": await session.scalar(select(func.sum(Delivery.repeated))),
                "waiting": await session.scalar(select(func.count(Waiting.id))),
                "dead letters": await session.scalar(select(func.count(DeadLetter.id))),
            }


def listed(numbers):
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def torture(database, broker, folder, arguments):
    """Run it all; return whether nothing is lost, twice there, or left."""
    asyncio.run(create_tables(database))
    shop = Shop(database, broker, folder)
    customers = Customers(shop.url, arguments.seed)
    with shop.running():
        measured = measure_outbox(database, broker, arguments.measured, wait_until_empty)
        print("outbox:", asyncio.run(measured))
        print("direct:", asyncio.run(measure_direct(database, arguments.measured)), flush=True)
        with customers.shopping():
            chance = random.Random(arguments.seed)
            work = kill_over_and_over(shop, customers, database, arguments.kills, chance)
            killed = asyncio.run(work)
        shop.wait_for(*READY)
        found = asyncio.run(count(database, customers.placed))
    bad = {name: found.pop(name) for name in ("wrong", "undone", "waiting", "dead letters")}
    print("killed:", listed(killed))
    print("answers:", listed(customers.answers))
    print("must be none:", listed(bad))
    print(f"{listed(found)}, kills {arguments.kills}")
    return found["orders"] == found["invoices"] and not any((found["lost"], *bad.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--measured", type=int, default=300, help="orders to measure, 2 or more")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    if arguments.measured < 2:
        parser.error(f"there is no median of {arguments.measured} orders; measure 2 or more")
    print(f"seed {arguments.seed}, {arguments.database}", flush=True)
    try:
        with ExitStack() as stack:
            broker = stack.enter_context(redis())
            folder = stack.enter_context(TemporaryDirectory())
            if arguments.database == "sqlite":
                database = sqlite(folder)
            else:
                database = stack.enter_context(postgresql())
            good = torture(database, broker, folder, arguments)
    except MissingServerError as error:
        sys.exit(str(error))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
