# SPDX-License-Identifier: MIT
"""How much memory does one more of something take?

Bytes by tracemalloc, the handlers and events themselves not included: of a subscription, of an
event that `publish_nowait` has accepted and nobody has handled yet, and of a handler that waits,
its task and coroutine included.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

from contenders import PLACED, Placed, buses
from measure import Effort, all_called, check, make_handlers, progress, settle
from report import Table, main

COLUMNS = ["subscription", "queued event", "running handler"]


def allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def of_subscription(bus: Any, count: int) -> float:
    handlers, called = make_handlers(["async"] * (count + 1))
    bus.subscribe(Placed, handlers.pop())
    await bus.publish(PLACED)
    before = allocated()
    for handler in handlers:
        bus.subscribe(Placed, handler)
    await bus.publish(PLACED)
    after = allocated()
    check("subscribed handlers", called(), count + 2)
    return (after - before) / count


async def of_queued_event(bus: Any, count: int) -> float:
    (handler,), called = make_handlers(["async"])
    bus.subscribe(Placed, handler)
    bus.publish_nowait(PLACED)
    await all_called(called, 1)
    before = allocated()
    for _ in range(count):
        bus.publish_nowait(PLACED)
    after = allocated()
    await all_called(called, count + 1)
    await settle()
    check("handlers of queued events", called(), count + 1)
    return (after - before) / count


async def of_running_handler(bus: Any, count: int) -> float:
    started = ended = 0
    gate = asyncio.Event()

    async def handler(event: Placed) -> None:
        nonlocal started, ended
        started += 1
        await gate.wait()
        ended += 1

    bus.subscribe(Placed, handler)
    bus.publish_nowait(PLACED)
    await all_called(lambda: started, 1)
    before = allocated()
    for _ in range(count):
        bus.publish_nowait(PLACED)
    await all_called(lambda: started, count + 1)
    after = allocated()
    gate.set()
    await all_called(lambda: ended, count + 1)
    await settle()
    check("running handlers", ended, count + 1)
    return (after - before) / count


async def measure(effort: Effort) -> list[Table]:
    table = Table("Memory of one more", "bytes", COLUMNS)
    count = 1_000 if effort.quick else 10_000
    questions: list[Callable[[Any, int], Any]] = [
        of_subscription,
        of_queued_event,
        of_running_handler,
    ]
    for column, question in zip(COLUMNS, questions, strict=True):
        progress(f"  memory of a {column}")
        for name, make_bus in buses().items():
            await question(make_bus(), count)  # lets asyncio's own set of tasks grow, for good
            tracemalloc.start()
            try:
                table.add(name, column, await question(make_bus(), count))
            finally:
                tracemalloc.stop()
    progress()
    return [table]


def run(effort: Effort) -> list[Table]:
    return effort.run(measure(effort))


if __name__ == "__main__":
    main(run, __doc__)
