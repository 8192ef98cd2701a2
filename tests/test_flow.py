# SPDX-License-Identifier: MIT
"""Seeing it: `wiring`, and what `record` has seen, as trees, flowcharts, circles and losses."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import importlib
import logging
import os
import re
import threading
import weakref
from collections import Counter

import pytest
from target import PACKAGE, Event, EventBus

flow_module = importlib.import_module(f"{PACKAGE}.flow")
record, wiring = flow_module.record, flow_module.wiring

PATIENCE = 5  # seconds, before a test that hangs has failed
HERE = os.path.relpath(__file__)


class Order(Event):
    pass


class Invoice(Event):
    pass


class Mail(Event):
    pass


class Namesakes:
    class Order(Event):
        pass


async def use(something, event):
    pass


def line_of(function):
    return function.__code__.co_firstlineno


def short(function):
    """Give a handler that is defined in a test a short name."""
    function.__qualname__ = function.__name__
    return function


def going_on(bus, *events, publish="publish"):
    """Return a handler that publishes these events."""

    @short
    async def go_on(event):
        for made in events:
            result = getattr(bus, publish)(made())
            if result is not None:
                await result

    return go_on


def plain(tree):
    """Return the lines of a tree without milliseconds, alignment and the name of this module."""
    tree = re.sub(r"[\d,.]+ ms", "", tree).replace(f"{__name__}.", "")
    return [re.sub(r"(?<=\w)  +", "  ", line).rstrip() for line in tree.splitlines()]


def methods(bus):
    return {name: value for name, value in vars(bus).items() if name.startswith("publish")}


# wiring


def test_wiring_as_text(bus):
    """Section 5: types and handlers in their order, with kind and place, in aligned columns."""

    def plain_function(event):
        pass

    bus.subscribe(Order, plain_function)
    bus.subscribe(Order, going_on)
    bus.subscribe(Invoice, functools.partial(use, None))
    bus.subscribe(Invoice, [].append)
    here = f"{__name__}.test_wiring_as_text.<locals>.plain_function"
    assert wiring(bus).splitlines() == [
        "Order",
        f"├─ {here}  sync   {HERE}:{line_of(plain_function)}",
        f"└─ {__name__ + '.going_on':{len(here)}}  sync   {HERE}:{line_of(going_on)}",
        "Invoice",
        f"├─ {__name__ + '.use':{len(here)}}  async  {HERE}:{line_of(use)}",
        f"└─ {'list.append':{len(here)}}  sync",
    ]


def test_wiring_as_mermaid(bus):
    """Section 5: the same as a flowchart, names escaped, a handler of two types drawn once."""
    bus.on(Order, Invoice)(lambda event: None)
    chart = wiring(bus, format="mermaid").splitlines()
    name = f"{__name__}.test_wiring_as_mermaid.#60;locals#62;.#60;lambda#62;"
    line = line_of(test_wiring_as_mermaid) + 2
    assert chart == [
        "flowchart LR",
        '    n0(["Order"])',
        f'    n1["{name}<br/>sync<br/>{HERE}:{line}"]',
        '    n2(["Invoice"])',
        "    n0 --> n1",
        "    n2 --> n1",
    ]


def test_mermaid_takes_no_name_for_its_own(bus):
    """Section 5: quotes, tags, entities and Markdown in a name are only a name."""
    handler = type("Handler", (), {"__call__": going_on})()
    type(handler).__module__ = "__main__"
    type(handler).__qualname__ = 'a_b.class_["<i>`#34;&amp;"]'
    bus.subscribe(Order, functools.partial(handler, Order))
    label = re.search(r'n1\["(.*?)<br/>sync', wiring(bus, "mermaid"))[1]
    assert set(re.sub(r"#\d+;", "", label)) <= set("_ main.abclssp34i")
    assert "__" not in label
    assert "class#95;" in label
    assert "a_b" in label
    decoded = re.sub(r"#(\d+);", lambda match: chr(int(match[1])), label)
    assert decoded == '__main__.a_b.class_["<i>`#34;&amp;"]'


def test_wiring_of_nothing(bus):
    """A bus without handlers is described as well."""
    assert wiring(bus) == "nobody handles anything"
    assert wiring(bus, "mermaid") == "flowchart LR"


def test_wiring_refuses_other_formats(bus):
    """A format that is unknown is a ValueError that names those that are not."""
    with pytest.raises(ValueError, match="'text' or 'mermaid', got 'dot'"):
        wiring(bus, format="dot")


def test_namesakes_stay_apart(bus):
    """C1.1: types of one name are told apart: by their module, and if need be by a number."""
    Local = type("Order", (Event,), {"__module__": "elsewhere"})
    again = type("Order", (Event,), {"__module__": "elsewhere"})
    bus.on(Order, Namesakes.Order, Local, again)(going_on)
    assert wiring(bus).splitlines()[::2] == [
        f"{__name__}.Order",
        "Namesakes.Order",
        "elsewhere.Order #1",
        "elsewhere.Order #2",
    ]


def test_place_without_a_current_folder(bus, monkeypatch):
    """Where the current folder is gone, the place is absolute."""

    def gone(path):
        raise FileNotFoundError

    bus.subscribe(Order, going_on)
    monkeypatch.setattr(os.path, "relpath", gone)
    assert wiring(bus).endswith(f"  sync   {__file__}:{line_of(going_on)}")


# tree


async def test_tree_of_one_order(bus, errors):
    """Section 5: runs below their event, events below the run that published them, all marked."""

    @short
    def fail(event):
        raise LookupError("no such order\nand more")

    @short
    async def in_task(event):
        await asyncio.create_task(bus.publish(Mail()))

    bus.subscribe(Order, going_on(bus, Invoice, Namesakes.Order))
    bus.subscribe(Order, fail)
    bus.subscribe(Invoice, in_task)
    bus.subscribe(Invoice, going_on(bus, Mail, Namesakes.Order, publish="publish_nowait"))
    bus.subscribe(Mail, fail)
    with record(bus) as flow:
        await bus.publish(Order())
        await bus.join()
    assert plain(flow.tree()) == [
        "Order",
        "├─ go_on",
        "│  ├─ Invoice",
        "│  │  ├─ in_task",
        "│  │  │  └─ Mail",
        "│  │  │     └─ fail  failed: LookupError: no such order",
        "│  │  └─ go_on",
        "│  │     ├─ Mail  background",
        "│  │     │  └─ fail  failed: LookupError: no such order",
        "│  │     └─ Namesakes.Order  background, nobody handles it",
        "│  └─ Namesakes.Order  nobody handles it",
        "└─ fail  failed: LookupError: no such order",
    ]
    assert flow.unhandled == [Namesakes.Order]
    assert flow.cycles == []


async def test_tree_is_aligned(bus, errors):
    """Section 5: times form a column, no line passes 100 columns, long names keep their tail."""

    @short
    def fail(event):
        raise LookupError("m" * 150)

    fail.__qualname__ = "shop." * 20 + "invoices.on_order_placed"
    bus.subscribe(Order, fail)
    bus.subscribe(Order, going_on(bus, Order))
    with record(bus) as flow:
        await bus.publish(Order())
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
    bus.subscribe(Order, handle)
    with record(bus) as flow:
        await bus.publish(Order())
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
            await bus.publish(Order())

    bus.subscribe(Order, go_on)
    with record(bus) as flow:
        await bus.publish(Order())
    lines = flow.tree().splitlines()
    assert len(lines) == 4_000
    assert lines[8].startswith("…8 └─ Order ")
    assert lines[3_999].startswith("…3992 " + " " * 21 + "└─ ")


async def test_tree_of_unfinished_runs(bus):
    """Section 5: a tree drawn while events run says so; the block's end does not end the tree."""
    going = asyncio.Event()
    bus.on(Order)(lambda event: going.wait())
    with record(bus) as flow:
        assert flow.tree() == "nothing was published"
        bus.publish_nowait(Order())
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

    bus.subscribe(Order, fail)
    bus.subscribe(Order, wait)
    with record(bus) as flow:
        task = asyncio.create_task(bus.publish(Order()))
        await waiting.wait()
        task.cancel()
        await asyncio.wait([task])
    assert plain(flow.tree()) == ["Order", "├─ fail  failed: CancelledError", "└─ wait  cancelled"]


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

    bus.subscribe(Order, fail)
    with record(bus) as flow:
        await bus.publish(Order())
    assert plain(flow.tree())[1] == f"└─ fail  failed: {remark}"


