# SPDX-License-Identifier: MIT
"""C7: circular publishing is refused, and nothing else is mistaken for it."""

import asyncio
import contextlib
import copy
import pickle

import pytest
from support import InvoiceIssued, MailSent, Numbered, OrderPlaced, descend_to
from target import Event, EventBus, EventCycleError

# The limit


async def test_only_the_innermost_handler_fails(errors):
    """C7: the handler that went too deep fails, logged once; all outer levels finish normally."""
    failures = []
    bus = EventBus(max_depth=3, on_error=failures.append)
    entered, finished = descend_to(bus, 1000)
    await bus.publish(Numbered())
    assert entered == [1, 2, 3]
    assert finished == [2, 1]
    assert [record.exc_info[0] for record in errors] == [EventCycleError]
    assert "descend" in errors[0].getMessage()
    assert [failure.event for failure in failures] == [Numbered(3)]
    assert failures[0].chain == (Numbered,) * 3


@pytest.mark.parametrize("max_depth", [1, 2, 8, 9, 10, 100, 1000])
async def test_exactly_max_depth_levels_pass(errors, max_depth):
    """C7: a chain of `max_depth` levels passes, whatever its length, and one more does not."""
    bus = EventBus(max_depth=max_depth)
    entered, finished = descend_to(bus, max_depth)
    await bus.publish(Numbered())
    assert len(entered) == len(finished) == max_depth
    assert len(errors) == 0
    await bus.publish(Numbered(0))
    assert len(errors) == 1


async def test_a_hundred_levels_by_default(bus, errors):
    """C7: `max_depth` is 100 unless told otherwise."""
    entered, finished = descend_to(bus, 1000)
    await bus.publish(Numbered())
    assert (len(entered), len(finished)) == (100, 99)
    assert len(errors) == 1


async def test_raised_in_the_innermost_publish(errors):
    """C7: the error is raised by the publish that went too deep, so its handler can catch it."""
    bus = EventBus(max_depth=2)
    caught = []

    async def again(event):
        try:
            await bus.publish(OrderPlaced())
        except EventCycleError as error:
            caught.append(error)

    bus.subscribe(OrderPlaced, again)
    await bus.publish(OrderPlaced())
    assert [error.chain for error in caught] == [(OrderPlaced,) * 3]
    assert len(errors) == 0
    await bus.publish(OrderPlaced())
    assert len(caught) == 2


async def test_counting_starts_anew_after_a_refusal(errors):
    """C7: a refused chain leaves nothing behind that a later one would be charged for."""
    bus = EventBus(max_depth=3)
    _, finished = descend_to(bus, 3)
    await bus.publish(Numbered(0))
    assert len(errors) == 1
    finished.clear()
    await bus.publish(Numbered(1))
    assert finished == [3, 2, 1]
    assert len(errors) == 1


async def test_publish_nowait_event_is_the_first_level():
    """C7: awaited publishes below a `publish_nowait` event are counted with it."""
    failures = []
    bus = EventBus(max_depth=3, on_error=failures.append)
    entered, finished = descend_to(bus, 1000)
    bus.publish_nowait(Numbered())
    await bus.join()
    assert (entered, finished) == ([1, 2, 3], [2, 1])
    assert failures[0].exception.chain == (Numbered,) * 4


# The error


class CartFilled(Event):
    pass


STRAIGHT = tuple(type(f"Step{number}", (Event,), {}) for number in range(12))


async def refuse(path):
    """Publish along `path`, each event from a handler of the one before; the last is refused."""
    failures = []
    bus = EventBus(max_depth=len(path) - 1, on_error=failures.append)
    following = iter(path[1:])

    async def go_on(event):
        await bus.publish(next(following)())

    for event_type in dict.fromkeys(path):
        bus.subscribe(event_type, go_on)
    await bus.publish(path[0]())
    assert len(failures) == 1
    return failures[0]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        pytest.param(
            (OrderPlaced, InvoiceIssued, OrderPlaced),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="one round",
        ),
        pytest.param(
            (OrderPlaced, InvoiceIssued) * 20,
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="many rounds",
        ),
        pytest.param(
            (CartFilled, *(OrderPlaced, InvoiceIssued) * 20),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="lead-in",
        ),
        pytest.param(
            (CartFilled, *(OrderPlaced, InvoiceIssued, MailSent) * 5, OrderPlaced, InvoiceIssued),
            "OrderPlaced -> InvoiceIssued -> MailSent -> OrderPlaced",
            id="refused in mid-circle",
        ),
        pytest.param((OrderPlaced,) * 20, "OrderPlaced -> OrderPlaced", id="itself"),
        pytest.param(
            (CartFilled, OrderPlaced, OrderPlaced),
            "OrderPlaced -> OrderPlaced",
            id="entered itself",
        ),
        pytest.param(
            (*(OrderPlaced, InvoiceIssued) * 20, MailSent),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="refused beside the circle",
        ),
        pytest.param(
            (OrderPlaced, InvoiceIssued, OrderPlaced, MailSent),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="refused beside a single round",
        ),
        pytest.param(
            (OrderPlaced, OrderPlaced, MailSent),
            "OrderPlaced -> OrderPlaced",
            id="refused beside itself",
        ),
        pytest.param(
            STRAIGHT, " -> ".join(f"Step{number}" for number in range(12)), id="no repetition"
        ),
    ],
)
async def test_message_shows_the_repeating_part(path, shown):
    """C7: the message shows the circle from where it was entered, or else the whole chain."""
    error = (await refuse(path)).exception
    assert f"max_depth={len(path) - 1}: {shown}; " in str(error)


