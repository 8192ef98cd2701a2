# SPDX-License-Identifier: MIT
"""Seeing it: a record leaves the bus as it was, is bounded, and finds circles and losses."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import weakref

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    MailSent,
    OrderPlaced,
    going_on,
    plain_lines,
    record,
    short,
)
from target import Event, EventBus

# The bus is left as it was


def methods(bus):
    return {name: value for name, value in vars(bus).items() if name.startswith("publish")}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("patched", [False, True])
async def test_records_end_in_any_order(bus, order, patched):
    """Section 5: records of one bus see the same, and leave it as it was, however they overlap."""
    if patched:
        bus.publish = functools.partial(EventBus.publish, bus)
    before = methods(bus)
    bus.subscribe(OrderPlaced, going_on(bus, MailSent, publish="publish_nowait"))
    stacks = [contextlib.ExitStack() for _ in order]
    flows = [stack.enter_context(record(bus)) for stack in stacks]
    for number, index in enumerate(order, 1):
        await bus.publish(OrderPlaced())
        await bus.join()
        stacks[index].close()
        assert plain_lines(flows[index].tree()) == [
            *["OrderPlaced", "└─ go_on", "   └─ MailSent  background, nobody handles it"] * number
        ]
    assert methods(bus) == before
    await bus.publish(OrderPlaced())
    assert len(flows[order[-1]].tree().splitlines()) == 3 * len(order)


async def test_a_patch_above_a_record_stays(bus):
    """Section 5: the end of a record leaves alone what others have put in place meanwhile."""
    with record(bus):
        patch = bus.publish = functools.partial(bus.publish)
    assert vars(bus)["publish"] is patch
    await bus.publish(OrderPlaced())


async def test_the_record_ends_with_an_exception(bus):
    """Section 5: the exception of the block comes through, and the record has ended."""
    with pytest.raises(LookupError), record(bus):
        raise LookupError
    assert methods(bus) == {}


async def test_the_context_is_left_as_it_was(bus):
    """C4.3: publishing while recorded leaves nothing in the publisher's context."""
    bus.subscribe(OrderPlaced, going_on(bus))
    before = contextvars.copy_context()
    with record(bus):
        await bus.publish(OrderPlaced())
        bus.publish_nowait(OrderPlaced())
        await bus.join()
    assert list(contextvars.copy_context().items()) == list(before.items())


async def test_a_publisher_that_is_closed(bus):
    """A coroutine that is thrown away is closed outside of its context, without a complaint."""
    going, finished = asyncio.Event(), asyncio.Event()

    async def handle(event):
        await going.wait()
        finished.set()

    bus.subscribe(OrderPlaced, handle)
    with record(bus):
        coroutine = bus.publish(OrderPlaced())
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()
        going.set()
        async with asyncio.timeout(PATIENCE):
            await finished.wait()


# Bounds


async def test_the_newest_events_are_kept(bus):
    """Section 5: of more events than the limit the newest are kept; the tree says how many went."""
    left = 10

    @short
    async def go_on(event):
        nonlocal left
        left -= 1
        if left:
            bus.publish_nowait(OrderPlaced())

    bus.subscribe(OrderPlaced, go_on)
    with record(bus, limit=4) as flow:
        await bus.publish(OrderPlaced())
        await bus.join()
    lines = plain_lines(flow.tree())
    assert lines[:3] == ["(6 older events were dropped)", "OrderPlaced  background", "└─ go_on"]
    assert len(lines) == 1 + 2 * 4
    assert flow.cycles == [(OrderPlaced, OrderPlaced)]
    assert repr(flow) == "<Flow of 10 events>"


@pytest.mark.usefixtures("classes_die")
async def test_what_is_dropped_is_freed(bus):
    """Section 5: a chain that never ends is not kept by its links."""
    kinds = []

    @short
    def go_on(event):
        if len(kinds) < 200:
            publish_next()

    def publish_next():
        kind = type("Link", (Event,), {})
        kinds.append(weakref.ref(kind))
        bus.subscribe(kind, go_on)
        bus.publish_nowait(kind())

    with record(bus, limit=10) as flow:
        publish_next()
        await bus.join()
    for event_type in bus.event_types():
        bus.unsubscribe(event_type, go_on)
    del event_type
    gc.collect()
    assert len(flow.tree().splitlines()) == 21
    assert len([kind for kind in kinds if kind() is not None]) == 11  # and who published the oldest


async def test_neither_events_nor_exceptions_are_kept(bus, no_log):
    """C4.8: a record keeps neither payloads nor exceptions nor tasks alive."""
    kept = []

    class Kept(LookupError):
        pass

    @short
    async def later(event):
        error = Kept()
        kept.extend([weakref.ref(error), weakref.ref(asyncio.current_task())])
        await asyncio.sleep(0)
        raise error

    bus.subscribe(OrderPlaced, later)
    bus.subscribe(OrderPlaced, lambda event: kept.append(weakref.ref(event)))
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
        gc.collect()
        assert [reference() for reference in kept] == [None] * 3
    assert "Kept" in flow.tree()


