# SPDX-License-Identifier: MIT
"""The shop and its surroundings: a database, a broker, the bookkeepers. All end with the test."""

import asyncio
import os
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import shop.app  # noqa: F401, which imports the tables of all modules
from processes import SECONDS, Process
from servers import MissingServerError, postgresql, redis, sqlite
from shop.database import create_tables
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture
def start():
    """Start a command; it is ended after the test."""
    with ExitStack() as stack:

        def start(*command, **environment):
            process = Process(*command, **environment)
            # Whatever it has said: pytest shows it if the test has failed.
            stack.callback(lambda: sys.stdout.write(process.output))
            stack.callback(process.close)
            return process

        yield start


@contextmanager
def running(server):
    """Run a server; without it, skip the test, or fail on CI."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(server)
        except MissingServerError as error:
            pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))
        yield address


@pytest.fixture
def broker():
    """The address of a Redis of this test's own."""
    with running(redis()) as address:
        yield address


@pytest.fixture(scope="session")
def postgresql_server():
    """The address of a PostgreSQL of this run's own."""
    with running(postgresql()) as address:
        yield address


@pytest.fixture
def postgresql_database(postgresql_server):
    """The address of an empty database in it."""

    async def empty():
        engine = create_async_engine(postgresql_server)
        async with engine.begin() as connection:
            for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
                await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(empty())
    return postgresql_server


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    """The kind of database that a test runs on; each has its turn."""
    return request.param


@pytest.fixture
def database(request, tmp_path):
    """The address of a database with the tables of the shop: SQLite, or the test's `engine`."""
    if "engine" in request.fixturenames and request.getfixturevalue("engine") == "postgresql":
        url = request.getfixturevalue("postgresql_database")
    else:
        url = sqlite(tmp_path)
    asyncio.run(create_tables(url))
    return url


class Books(ThreadingHTTPServer):
    """The bookkeepers, to whom paid invoices are told; they answer while they are `open`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), BooksRequest)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.open = threading.Event()
        self.asked = self.booked = 0


class BooksRequest(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        self.server.open.wait(SECONDS)
        self.send_response(204)
        self.end_headers()
        self.server.booked += 1

    def log_message(self, *_):
        pass


@pytest.fixture
def books():
    with Books() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


class Shop:
    """A running shop, and how to talk to it."""

    def __init__(self, process):
        self.process = process
        self.url = process.wait_for_output(r"running on (http://\S+)")[1]
        process.wait_for_output("Application startup complete")

    @contextmanager
    def client(self):
        with httpx.Client(base_url=self.url, timeout=SECONDS) as client:
            yield client


@pytest.fixture
def open_shop(start, database, books, tmp_path):
    """Start the shop in uvicorn, with further options of uvicorn and settings of the shop."""

    def open_shop(*options, **settings):
        environment = {
            "SHOP_DATABASE": database,
            "SHOP_BOOKS": books.url,
            "SHOP_BROKER": "memory://",
            "SHOP_GRACE_SECONDS": str(SECONDS),
            **settings,
        }
        # Streams never end: without a limit, uvicorn would wait for them, and not end either.
        command = ("uvicorn", "shop.app:app", "--port", "0", "--timeout-graceful-shutdown", "1")
        return Shop(start(sys.executable, "-m", *command, *options, **environment))

    return open_shop


@pytest.fixture
def client(open_shop):
    """A client of a shop that has been opened for the test."""
    with open_shop().client() as client:
        yield client