async def test_error_keeps_its_fields_and_pickles():
    """C7: the error is a `RuntimeError` with the chain and the limit, and survives pickling."""
    path = (CartFilled, OrderPlaced, InvoiceIssued, OrderPlaced)
    error = (await refuse(path)).exception
    assert type(error) is EventCycleError
    assert issubclass(EventCycleError, RuntimeError)
    assert error.chain == path
    assert error.max_depth == 3
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is EventCycleError
        assert (again.chain, again.max_depth) == (error.chain, error.max_depth)
        assert str(again) == str(error)


# What counts


async def test_sync_handlers_alone_are_refused_too(errors):
    """C7: an innermost event with sync handlers only is refused before any of them runs."""
    bus = EventBus(max_depth=2)
    seen = []

    async def deeper(event):
        await bus.publish(OrderPlaced())

    async def innermost(event):
        await bus.publish(MailSent())

    bus.subscribe(CartFilled, deeper)
    bus.subscribe(OrderPlaced, innermost)
    bus.subscribe(MailSent, seen.append)
    await bus.publish(CartFilled())
    assert seen == []
    assert [record.exc_info[0] for record in errors] == [EventCycleError]
    await bus.publish(OrderPlaced())
    assert len(seen) == 1


async def test_unhandled_event_is_no_level(errors):
    """C7, C1.3: publishing what nobody handles is a no-op at any depth, the first time too."""
    bus = EventBus(max_depth=1)
    rounds = []

    async def innermost(event):
        await bus.publish(MailSent())
        rounds.append(event)

    bus.subscribe(OrderPlaced, innermost)
    await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    assert len(rounds) == 2
    assert len(errors) == 0


async def test_unhandled_event_is_no_level_with_a_hook_either(failures):
    """C1.3, C7: what nobody handles is a no-op at any depth, observed or not."""
    log = []
    bus = EventBus(max_depth=1)

    async def handler(event):
        await bus.publish(InvoiceIssued())
        log.append("handler")

    bus.subscribe(OrderPlaced, handler)
    with bus.instrument(lambda event, handler: contextlib.nullcontext()):
        await bus.publish(OrderPlaced())
    assert log == ["handler"]


async def test_circle_with_fan_out(errors):
    """C7: where several handlers go round, each of the innermost ones fails, and no other."""
    failures = []
    bus = EventBus(max_depth=3, on_error=failures.append)
    finished = []

    async def first(event):
        await bus.publish(Numbered(event.number + 1))
        finished.append(event.number)

    async def second(event):
        await bus.publish(Numbered(event.number + 1))
        finished.append(event.number)

    bystanders = []
    bus.subscribe(Numbered, first)
    bus.subscribe(Numbered, bystanders.append)
    bus.subscribe(Numbered, second)
    await bus.publish(Numbered())
    assert [failure.event for failure in failures] == [Numbered(3)] * 8
    assert len(errors) == 8
    assert sorted(finished) == [1] * 2 + [2] * 4
    assert len(bystanders) == 1 + 2 + 4


async def test_width_is_not_depth(errors):
    """C7: many publishes of one handler, one after the other or at once, are one level."""
    bus = EventBus(max_depth=2)
    seen = []

    async def publish_many(event):
        for _ in range(10):
            await bus.publish(MailSent())
        await asyncio.gather(*[bus.publish(MailSent()) for _ in range(10)])

    async def take(event):
        seen.append(event)
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, publish_many)
    bus.subscribe(MailSent, take)
    await bus.publish(OrderPlaced())
    assert len(seen) == 20
    assert len(errors) == 0


async def test_publish_in_an_awaited_task_counts(errors):
    """C7: a chain goes through the tasks that its handlers make and wait for."""
    bus = EventBus(max_depth=3)
    entered = []

    async def descend(event):
        entered.append(event.number)
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.publish(Numbered(event.number + 1)))

    bus.subscribe(Numbered, descend)
    await bus.publish(Numbered())
    assert entered == [1, 2, 3]
    assert len(errors) == 1
