# SPDX-License-Identifier: MIT
"""C1.5: a class that was made twice is not a silent miss."""

import importlib
import importlib.util
import logging
import sys
import types

import pytest
from support import OrderPlaced, do_nothing, forever
from target import PACKAGE, Event, EventBus

flow = importlib.import_module(f"{PACKAGE}.flow")
SOURCE = f"from {PACKAGE} import Event\n\nclass OrderPlaced(Event):\n    pass\n"


@pytest.fixture
def load(tmp_path):
    """A function that runs a file of events as a module of that name; it is forgotten at the end.

    Asked for the same file again, it runs it again.
    """
    before = dict(sys.modules)

    def load(name, file="events.py", source=SOURCE):
        path = tmp_path / file
        if not path.exists():
            path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.OrderPlaced

    yield load
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]


def rebuilt(load):
    """As `cloudpickle` does it, or a notebook's cell that is run again."""

    def make():
        return types.new_class(
            "OrderPlaced", (Event,), {}, lambda body: body.update(__module__="__main__")
        )

    return make(), make()


def reloaded(load):
    return load("shop.events"), load("shop.events")


def under_two_names(load):
    return load("shop.events"), load("events")


def as_main_and_module(load):
    main = load("__mp_main__", "app.py")
    return main, load("app", "app.py")


def through_a_link(load, tmp_path):
    first = load("shop.events")
    (tmp_path / "linked.py").symlink_to(tmp_path / "events.py")
    return first, load("linked", "linked.py")


WAYS_TO_MAKE_TWINS = [rebuilt, reloaded, under_two_names, as_main_and_module, through_a_link]


@pytest.fixture(params=WAYS_TO_MAKE_TWINS)
def twins(request, load, tmp_path):
    """Two classes that were one in the source."""
    if request.param is through_a_link:
        return through_a_link(load, tmp_path)
    return request.param(load)


def assert_told_once(errors, *event_types):
    [record] = errors
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "another class of the same name has handlers" in message
    for event_type in event_types:
        assert f"{event_type.__module__}.{event_type.__qualname__}" in message
        file = getattr(sys.modules.get(event_type.__module__), "__file__", None)
        assert file is None or file.rpartition("/")[2] in message or "linked" in file


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("first", ["publish", "publish_nowait"])
async def test_published_class_has_a_twin(bus, errors, twins, first, swap):
    """C1.5: a warning names both classes, with modules, files and the likely cause; once."""
    handled, published = reversed(twins) if swap else twins
    seen = []
    bus.subscribe(handled, seen.append)
    if first == "publish":
        await bus.publish(published())
    for _ in range(2):
        bus.publish_nowait(published())
        await bus.publish(published())
    await bus.join()
    assert seen == []
    assert_told_once(errors, handled, published)
    assert "most likely" in errors[0].getMessage()
    await bus.publish(handled())
    assert len(seen) == 1
    assert len(errors) == 1


async def test_every_bus_says_so(errors, twins):
    """C1.5: once per type and bus."""
    handled, published = twins
    for count in (1, 2):
        bus = EventBus()
        bus.subscribe(handled, do_nothing)
        for _ in range(2):
            await bus.publish(published())
        assert len(errors) == count


async def test_every_type_is_told_of(bus, errors, load):
    """C1.5: a module that is reloaded twice has made two classes that nobody handles."""
    first, second, third = (load("shop.events") for _ in range(3))
    bus.subscribe(first, do_nothing)
    for event_type in (second, third, second, third):
        await bus.publish(event_type())
    assert len(errors) == 2


async def test_subscribed_only_later(bus, errors, twins):
    """C1.5: the warning comes too when the twin gets its first handler after a publish."""
    handled, published = twins
    await bus.publish(published())
    assert len(errors) == 0
    subscription = bus.subscribe(handled, do_nothing)
    await bus.publish(published())
    assert_told_once(errors, handled, published)
    subscription.cancel()
    bus.subscribe(handled, do_nothing)
    await bus.publish(published())
    assert len(errors) == 1


async def test_both_have_handlers(bus, errors, twins):
    """C1.5, C1.1: where each has handlers there is no miss, and they are two keys."""
    seen = []
    for event_type in twins:
        bus.subscribe(event_type, lambda event: seen.append(type(event)))
        await bus.publish(event_type())
    assert seen == list(twins)
    assert len(errors) == 0