# Whose event it is


async def test_concurrent_publishes_keep_their_parents(bus):
    """Section 5: however publishes overlap, every event is below the run that published it."""
    barrier = asyncio.Barrier(3)
    instance = Mail()

    def make(kind):
        async def handle(event):
            await barrier.wait()
            await asyncio.gather(bus.publish(kind()), bus.publish(instance))
            await barrier.wait()

        handle.__qualname__ = kind.__name__.lower()
        return handle

    kinds = [type(name, (Event,), {}) for name in ("One", "Two", "Three")]
    for kind in kinds:
        bus.subscribe(Order, make(kind))
    bus.subscribe(Mail, going_on(bus))
    with record(bus) as flow:
        async with asyncio.timeout(PATIENCE):
            await bus.publish(Order())
    kept = [line.strip("│├└─ ").split("  ")[0] for line in plain(flow.tree())]
    assert kept == ["Order"] + [
        name for kind in ("One", "Two", "Three") for name in (kind.lower(), kind, "Mail", "go_on")
    ]


async def test_one_instance_published_again_is_another_event(bus):
    """Section 5: events are told apart by their publish, not by the object or the handlers."""
    event = Order()
    with record(bus) as flow:
        for publish in (bus.publish, bus.publish, bus.publish_nowait):
            with bus.subscribe(Order, going_on(bus)):
                result = publish(event)
                if result is not None:
                    await result
        await bus.join()
    assert plain(flow.tree()) == [*["Order", "└─ go_on"] * 2, "Order  background", "└─ go_on"]


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
    lines = plain(flow.tree())
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
        for kind in (Invoice, Invoice, Namesakes.Order, Mail, Mail):
            await publish(kind())

    for _ in range(2):  # both of one name
        bus.subscribe(Order, going_on(bus))
        bus.subscribe(Invoice, going_on(bus))
    bus.subscribe(Order, forward)
    bus.subscribe(Namesakes.Order, going_on(bus))
    with record(bus) as flow:
        await publish(Order())
        publish_nowait(Order())
        await bus.join()
    once = [
        "Order",
        "├─ go_on",
        "├─ go_on",
        "└─ forward",
        *["   ├─ Invoice", "   │  ├─ go_on", "   │  └─ go_on"] * 2,
        "   ├─ Namesakes.Order",
        "   │  └─ go_on",
        "   ├─ Mail  nobody handles it",
        "   └─ Mail  nobody handles it",
    ]
    assert plain(flow.tree()) == once * 2


