# SPDX-License-Identifier: MIT
"""The application: `uvicorn shop.app:app`."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import environ
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from eventbus import EventBus
from eventbus.modules import register_modules

from .database import UNREACHABLE, open_database
from .dependencies import Bus
from .invoices import routes as invoices
from .invoices.module import InvoicesModule
from .mail.module import MailModule
from .orders import routes as orders
from .orders.module import OrdersModule
from .transactions import in_outbox, on_bus
from .worker import nudging


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open what the modules need, the bus last, so that its handlers finish first."""
    async with (
        open_database(environ["SHOP_DATABASE"]) as sessions,
        httpx.AsyncClient(base_url=environ["SHOP_BOOKS"], timeout=None) as books,
        nudging() as nudge,
        EventBus() as bus,
    ):
        ways = {"bus": on_bus(bus, sessions), "outbox": in_outbox(sessions, nudge)}
        if (way := environ.get("SHOP_EVENTS", "bus")) not in ways:
            raise ValueError(f"SHOP_EVENTS must be one of {', '.join(ways)}, got {way!r}")
        transactions = ways[way]
        register_modules(bus, [OrdersModule(), InvoicesModule(transactions, books), MailModule()])
        yield {"bus": bus, "transactions": transactions, "loop": asyncio.get_running_loop()}
        await bus.aclose(timeout=float(environ["SHOP_GRACE_SECONDS"]))


async def unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Tell the client to try again: nothing was committed."""
    cause = getattr(error, "orig", error)  # SQLAlchemy says it in several lines
    logging.getLogger(__name__).error("the database does not answer: %s", cause)
    return JSONResponse({"detail": "try again later"}, 503, {"Retry-After": "1"})


app = FastAPI(lifespan=lifespan, exception_handlers=dict.fromkeys(UNREACHABLE, unavailable))
app.include_router(orders.router)
app.include_router(invoices.router)


@app.get("/status")
async def status(bus: Bus) -> dict[str, Any]:
    """Return who handles what in this process."""
    handlers = {
        event_type.__name__: [handler.name for handler in bus.handlers(event_type)]
        for event_type in bus.event_types()
    }
    return {"process": os.getpid(), "pending": bus.pending, "handlers": handlers}
