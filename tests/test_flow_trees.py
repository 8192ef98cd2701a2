# SPDX-License-Identifier: MIT
"""Seeing it: what `record` has seen, as a tree of events, each below the run that published it."""

import asyncio
import contextlib
import contextvars
import re
import threading

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    MailSent,
    Namesakes,
    OrderPlaced,
    going_on,
    plain_lines,
    record,
    short,
)
from target import Event, EventBus

# The tree


async def test_tree_of_one_order(bus, errors):
    """Section 5: runs below their event, events below the run that published them, all marked."""

    @short
    def fail(event):
        raise LookupError("no such order\nand more")

    @short
    async def in_task(event):
        await asyncio.create_task(bus.publish(MailSent()))

    bus.subscribe(OrderPlaced, going_on(bus, InvoiceIssued, Namesakes.OrderPlaced))
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(InvoiceIssued, in_task)
    bus.subscribe(
        InvoiceIssued, going_on(bus, MailSent, Namesakes.OrderPlaced, publish="publish_nowait")
    )
    bus.subscribe(MailSent, fail)
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
        await bus.join()
    assert plain_lines(flow.tree()) == [
        "OrderPlaced",
        "├─ go_on",
        "│  ├─ InvoiceIssued",
        "│  │  ├─ in_task",
        "│  │  │  └─ MailSent",
        "│  │  │     └─ fail  failed: LookupError: no such order",
        "│  │  └─ go_on",
        "│  │     ├─ MailSent  background",
        "│  │     │  └─ fail  failed: LookupError: no such order",
        "│  │     └─ Namesakes.OrderPlaced  background, nobody handles it",
        "│  └─ Namesakes.OrderPlaced  nobody handles it",
        "└─ fail  failed: LookupError: no such order",
    ]
    assert flow.unhandled == [Namesakes.OrderPlaced]
    assert flow.cycles == []


async def test_tree_is_aligned(bus, errors):
    """Section 5: times form a column, no line passes 100 columns, long names keep their tail."""

    @short
    def fail(event):
        raise LookupError("m" * 150)

    fail.__qualname__ = "shop." * 20 + "invoices.on_order_placed"
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, going_on(bus, OrderPlaced))
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
    lines = flow.tree().splitlines()
    assert len(lines) == 300
    assert max(map(len, lines)) == 100
    assert len({line.index(" ms") for line in lines}) == 1
    failed = [line for line in lines if "LookupError" in line]
    assert all(re.search(r"─ …(shop\.)*invoices\.on_order_placed +\d", line) for line in failed)
    assert all(re.search(r" ms  failed: LookupError: m+…$", line) for line in failed)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a" * 33 + ".register.<locals>.handle", "m." + "a" * 33 + ".register.handle"),
        ("shop." + "a" * 60 + ".handle", "…" + "a" * 45 + ".handle"),
        ("shop.shipping." + "b" * 40, "…shipping." + "b" * 40),
        ("c" * 90, "…" + "c" * 52),
    ],
)
async def test_long_names_keep_their_tail(bus, errors, name, shown):
    """Section 5: names too long lose `<locals>` first, then whole words from the left."""

    def handle(event):
        raise LookupError("m" * 50)

    handle.__qualname__, handle.__module__ = name, "m"
    bus.subscribe(OrderPlaced, handle)
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
    assert flow.tree().splitlines()[1].split()[1] == shown


async def test_a_chain_may_be_as_long_as_it_likes():
    """C7: thousands of levels are drawn, every few of them from the left again."""
    bus = EventBus(max_depth=None)
    left = 2_000

    @short
    async def go_on(event):
        nonlocal left
        left -= 1
        if left:
            await bus.publish(OrderPlaced())

    bus.subscribe(OrderPlaced, go_on)
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
    lines = flow.tree().splitlines()
    assert len(lines) == 4_000
    assert lines[8].startswith("…8 └─ OrderPlaced ")
    assert lines[3_999].startswith("…3992 " + " " * 21 + "└─ ")


async def test_tree_of_unfinished_runs(bus):
    """Section 5: a tree drawn while events run says so; the block's end does not end the tree."""
    going = asyncio.Event()
    bus.on(OrderPlaced)(lambda event: going.wait())
    with record(bus) as flow:
        assert flow.tree() == "nothing was published"
        bus.publish_nowait(OrderPlaced())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert flow.tree().count("running") == 2
    going.set()
    await bus.join()
    assert "running" not in flow.tree()
    assert repr(flow) == "<Flow of 1 events>"