async def test_what_other_hooks_publish(bus):
    """Section 5: an event of another hook is beside the one whose handler it wraps."""

    @contextlib.contextmanager
    def hook(event, handler):
        if isinstance(event, Invoice):
            bus.publish_nowait(Mail())
        yield

    bus.subscribe(Order, going_on(bus, Invoice))
    bus.subscribe(Invoice, going_on(bus))
    with bus.instrument(hook), record(bus) as flow:
        await bus.publish(Order())
        await bus.join()
    assert plain(flow.tree()) == [
        "Order",
        "└─ go_on",
        "   ├─ Invoice",
        "   │  └─ go_on",
        "   └─ Mail  background, nobody handles it",
    ]


async def test_on_error_publishes_below_the_failure(errors):
    """Section 5: what `on_error` publishes is below the run that failed."""
    bus = EventBus(on_error=lambda failure: bus.publish_nowait(Mail()))

    @short
    async def fail(event):
        await asyncio.sleep(0)
        raise LookupError

    bus.subscribe(Order, fail)
    bus.subscribe(Mail, going_on(bus))
    with record(bus) as flow:
        await bus.publish(Order())
        await bus.join()
    assert plain(flow.tree()) == [
        "Order",
        "└─ fail  failed: LookupError",
        "   └─ Mail  background",
        "      └─ go_on",
    ]


