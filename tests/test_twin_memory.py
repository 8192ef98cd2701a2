# SPDX-License-Identifier: MIT
"""C1.3, C1.4, C1.5: twins beside bases, hooks and futures, and that nothing keeps them alive."""

import gc
import importlib
import sys
import weakref
from contextlib import nullcontext

import pytest
from support import OrderPlaced, do_nothing, every_way, turns
from target import PACKAGE, Event


def make(base=Event):
    """Make a class as a module that is run again does: of the same name, and from one source."""

    class Made(base):
        pass

    return Made


def messages(errors):
    return [record.getMessage() for record in errors]


@pytest.fixture
def two_names(tmp_path, monkeypatch):
    """A class of one file that was imported from within its package and from without."""
    folder = tmp_path / "twinshop"
    folder.mkdir()
    folder.joinpath("__init__.py").touch()
    source = f"import {PACKAGE} as events\n\nclass Paid(events.Event):\n    pass\n"
    folder.joinpath("twinorders.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(folder))
    names = ["twinshop.twinorders", "twinorders"]
    yield [importlib.import_module(name).Paid for name in names]
    for name in ["twinshop", *names]:
        del sys.modules[name]


@every_way
async def test_imported_from_within_and_from_without(bus, errors, two_names, tmp_path, publish):
    """C1.5: by the import system itself; the warning has both modules, and the file of each."""
    handled, published = two_names
    assert handled is not published
    bus.subscribe(handled, do_nothing)
    await publish(bus, published())
    (message,) = messages(errors)
    assert "twinshop.twinorders.Paid" in message
    assert " twinorders.Paid" in message
    assert message.count(str((tmp_path / "twinshop" / "twinorders.py").resolve())) == 2
    assert "two names" in message
    assert "import" in message.partition("two names")[2]  # the remedy


async def test_modules_without_a_file(bus, errors):
    """C1.5: two modules whose files nobody knows are not one file, and one is one."""
    one, same, other = make(), make(), make()
    one.__module__ = same.__module__ = "twin_notebook"
    other.__module__ = "twin_frozen"
    bus.subscribe(one, do_nothing)
    await bus.publish(other())
    assert messages(errors) == []
    await bus.publish(same())
    (message,) = messages(errors)
    assert message.count("twin_notebook.") == 2


@every_way
async def test_told_with_hooks_too(bus, errors, publish):
    """C1.5, C10: a hook is no handler of the event."""
    handled, published, calls = make(), make(), []

    def hook(event, handler):
        calls.append(handler)
        return nullcontext()

    bus.subscribe(handled, do_nothing)
    with bus.instrument(hook):
        for _ in range(2):
            await publish(bus, published())
    assert calls == [None, None]
    assert len(errors) == 1


async def test_published_to_who_waits_for_the_twin(bus, errors):
    """C1.5, C8: a future of `wait_for` is a handler; the event of the twin misses it."""
    awaited, published = make(), make()
    future = bus.wait_for(awaited)
    assert messages(errors) == []
    await bus.publish(published())
    assert not future.done()
    assert len(errors) == 1
    future.cancel()


# The base


@every_way
async def test_subscribed_base_is_still_told_of(bus, errors, publish):
    """C1.3: the warning of a base does not go with that of a twin."""

    class Base(Event):
        pass

    class Derived(Base):
        pass

    bus.subscribe(Base, do_nothing)
    bus.subscribe(make(), do_nothing)
    for _ in range(2):
        await publish(bus, Derived())
    (message,) = messages(errors)
    assert "Base" in message
    assert "exact type" in message


@every_way
async def test_base_of_the_same_name(bus, errors, publish):
    """C1.3, C1.5: a base that is a twin as well is told of once, as the one or the other."""
    base = make()
    bus.subscribe(base, do_nothing)
    published = make(base)
    for _ in range(2):
        await publish(bus, published())
    assert len(errors) == 1


# Memory


@pytest.mark.usefixtures("classes_die")
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@every_way
async def test_classes_are_not_kept_alive(bus, no_log, publish, order):
    """C1.4, C1.5: neither the class that was told of nor its twin lives on for the warning."""
    classes = [make(), make()]
    died = list(map(weakref.ref, classes))
    subscription = bus.subscribe(classes[0], do_nothing)
    await publish(bus, classes[1]())
    with pytest.raises(ValueError, match="same name"):
        bus.unsubscribe(classes[1], do_nothing)
    bus.wait_for(classes[1]).cancel()
    await publish(bus, OrderPlaced())
    await turns()  # the future's callbacks are the loop's
    for place in order:
        if place == 0:
            subscription.cancel()
            subscription = None
        classes[place] = None
        gc.collect()
        assert died[place]() is None


@pytest.mark.usefixtures("classes_die")
async def test_no_class_is_kept_by_a_generation_of_reloads(bus, no_log):
    """C1.4, C1.5: classes that are made, published and warned about over and over all go."""
    handled = make()
    bus.subscribe(handled, do_nothing)
    died = []
    for _ in range(20):
        published = make()
        died.append(weakref.ref(published))
        await bus.publish(published())
    del published
    gc.collect()
    assert [reference() for reference in died] == [None] * 20