async def test_cancelled_is_not_failed(bus, errors):
    """C4.5: a publisher's cancellation is told apart from a failure, a CancelledError included."""
    waiting = asyncio.Event()

    @short
    async def wait(event):
        waiting.set()
        await asyncio.Event().wait()

    @short
    def fail(event):
        raise asyncio.CancelledError

    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, wait)
    with record(bus) as flow:
        task = asyncio.create_task(bus.publish(OrderPlaced()))
        await waiting.wait()
        task.cancel()
        await asyncio.wait([task])
    assert plain_lines(flow.tree()) == [
        "OrderPlaced",
        "├─ fail  failed: CancelledError",
        "└─ wait  cancelled",
    ]


class Unreadable(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("error", "remark"),
    [
        (LookupError(), "LookupError"),
        (LookupError("\n first\x1b[31m\nsecond"), "LookupError: first [31m"),
        (Unreadable(), "Unreadable: (its message cannot be read)"),
    ],
)
async def test_failures_are_described_in_a_line(bus, errors, error, remark):
    """Section 5: type and first line of the message, whatever that is."""

    @short
    def fail(event):
        raise error

    bus.subscribe(OrderPlaced, fail)
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
    assert plain_lines(flow.tree())[1] == f"└─ fail  failed: {remark}"


# Whose event it is


async def test_concurrent_publishes_keep_their_parents(bus):
    """Section 5: however publishes overlap, every event is below the run that published it."""
    barrier = asyncio.Barrier(3)
    instance = MailSent()

    def make(kind):
        async def handle(event):
            await barrier.wait()
            await asyncio.gather(bus.publish(kind()), bus.publish(instance))
            await barrier.wait()

        handle.__qualname__ = kind.__name__.lower()
        return handle

    kinds = [type(name, (Event,), {}) for name in ("One", "Two", "Three")]
    for kind in kinds:
        bus.subscribe(OrderPlaced, make(kind))
    bus.subscribe(MailSent, going_on(bus))
    with record(bus) as flow:
        async with asyncio.timeout(PATIENCE):
            await bus.publish(OrderPlaced())
    kept = [line.strip("│├└─ ").split("  ")[0] for line in plain_lines(flow.tree())]
    assert kept == ["OrderPlaced"] + [
        name
        for kind in ("One", "Two", "Three")
        for name in (kind.lower(), kind, "MailSent", "go_on")
    ]


async def test_one_instance_published_again_is_another_event(bus):
    """Section 5: events are told apart by their publish, not by the object or the handlers."""
    event = OrderPlaced()
    with record(bus) as flow:
        for publish in (bus.publish, bus.publish, bus.publish_nowait):
            with bus.subscribe(OrderPlaced, going_on(bus)):
                result = publish(event)
                if result is not None:
                    await result
        await bus.join()
    assert plain_lines(flow.tree()) == [
        *["OrderPlaced", "└─ go_on"] * 2,
        "OrderPlaced  background",
        "└─ go_on",
    ]


async def test_threads_keep_their_parents(bus):
    """C5.6, C2.6: loops of several threads publish on one bus, and no event is lost or misled."""
    rounds, loops = 50, 4
    barrier = threading.Barrier(loops)

    @short
    async def relay(event):
        await asyncio.sleep(0)
        await bus.publish(type(event).next())

    kinds = [type(f"In{number}", (Event,), {}) for number in range(loops)]
    for kind in kinds:
        kind.next = type(kind.__name__.replace("In", "Out"), (Event,), {})
        bus.subscribe(kind, relay)
        bus.subscribe(kind.next, going_on(bus))

    async def run(kind):
        barrier.wait(PATIENCE)
        for _ in range(rounds):
            await asyncio.gather(*[bus.publish(kind()) for _ in range(4)])

    with record(bus) as flow:
        await asyncio.gather(*[asyncio.to_thread(asyncio.run, run(kind)) for kind in kinds])
    lines = plain_lines(flow.tree())
    assert len(lines) == loops * rounds * 4 * 4
    for start in range(0, len(lines), 4):
        number = lines[start][2:]
        assert lines[start : start + 4] == [
            f"In{number}",
            "└─ relay",
            f"   └─ Out{number}",
            "      └─ go_on",
        ]