async def test_what_is_refused_is_no_event(bus, errors):
    """C4.7, C7: a publish that raises has published nothing."""
    bus = EventBus(max_depth=2, max_pending=1)
    bus.subscribe(Order, going_on(bus, Order))
    bus.subscribe(Mail, going_on(bus))
    with record(bus) as flow:
        with pytest.raises(TypeError):
            await bus.publish("order")
        bus.publish_nowait(Mail())
        with pytest.raises(asyncio.QueueFull):
            bus.publish_nowait(Mail())
        await bus.publish(Order())
        await bus.aclose()
        with pytest.raises(RuntimeError):
            await bus.publish(Order())
    kinds = [line for line in plain(flow.tree()) if "go_on" not in line]
    assert kinds == ["Order", "   └─ Order", "Mail  background"]


# The bus is left as it was


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("patched", [False, True])
async def test_records_end_in_any_order(bus, order, patched):
    """Section 5: records of one bus see the same, and leave it as it was, however they overlap."""
    if patched:
        bus.publish = functools.partial(EventBus.publish, bus)
    before = methods(bus)
    bus.subscribe(Order, going_on(bus, Mail, publish="publish_nowait"))
    stacks = [contextlib.ExitStack() for _ in order]
    flows = [stack.enter_context(record(bus)) for stack in stacks]
    for number, index in enumerate(order, 1):
        await bus.publish(Order())
        await bus.join()
        stacks[index].close()
        assert plain(flows[index].tree()) == [
            *["Order", "└─ go_on", "   └─ Mail  background, nobody handles it"] * number
        ]
    assert methods(bus) == before
    await bus.publish(Order())
    assert len(flows[order[-1]].tree().splitlines()) == 3 * len(order)


async def test_a_patch_above_a_record_stays(bus):
    """Section 5: the end of a record leaves alone what others have put in place meanwhile."""
    with record(bus):
        patch = bus.publish = functools.partial(bus.publish)
    assert vars(bus)["publish"] is patch
    await bus.publish(Order())


async def test_the_record_ends_with_an_exception(bus):
    """Section 5: the exception of the block comes through, and the record has ended."""
    with pytest.raises(LookupError), record(bus):
        raise LookupError
    assert methods(bus) == {}


async def test_the_context_is_left_as_it_was(bus):
    """C4.3: publishing while recorded leaves nothing in the publisher's context."""
    bus.subscribe(Order, going_on(bus))
    before = contextvars.copy_context()
    with record(bus):
        await bus.publish(Order())
        bus.publish_nowait(Order())
        await bus.join()
    assert list(contextvars.copy_context().items()) == list(before.items())


async def test_a_publisher_that_is_closed(bus):
    """A coroutine that is thrown away is closed outside of its context, without a complaint."""
    going, finished = asyncio.Event(), asyncio.Event()

    async def handle(event):
        await going.wait()
        finished.set()

    bus.subscribe(Order, handle)
    with record(bus):
        coroutine = bus.publish(Order())
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
            bus.publish_nowait(Order())

    bus.subscribe(Order, go_on)
    with record(bus, limit=4) as flow:
        await bus.publish(Order())
        await bus.join()
    lines = plain(flow.tree())
    assert lines[:3] == ["(6 older events were dropped)", "Order  background", "└─ go_on"]
    assert len(lines) == 1 + 2 * 4
    assert flow.cycles == [(Order, Order)]
    assert repr(flow) == "<Flow of 10 events>"


