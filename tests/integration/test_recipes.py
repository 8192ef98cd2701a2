# SPDX-License-Identifier: MIT
"""The READMEs' examples run with the real libraries, and so does what was written for pyee."""

import asyncio
import importlib.util
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from processes import SECONDS
from test_readme import TEXT, blocks, check

from eventbus import EventBus

HERE = Path(__file__).parent
README = blocks(TEXT, integration=True)
SHOP = blocks((HERE / "shop" / "README.md").read_text("utf-8"), integration=True)
PYEE = "from pyee_variant import Event, EventBus\n"


@pytest.mark.parametrize("block", README + SHOP, ids=str)
def test_block_runs_alone(block, tmp_path):
    """Every block that needs other packages runs in a process of its own, as it is pasted."""
    check(block, tmp_path)


@pytest.fixture
def application(tmp_path):
    """The file that is the README's application."""
    (block,) = (block for block in README if "FastAPI(" in block.source)
    return block.write(tmp_path)


def test_application_is_served(start, application):
    """It runs in uvicorn: an order is stored, confirmed by a method, and streamed."""
    command = ("uvicorn", "--app-dir", application.parent, "app:app", "--port", "0")
    process = start(sys.executable, "-m", *command, "--timeout-graceful-shutdown", "1")
    url = process.wait_for_output(r"running on (http://\S+)")[1]
    with (
        httpx.Client(base_url=url, timeout=SECONDS) as client,
        client.stream("GET", "/orders") as stream,
    ):
        assert [client.post("/orders").json() for _ in range(2)] == [1, 2]
        data = (line for line in stream.iter_lines() if line.startswith("data: "))
        received = [json.loads(next(data).removeprefix("data: ")) for _ in range(2)]
        assert received == [{"order_id": 1}, {"order_id": 2}]
    process.wait_for_output("mail for order 2")
    process.send(signal.SIGTERM)
    process.wait()
    assert "Application shutdown complete" in process.output


async def test_slow_reader(application):
    """A reader too slow for a burst gets what comes before it misses any, and its stream ends."""
    spec = importlib.util.spec_from_file_location("application", application)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = vars(module)
    bus = EventBus()
    stream = names["stream_orders"](SimpleNamespace(state=SimpleNamespace(bus=bus)))
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for number in range(250):
        await bus.publish(names["OrderPlaced"](number))
    received = [await waiting] + [event async for event in stream]
    assert received == [names["OrderPlaced"](number) for number in range(len(received))]
    assert 0 < len(received) <= 100
    assert bus.event_types() == ()


@pytest.mark.parametrize("line", [PYEE, "from eventbus import Event, EventBus\n"])
def test_application_of_the_pyee_variant(monkeypatch, line):
    """An application written against the pyee variant runs with nothing changed but its import."""
    monkeypatch.syspath_prepend(str(HERE.parent.parent / "benchmarks"))
    source = (HERE / "pyee_application.py").read_text("utf-8")
    assert source.count(PYEE) == 1
    names = {"__name__": "application"}
    exec(source.replace(PYEE, line), names)
    assert asyncio.run(names["main"]()) == {
        "placed": [1, 2],
        "invoiced": [1, 2],
        "mailed": [1, 2],
        "announced": [1],
    }
    assert names["EventBus"].__module__.startswith(line.split()[1])
    sys.modules.pop("pyee_variant", None)