def test_the_limit_is_checked(bus):
    """A limit below one is a ValueError, and leaves the bus as it was."""
    with pytest.raises(ValueError, match="at least 1, got 0"), record(bus, limit=0):
        pass
    assert methods(bus) == {}


def test_a_limit_between_numbers_is_kept(bus):
    """Section 5: a record is bounded whatever number the limit is."""
    with record(bus, limit=2.5) as recorded:
        for _ in range(10):
            asyncio.run(bus.publish(OrderPlaced()))
    assert "dropped" in recorded.tree()


# Circles


def subscribe_steps(bus, steps, publish="publish_nowait"):
    """Have each type lead to others, each step taken once; return the types by name."""
    kinds = {name: type(name, (Event,), {}) for name in sorted({*"".join(steps)})}
    for source, target in steps:
        untaken = [True]

        def step(event, target=target, untaken=untaken):
            if untaken:
                untaken.clear()
                return getattr(bus, publish)(kinds[target]())
            return None

        bus.subscribe(kinds[source], step)
    return kinds


@pytest.mark.parametrize("publish", ["publish", "publish_nowait"])
@pytest.mark.parametrize(
    ("steps", "circles"),
    [
        (["AB", "BC", "AC"], []),
        (["AA"], ["AA"]),
        (["AB", "BA"], ["ABA"]),
        (["AB", "BC", "CA", "CC"], ["ABCA", "CC"]),
        (["AB", "BC", "CB"], ["BCB"]),
        (["AB", "BA", "AC", "CA", "BC"], ["ABA", "ACA", "ABCA"]),
    ],
)
async def test_circles(bus, publish, steps, circles):
    """C7, section 5: the circles of types, each once, from where it was entered."""
    kinds = subscribe_steps(bus, steps, publish)
    with record(bus) as flow:
        await bus.publish(kinds["A"]())
        await bus.join()
    found = ["".join(kind.__name__ for kind in circle) for circle in flow.cycles]
    assert sorted(found) == sorted(circles)
    assert found == ["".join(kind.__name__ for kind in circle) for circle in flow.cycles]


async def test_circles_of_a_dense_graph(bus):
    """Section 5: where everything leads to everything, there is no explosion of circles."""
    names = "ABCDEFGHIJKLMNOPQRST"
    kinds = subscribe_steps(bus, [a + b for a in names for b in names])
    with record(bus) as flow:
        await bus.publish(kinds["A"]())
        await bus.join()
    assert len(flow.cycles) == 20 + 20 * 19 / 2


# Flowcharts


async def test_flow_as_mermaid(bus, errors):
    """Section 5: event -> handler -> event; background dotted, failed and unhandled marked."""

    @short
    def fail(event):
        raise LookupError

    async def issue(event):
        await bus.publish(InvoiceIssued())
        await bus.publish(InvoiceIssued())
        bus.publish_nowait(MailSent())

    bus.subscribe(OrderPlaced, issue)
    bus.subscribe(InvoiceIssued, fail)
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
        await bus.join()
    assert flow.mermaid().splitlines() == [
        "flowchart LR",
        '    n0(["OrderPlaced"])',
        f'    n1["{__name__}.test_flow_as_mermaid.#60;locals#62;.issue"]',
        '    n2(["InvoiceIssued"])',
        f'    n3["{__name__}.fail"]:::failed',
        '    n4(["MailSent"]):::unhandled',
        "    n0 --> n1",
        "    n2 --> n3",
        "    n1 --> n2",
        "    n1 -. background .-> n4",
        "    classDef failed stroke:#d1242f,stroke-width:3px",
        "    classDef unhandled stroke-dasharray:4",
    ]


async def test_mermaid_of_nothing(bus):
    """A record of nothing is an empty chart."""
    with record(bus) as flow:
        assert flow.mermaid() == "flowchart LR"
    assert flow.unhandled == flow.cycles == []


async def test_handlers_of_one_name_stay_apart_in_the_flow(bus):
    """Section 5: two lambdas of one function are two nodes, and draw no way that nobody went."""
    bus.subscribe(OrderPlaced, lambda event: bus.publish_nowait(InvoiceIssued()))
    bus.subscribe(
        MailSent,
        lambda event: None,
    )
    with record(bus) as recorded:
        await bus.publish(OrderPlaced())
        await bus.publish(MailSent())
        await bus.join()
    chart = recorded.mermaid()
    assert chart.count("lambda") == 2