async def test_what_is_dropped_is_freed(bus):
    """Section 5: a chain that never ends is not kept by its links."""

    def count():
        gc.collect()
        return Counter(type(kept).__name__ for kept in gc.get_objects())

    before, left = count(), 200

    @short
    async def go_on(event):
        nonlocal left
        left -= 1
        if left:
            bus.publish_nowait(Order())

    bus.subscribe(Order, go_on)
    with record(bus, limit=10) as flow:
        bus.publish_nowait(Order())
        await bus.join()
    kept = count() - before
    assert len(flow.tree().splitlines()) == 21
    assert (kept["Run"], kept["Published"]) == (11, 11)


async def test_neither_events_nor_exceptions_are_kept(bus, monkeypatch):
    """C4.8: a record keeps neither payloads nor exceptions nor tasks alive."""
    monkeypatch.setattr(logging.getLogger(PACKAGE), "disabled", True)  # pytest keeps records
    kept = []

    class Kept(LookupError):
        pass

    @short
    async def later(event):
        error = Kept()
        kept.extend([weakref.ref(error), weakref.ref(asyncio.current_task())])
        await asyncio.sleep(0)
        raise error

    bus.subscribe(Order, later)
    bus.subscribe(Order, lambda event: kept.append(weakref.ref(event)))
    with record(bus) as flow:
        await bus.publish(Order())
        gc.collect()
        assert [reference() for reference in kept] == [None] * 3
    assert "Kept" in flow.tree()


def test_the_limit_is_checked(bus):
    """A limit below one is a ValueError, and leaves the bus as it was."""
    with pytest.raises(ValueError, match="at least 1, got 0"), record(bus, limit=0):
        pass
    assert methods(bus) == {}


# cycles


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


# mermaid


async def test_flow_as_mermaid(bus, errors):
    """Section 5: event -> handler -> event; background dotted, failed and unhandled marked."""

    @short
    def fail(event):
        raise LookupError

    async def issue(event):
        await bus.publish(Invoice())
        await bus.publish(Invoice())
        bus.publish_nowait(Mail())

    bus.subscribe(Order, issue)
    bus.subscribe(Invoice, fail)
    with record(bus) as flow:
        await bus.publish(Order())
        await bus.join()
    assert flow.mermaid().splitlines() == [
        "flowchart LR",
        '    n0(["Order"])',
        f'    n1["{__name__}.test_flow_as_mermaid.#60;locals#62;.issue"]',
        '    n2(["Invoice"])',
        f'    n3["{__name__}.fail"]:::failed',
        '    n4(["Mail"]):::unhandled',
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
    bus.subscribe(Order, lambda event: bus.publish_nowait(Invoice()))
    bus.subscribe(
        Mail,
        lambda event: None,
    )
    with record(bus) as recorded:
        await bus.publish(Order())
        await bus.publish(Mail())
        await bus.join()
    chart = recorded.mermaid()
    assert chart.count("lambda") == 2


async def test_tasks_that_share_a_context(bus):
    """Section 5: what one task leaves in a shared context is not taken for another's event."""
    original, gate = bus.publish, asyncio.Event()

    async def wait(event):
        await gate.wait()

    bus.subscribe(Order, wait)
    bus.subscribe(Invoice, wait)
    bus.subscribe(Mail, wait)
    shared = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    with record(bus) as recorded:
        tasks = [
            loop.create_task(bus.publish(event), context=shared) for event in (Order(), Invoice())
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        await loop.create_task(original(Mail()), context=shared)
    lines = [line.split()[0] for line in recorded.tree().splitlines() if line[0].isalpha()]
    assert lines == ["Order", "Invoice", "Mail"]


def test_a_limit_between_numbers_is_kept(bus):
    """Section 5: a record is bounded whatever number the limit is."""
    with record(bus, limit=2.5) as recorded:
        for _ in range(10):
            asyncio.run(bus.publish(Order()))
    assert "dropped" in recorded.tree()
