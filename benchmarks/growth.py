# SPDX-License-Identifier: MIT
"""What grows with the application, and what stays?

- A publish to one handler, among many event types.
- A publish to many handlers, per handler.
- Subscribing and unsubscribing, among many handlers of one type.
- A publish right after a change, which finds nothing prepared.
- A chain of awaited publishes, per level.
"""

from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from typing import Any

from contenders import PLACED, Event, Placed, buses
from measure import Effort, Trial, check, interleave, make_handlers, time_calls
from report import Table, main

MakeBus = Callable[[], Any]
US = 1e6
SAMPLE = 1_000


class Nested(Event):
    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


def types_trial(make_bus: MakeBus, types: list[type[Event]], effort: Effort) -> Trial:
    sample = [event_type() for event_type in types[:: max(1, len(types) // SAMPLE)]]

    async def trial() -> tuple[float, ...]:
        bus = make_bus()
        (handler,), called = make_handlers(["sync"])
        for event_type in types:
            bus.subscribe(event_type, handler)
        for event in sample:
            await bus.publish(event)
        events = cycle(sample)
        seconds, made = await time_calls(lambda events: bus.publish(next(events)), events, effort)
        check("one handler of many types", called(), made + len(sample))
        return (seconds * US,)

    return trial


def handlers_trial(make_bus: MakeBus, kind: str, count: int, effort: Effort) -> Trial:
    async def trial() -> tuple[float, ...]:
        bus = make_bus()
        handlers, called = make_handlers([kind] * count)
        for handler in handlers:
            bus.subscribe(Placed, handler)
        seconds, made = await time_calls(bus.publish, PLACED, effort)
        check(f"{count:,} handlers", called(), made * count)
        return (seconds * US / count,)

    return trial


def churn_trial(make_bus: MakeBus, count: int, effort: Effort) -> Trial:
    async def trial() -> tuple[float, ...]:
        handlers, called = make_handlers(["async"] * count)
        (another,), another_called = make_handlers(["async"])
        figures = []
        for _ in range(max(1, 1_000 // count)):
            bus = make_bus()
            begin = perf_counter()
            for handler in handlers:
                bus.subscribe(Placed, handler)
            subscribed = perf_counter()
            for _ in range(100):
                bus.subscribe(Placed, another)
                bus.unsubscribe(Placed, another)
            churned = perf_counter()
            await bus.publish(PLACED)
            unsubscribing = perf_counter()
            for handler in handlers:
                bus.unsubscribe(Placed, handler)
            end = perf_counter()
            await bus.publish(PLACED)
            figures.append(
                (
                    (subscribed - begin) * US / count,
                    (end - unsubscribing) * US / count,
                    (churned - subscribed) * US / 100,
                    (subscribed - begin + end - unsubscribing) * 1e3,
                )
            )
        check("handlers that stay", called(), len(figures) * count)
        check("a handler that comes and goes", another_called(), 0)
        return tuple(min(column) for column in zip(*figures, strict=True))

    return trial


def change_trial(make_bus: MakeBus, count: int, effort: Effort) -> Trial:
    async def trial() -> tuple[float, ...]:
        bus = make_bus()
        handlers, called = make_handlers(["sync"] * (count + 1))
        another = handlers.pop()
        for handler in handlers:
            bus.subscribe(Placed, handler)

        async def change_and_publish(event: Placed) -> None:
            bus.subscribe(Placed, another)
            await bus.publish(event)
            bus.unsubscribe(Placed, another)
            await bus.publish(event)

        settled, published = await time_calls(bus.publish, PLACED, effort)
        changed, twice = await time_calls(change_and_publish, PLACED, effort)
        check("publishes after changes", called(), count * published + (2 * count + 1) * twice)
        return settled * US, changed * US / 2

    return trial


def nesting_trial(make_bus: MakeBus, depth: int, effort: Effort) -> Trial:
    async def trial() -> tuple[float, ...]:
        bus = make_bus()
        levels = 0

        async def handler(event: Nested) -> None:
            nonlocal levels
            levels += 1
            if event.left:
                await bus.publish(Nested(event.left - 1))

        bus.subscribe(Nested, handler)
        seconds, made = await time_calls(bus.publish, Nested(depth - 1), effort)
        check(f"nesting of {depth}", levels, made * depth)
        return (seconds * US / depth,)

    return trial


async def measure(effort: Effort) -> list[Table]:
    contenders = buses()
    rounds = min(effort.rounds, 4)
    tables = []

    async def fill(
        title: str,
        unit: str,
        counts: tuple[int, ...],
        columns: dict[str, str],
        make: Callable[[MakeBus, int], Trial],
    ) -> None:
        """Measure for each count; `columns` name the figures of a trial, and their units."""
        names = [f"{title}: {column}" if column else title for column in columns]
        cases = {count: f"{count:,} {unit}{'s' * (count > 1)}" for count in counts}
        added = [
            Table(name, its_unit, list(cases.values()))
            for name, its_unit in zip(names, columns.values(), strict=True)
        ]
        trials = {
            cases[count]: {name: make(make_bus, count) for name, make_bus in contenders.items()}
            for count in counts
        }
        for case, best in (await interleave(title, trials, effort, rounds, len(columns))).items():
            for name, figures in best.items():
                for table, figure in zip(added, figures, strict=True):
                    table.add(name, case, figure)
        tables.extend(added)

    few = effort.quick
    counts: tuple[int, ...]
    counts = (1, 100, 10_000) if few else (1, 10, 100, 1_000, 10_000, 100_000)
    types = [type(f"Type{n}", (Event,), {"__slots__": ()}) for n in range(counts[-1])]
    await fill(
        "One publish to one sync handler",
        "event type",
        counts,
        {"": "µs"},
        lambda make_bus, count: types_trial(make_bus, types[:count], effort),
    )
    types.clear()
    counts = (1, 100, 10_000) if few else (1, 10, 100, 1_000, 10_000)
    for kind in ("sync", "async"):
        await fill(
            f"One {kind} handler of a publish",
            "handler",
            counts,
            {"": "µs"},
            lambda make_bus, count, kind=kind: handlers_trial(make_bus, kind, count, effort),
        )
    await fill(
        "Subscriptions of one type",
        "handler",
        (1, 1_000, 10_000 if few else 100_000),
        {
            "subscribe each": "µs",
            "unsubscribe each": "µs",
            "one more comes and goes": "µs",
            "all come and go": "ms",
        },
        lambda make_bus, count: churn_trial(make_bus, count, effort),
    )
    await fill(
        "A publish to sync handlers",
        "handler",
        (1, 10, 1_000),
        {"nothing changed": "µs", "subscribed or unsubscribed one before, included": "µs"},
        lambda make_bus, count: change_trial(make_bus, count, effort),
    )
    await fill(
        "One level of awaited publishes",
        "level",
        (1, 10, 100, 1_000),
        {"": "µs"},
        lambda make_bus, count: nesting_trial(make_bus, count, effort),
    )
    return tables


def run(effort: Effort) -> list[Table]:
    return effort.run(measure(effort))


if __name__ == "__main__":
    main(run, __doc__)