async def test_nobody_handles_either(bus, errors, twins):
    """C1.5, C1.3: what nobody handles, under either class, is a no-op."""
    bus.subscribe(twins[0], do_nothing).cancel()
    for event_type in twins:
        await bus.publish(event_type())
        bus.publish_nowait(event_type())
    assert len(errors) == 0


async def test_name_that_is_equal_by_chance(bus, errors, load):
    """C1.5: classes of one name in different modules and files are two in the source, too."""
    orders, shop = load("shop.orders", "orders.py"), load("shop.events", "events.py")

    class Namesake:
        class OrderPlaced(Event):
            pass

    class OrderPlaced(Event):
        pass

    bus.subscribe(orders, do_nothing)
    for event_type in (shop, Namesake.OrderPlaced, OrderPlaced):
        await bus.publish(event_type())
        bus.publish_nowait(event_type())
        bus.wait_for(event_type).cancel()
        with pytest.raises(ValueError, match="pass the very object that was subscribed"):
            bus.unsubscribe(event_type, do_nothing)
    assert len(errors) == 0


async def test_other_name_in_the_same_file(bus, errors, load):
    """C1.5: nor does the file make twins of classes with two names."""
    source = SOURCE + "\nclass Shop:\n    class OrderPlaced(Event):\n        pass\n"
    outer = load("shop.events", source=source)
    inner = sys.modules["shop.events"].Shop.OrderPlaced
    bus.subscribe(outer, do_nothing)
    await bus.publish(inner())
    assert len(errors) == 0


async def test_unsubscribe_speaks_of_it(bus, twins):
    """C1.5, C2.5: where the twin is why a handler is not found, the `ValueError` says so."""
    handled, other = twins
    bus.subscribe(handled, do_nothing)
    with pytest.raises(ValueError, match="another class of the same name has handlers") as info:
        bus.unsubscribe(other, do_nothing)
    for event_type in twins:
        assert f"{event_type.__module__}.{event_type.__qualname__}" in str(info.value)
    bus.subscribe(other, forever)
    with pytest.raises(ValueError, match="pass the very object that was subscribed"):
        bus.unsubscribe(other, do_nothing)
    bus.clear()
    with pytest.raises(ValueError, match="pass the very object that was subscribed"):
        bus.unsubscribe(other, do_nothing)


async def test_wait_for_speaks_of_it(bus, errors, twins):
    """C1.5, C8: who waits for a class whose twin has handlers is warned, once, and waits."""
    handled, awaited = twins
    bus.subscribe(handled, do_nothing)
    futures = [bus.wait_for(awaited), bus.wait_for(awaited)]
    assert_told_once(errors, handled, awaited)
    await bus.publish(awaited())
    assert [type(future.result()) for future in futures] == [awaited] * 2
    await bus.publish(awaited())
    assert len(errors) == 1


async def test_wait_for_does_not_speak_of_a_base(bus, errors):
    """C1.5, C8: who waits for a class whose base has handlers has made no mistake."""

    class Derived(OrderPlaced):
        pass

    bus.subscribe(OrderPlaced, do_nothing)
    waiting = bus.wait_for(Derived)
    await bus.publish(Derived())
    assert type(await waiting) is Derived
    assert len(errors) == 0


async def test_wait_for_what_is_handled(bus, errors, twins):
    """C1.5, C8: where the class itself has handlers, there is nothing to warn about."""
    for event_type in twins:
        bus.subscribe(event_type, do_nothing)
    for event_type in twins:
        bus.wait_for(event_type).cancel()
    assert len(errors) == 0


# In drawings


def test_drawn_by_itself(bus, load):
    """C1.5: a class of a file that was imported twice bears its module in every drawing."""
    one, other = under_two_names(load)
    for kind, name in ((one, "shop.events.OrderPlaced"), (other, "events.OrderPlaced")):
        with bus.subscribe(kind, do_nothing):
            assert flow.wiring(bus).splitlines()[0] == name
    before, after = reloaded(load)
    for kind, name in ((before, "OrderPlaced (replaced)"), (after, "shop.events.OrderPlaced")):
        with bus.subscribe(kind, do_nothing):
            assert flow.wiring(bus).splitlines()[0].endswith(name)