async def test_references_from_before_the_record(bus):
    """Section 5: events published by the bus's own methods, looked up before, are seen as well."""
    publish, publish_nowait = bus.publish, bus.publish_nowait

    @short
    async def forward(event):
        for kind in (InvoiceIssued, InvoiceIssued, Namesakes.OrderPlaced, MailSent, MailSent):
            await publish(kind())

    for _ in range(2):  # both of one name
        bus.subscribe(OrderPlaced, going_on(bus))
        bus.subscribe(InvoiceIssued, going_on(bus))
    bus.subscribe(OrderPlaced, forward)
    bus.subscribe(Namesakes.OrderPlaced, going_on(bus))
    with record(bus) as flow:
        await publish(OrderPlaced())
        publish_nowait(OrderPlaced())
        await bus.join()
    once = [
        "OrderPlaced",
        "├─ go_on",
        "├─ go_on",
        "└─ forward",
        *["   ├─ InvoiceIssued", "   │  ├─ go_on", "   │  └─ go_on"] * 2,
        "   ├─ Namesakes.OrderPlaced",
        "   │  └─ go_on",
        "   ├─ MailSent  nobody handles it",
        "   └─ MailSent  nobody handles it",
    ]
    assert plain_lines(flow.tree()) == once * 2


async def test_what_other_hooks_publish(bus):
    """Section 5: an event of another hook is beside the one whose handler it wraps."""

    @contextlib.contextmanager
    def hook(event, handler):
        if isinstance(event, InvoiceIssued):
            bus.publish_nowait(MailSent())
        yield

    bus.subscribe(OrderPlaced, going_on(bus, InvoiceIssued))
    bus.subscribe(InvoiceIssued, going_on(bus))
    with bus.instrument(hook), record(bus) as flow:
        await bus.publish(OrderPlaced())
        await bus.join()
    assert plain_lines(flow.tree()) == [
        "OrderPlaced",
        "└─ go_on",
        "   ├─ InvoiceIssued",
        "   │  └─ go_on",
        "   └─ MailSent  background, nobody handles it",
    ]


async def test_on_error_publishes_below_the_failure(errors):
    """Section 5: what `on_error` publishes is below the run that failed."""
    bus = EventBus(on_error=lambda failure: bus.publish_nowait(MailSent()))

    @short
    async def fail(event):
        await asyncio.sleep(0)
        raise LookupError

    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(MailSent, going_on(bus))
    with record(bus) as flow:
        await bus.publish(OrderPlaced())
        await bus.join()
    assert plain_lines(flow.tree()) == [
        "OrderPlaced",
        "└─ fail  failed: LookupError",
        "   └─ MailSent  background",
        "      └─ go_on",
    ]


async def test_what_is_refused_is_no_event(bus, errors):
    """C4.7, C7: a publish that raises has published nothing."""
    bus = EventBus(max_depth=2, max_pending=1)
    bus.subscribe(OrderPlaced, going_on(bus, OrderPlaced))
    bus.subscribe(MailSent, going_on(bus))
    with record(bus) as flow:
        with pytest.raises(TypeError):
            await bus.publish("order")
        bus.publish_nowait(MailSent())
        with pytest.raises(asyncio.QueueFull):
            bus.publish_nowait(MailSent())
        await bus.publish(OrderPlaced())
        await bus.aclose()
        with pytest.raises(RuntimeError):
            await bus.publish(OrderPlaced())
    kinds = [line for line in plain_lines(flow.tree()) if "go_on" not in line]
    assert kinds == ["OrderPlaced", "   └─ OrderPlaced", "MailSent  background"]


async def test_tasks_that_share_a_context(bus):
    """Section 5: what one task leaves in a shared context is not taken for another's event."""
    original, gate = bus.publish, asyncio.Event()

    async def wait(event):
        await gate.wait()

    bus.subscribe(OrderPlaced, wait)
    bus.subscribe(InvoiceIssued, wait)
    bus.subscribe(MailSent, wait)
    shared = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    with record(bus) as recorded:
        tasks = [
            loop.create_task(bus.publish(event), context=shared)
            for event in (OrderPlaced(), InvoiceIssued())
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        await loop.create_task(original(MailSent()), context=shared)
    lines = [line.split()[0] for line in recorded.tree().splitlines() if line[0].isalpha()]
    assert lines == ["OrderPlaced", "InvoiceIssued", "MailSent"]
