# SPDX-License-Identifier: MIT
"""`python -m eventbus map` on applications of the frameworks that people have."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import TEXT, blocks

HERE = Path(__file__).parent
SETTINGS = {
    "SHOP_DATABASE": "sqlite+aiosqlite://",
    "SHOP_BOOKS": "http://localhost:1",
    "SHOP_GRACE_SECONDS": "10",
}

# A package whose services make what its bus handles.
EVENTS = """
from dataclasses import dataclass
from eventbus import Event, EventBus
from pydantic import BaseModel

@dataclass(frozen=True)
class OrderPlaced(Event):
    order_id: int

class OrderPaid(BaseModel, Event):
    order_id: int

async def send_mail(event: OrderPlaced) -> None: ...

def subscribed(bus):
    bus.subscribe(OrderPlaced, send_mail)
    return bus

def pay(text):
    return OrderPaid.model_validate_json(text)
"""
MAP = """\
OrderPlaced
├─ company.events.send_mail  async  company/events.py:13
└─ made in company/app.py:{} place
OrderPaid  nobody handles it
└─ made in company/events.py:20 pay
"""
STARLETTE = """
from contextlib import asynccontextmanager
from eventbus import EventBus
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route
from . import events

async def place(request):
    await request.state.bus.publish(events.OrderPlaced(7))
    return Response()

@asynccontextmanager
async def lifespan(app):
    async with EventBus() as bus:
        yield {"bus": events.subscribed(bus)}

@asynccontextmanager
async def in_app_state(app):
    async with EventBus() as app.state.bus:
        events.subscribed(app.state.bus)
        yield

routes = [Route("/orders", place, methods=["POST"])]
app = Starlette(routes=routes, lifespan=lifespan)
wrapped = CORSMiddleware(Starlette(routes=routes, lifespan=in_app_state))

def make():
    return Starlette(routes=routes, lifespan=in_app_state)
"""
FASTAPI = """
from contextlib import asynccontextmanager
from eventbus import EventBus
from fastapi import FastAPI, Request
from .events import OrderPlaced as Placed, subscribed

@asynccontextmanager
async def lifespan(app):
    async with EventBus() as bus:
        app.state.bus = subscribed(bus)
        yield {"bus": bus}

app = FastAPI(lifespan=lifespan)

@app.post("/orders")
async def place(request: Request) -> None:
    await request.state.bus.publish(Placed(7))
"""
LITESTAR = """
from contextlib import asynccontextmanager
from eventbus import EventBus
from litestar import Litestar, post
from litestar.datastructures import State

@post("/orders")
async def place(state: State) -> None:
    from .events import OrderPlaced
    await state.bus.publish(OrderPlaced(7))

@asynccontextmanager
async def lifespan(app):
    from .events import subscribed
    async with EventBus() as bus:
        app.state.bus = subscribed(bus)
        yield

async def start(app):
    from .events import subscribed
    app.state["bus"] = subscribed(EventBus())

app = Litestar([place], lifespan=[lifespan])
started = Litestar([place], on_startup=[start])
"""


def run_map(*arguments, folder):
    """Run `map` in that folder; return its status, and what it writes to stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "eventbus", "map", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent), **SETTINGS},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("source", "attribute", "line"),
    [
        (STARLETTE, "app", 11),
        (STARLETTE, "wrapped", 11),
        (STARLETTE, "make", 11),
        (FASTAPI, "app", 17),
        (LITESTAR, "app", 10),
        (LITESTAR, "started", 10),
    ],
)
def test_application_is_mapped(tmp_path, source, attribute, line):
    """Section 5: the application as uvicorn is given it, a factory of it, or middleware around."""
    folder = tmp_path / "company"
    folder.mkdir()
    (folder / "events.py").write_text(EVENTS)
    (folder / "app.py").write_text(source)
    result = run_map(f"company.app:{attribute}", folder=tmp_path)
    assert result == (0, MAP.format(line), "")


def test_application_that_fails_to_start(tmp_path):
    """Section 5: the framework's frames are not where the error comes from."""
    (tmp_path / "broken.py").write_text(
        FASTAPI.replace("    async with", "    fail\n    async with")
    )
    (tmp_path / "events.py").write_text(EVENTS)
    source = (tmp_path / "broken.py").read_text().replace("from .events", "from events")
    (tmp_path / "broken.py").write_text(source)
    status, printed, errors = run_map("broken:app", folder=tmp_path)
    assert (status, printed) == (2, "")
    assert errors == (
        "python3 -m eventbus map: cannot start broken:app: "
        "NameError: name 'fail' is not defined (broken.py:9)\n"
    )


def test_application_of_the_readme(tmp_path):
    """The README's application shows its handler, a method, and who makes the event."""
    (block,) = (block for block in blocks(TEXT, integration=True) if "FastAPI(" in block.source)
    block.write(tmp_path)
    status, printed, errors = run_map("app:app", folder=tmp_path)
    assert (status, errors) == (0, "")
    assert [re.sub(r":\d+", "", line) for line in printed.splitlines()] == [
        "OrderPlaced",
        "├─ app.OrderService.confirm  async  app.py",
        "├─ made in app.py OrderService.place",
        "└─ made in app.py test_order",
    ]


def test_shop_is_in_its_readme():
    """The shop's README has its map, as text and as a picture, just as they are printed."""
    text = (HERE / "shop" / "README.md").read_text("utf-8")
    for language in ("text", "mermaid"):
        status, printed, errors = run_map("shop.app:app", "--format", language, folder=HERE)
        assert (status, errors) == (0, "")
        assert f"```{language}\n{printed}```\n" in text
