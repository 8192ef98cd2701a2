# SPDX-License-Identifier: MIT
"""`modules`: handlers of an application's modules, subscribed in the order of dependencies."""

import importlib
import sys
import threading
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
from target import PACKAGE, Event

modules = importlib.import_module(f"{PACKAGE}.modules")
ModuleBase, ModuleMeta = modules.ModuleBase, modules.ModuleMeta
register_modules = modules.register_modules


def event_in(place):
    return type("Placed", (Event,), {"__module__": place})


def module(name, *depends_on, on=(), home="shop.app", register=None):
    """Return a module defined in `home` that subscribes a handler of its own to each of `on`."""

    class Module(ModuleBase):
        __module__ = home
        meta = ModuleMeta(name, depends_on)

        def register_event_handlers(self, bus):
            for event_type in on:
                bus.subscribe(event_type, lambda event: None)
            if register is not None:
                register(bus)

    return Module()


def names(ordered):
    return [each.meta.name for each in ordered]


class Placed(Event):
    pass


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ({"c": "", "a": "", "b": ""}, "cab"),
        ({"mail": "invoices orders", "invoices": "orders", "orders": ""}, "orders invoices mail"),
        ({"a": "", "b": "a", "c": "", "d": "b"}, "abcd"),
        ({"a": "z", "b": "", "z": ""}, "bza"),
        ({"d": "b c", "c": "a", "b": "a", "a": ""}, "acbd"),
    ],
)
def test_order(bus, given, order):
    """Dependencies come first, otherwise the order given decides; and that order is returned."""
    order = order.split() if " " in order else list(order)
    registered = []
    ordered = register_modules(
        bus,
        (
            module(name, *other.split(), register=lambda _, name=name: registered.append(name))
            for name, other in given.items()
        ),
    )
    assert registered == names(ordered) == order


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([("a",), ("b", "x")], LookupError, "'b' depends on 'x', which is not among 'a', 'b'"),
        ([("a",), ("b",), ("a",)], ValueError, "two modules are called 'a'"),
        ([("z",), ("a", "c"), ("b", "a"), ("c", "b")], ValueError, "circle: .*b -> a.*"),
        ([("a", "a")], ValueError, "circle: a -> a;"),
    ],
)
def test_bad_dependencies(bus, given, error, message):
    """A missing dependency, a name given twice and a circle stop before anything is subscribed."""
    with pytest.raises(error, match=message):
        register_modules(bus, [module(*each, on=[Placed]) for each in given])
    assert bus.event_types() == ()


def test_circle_reads_in_the_direction_of_the_dependencies(bus):
    """The circle in the message goes from a module to one that it depends on."""
    with pytest.raises(ValueError, match="circle") as caught:
        register_modules(bus, [module("a", "b"), module("b", "c"), module("c", "a")])
    assert str(caught.value).partition(": ")[2].partition(";")[0] in (
        "a -> b -> c -> a",
        "b -> c -> a -> b",
        "c -> a -> b -> c",
    )


def test_string_for_a_tuple(bus):
    """`depends_on=("orders")` is a string, and not six modules of one letter."""
    with pytest.raises(TypeError, match=r"pass a tuple: \('orders',\)"):
        register_modules(bus, [SimpleNamespace(meta=ModuleMeta("a", "orders"))])


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, GeneratorExit])
def test_failing_module_leaves_nothing(bus, error):
    """What a module raises names it, and nothing stays that it or an earlier one subscribed."""

    def fail(bus):
        raise error

    def handler(event):
        pass

    kept = bus.subscribe(Placed, handler)
    taken_back = bus.subscribe(Placed, print)
    first = module("first", on=[Placed], register=lambda bus: bus.subscribe(Placed, handler))
    second = module("second", on=[Placed, event_in("shop.x")], register=fail)
    with pytest.raises(error) as caught:
        register_modules(bus, [first, second, module("third", on=[Placed])])
    assert caught.value.__notes__ == ["raised while module 'second' registered its event handlers"]
    assert bus.event_types() == (Placed,)
    assert bus.handlers(Placed) == (kept.handler, taken_back.handler)


def test_only_what_was_subscribed_for_it_is_taken_back(bus):
    """What another thread subscribes meanwhile stays, and so does a wrapper around `subscribe`."""
    counted = []

    def subscribe(event_type, handler):
        counted.append(handler)
        return type(bus).subscribe(bus, event_type, handler)

    def register(bus):
        bus.subscribe(Placed, repr)
        thread = threading.Thread(target=bus.subscribe, args=(Placed, print))
        thread.start()
        thread.join()
        raise LookupError

    bus.subscribe = subscribe
    with pytest.raises(LookupError):
        register_modules(bus, [module("orders", register=register)])
    assert [handler.callback for handler in bus.handlers(Placed)] == [print]
    assert counted == [repr, print]
    assert bus.subscribe is subscribe


def test_exception_that_takes_no_note(bus):
    """An exception that is frozen passes through all the same, after everything is taken back."""

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    def fail(bus):
        raise Frozen(7)

    with pytest.raises(Frozen):
        register_modules(bus, [module("first", on=[Placed]), module("second", register=fail)])
    assert bus.event_types() == ()


def test_async_registration_is_refused(bus):
    """A coroutine that nobody awaits would subscribe nothing: it is refused, and nothing stays."""

    async def register(bus):
        bus.subscribe(Placed, print)

    late = SimpleNamespace(meta=ModuleMeta("late"), register_event_handlers=register)
    with pytest.raises(TypeError, match=r"'late' is async.* plain function"):
        register_modules(bus, [module("first", on=[Placed]), late])
    assert bus.event_types() == ()


def test_base_subscribes_nothing(bus):
    """A module that handles no event needs no method."""
    meta = ModuleMeta("orders")
    orders = type("Orders", (ModuleBase,), {"meta": meta})()
    assert register_modules(bus, [orders]) == (orders,)
    assert meta == ModuleMeta("orders", depends_on=())
    assert bus.event_types() == ()


def test_anything_of_the_shape_is_a_module(bus, errors):
    """Objects, classes and Python modules of the same shape serve, whatever their metadata is."""

    class Orders:
        meta = SimpleNamespace(name="orders", depends_on=["mail"], version=2)

        @classmethod
        def register_event_handlers(cls, bus):
            bus.subscribe(Placed, cls.handle)

        @classmethod
        def handle(cls, event):
            pass

    mail = ModuleType("shop.mail")
    mail.meta = ModuleMeta("mail")
    mail.register_event_handlers = lambda bus: bus.subscribe(Placed, print)
    free = SimpleNamespace(meta=ModuleMeta("free"), register_event_handlers=lambda bus: None)
    assert names(register_modules(bus, [Orders, mail, free])) == ["mail", "orders", "free"]
    assert [handler.callback for handler in bus.handlers(Placed)] == [print, Orders.handle]
    assert [record.args[0] for record in errors] == ["mail"]  # Placed belongs to Orders' file


def owner_missing(errors):
    """Return who is told to depend on what, and check that the message says so."""
    found = []
    for record in errors:
        name, _, _, owners, _ = record.args
        assert f"add {owners} to the depends_on of '{name}'" in record.getMessage()
        found.append((name, owners))
    return found


@pytest.mark.parametrize(
    ("depends_on", "missing"),
    [((), [("mail", "'orders'")]), (["orders"], []), (["invoices"], [])],
)
def test_undeclared_dependency(bus, errors, depends_on, missing):
    """An event of a module that is no dependency, straight or through others, is warned of once."""
    placed = event_in("shop.orders.contracts.events")
    orders = module("orders", on=[placed], home="shop.orders.module")
    invoices = module("invoices", "orders", on=[placed], home="shop.invoices.module")
    mail = module("mail", *depends_on, on=[placed, placed], home="shop.mail.module")
    register_modules(bus, [orders, invoices, mail])
    assert owner_missing(errors) == missing


@pytest.mark.parametrize(
    ("event_home", "homes", "missing"),
    [
        # The closest package around the event decides.
        ("shop.orders.returns.events", {"a": "shop.orders.module"}, "'a'"),
        (
            "shop.orders.returns.events",
            {"a": "shop.orders.module", "b": "shop.orders.returns.module"},
            "'b'",
        ),
        ("shop.events", {"a": "shop.module", "b": "shop.orders.module"}, "'a'"),
        # Modules of one file each: the file decides, and what they share is everybody's.
        ("shop.orders", {"a": "shop.orders", "b": "shop.mail"}, "'a'"),
        ("shop.events", {"a": "shop.orders", "b": "shop.mail"}, "'a' or 'b'"),
        # Two in one file.
        (
            "shop.orders.events",
            {"a": "shop.orders.module", "b": "shop.orders.module"},
            "'a' or 'b'",
        ),
        # At the top there is no package.
        ("__main__", {"a": "__main__"}, "'a'"),
        ("orders", {"a": "orders", "b": "mail"}, "'a'"),
        ("elsewhere", {"a": "__main__", "b": "orders"}, None),
        # A common beginning is no package, and what lies beside a module is not its own.
        ("shop.orders_archive.events", {"a": "shop.orders.module"}, None),
        ("shop.contracts.orders", {"a": "shop.orders.module"}, None),
        # The package of a module in `__init__.py` is not the one around.
        ("json.events", {"a": "json"}, "'a'"),
        ("email.events", {"a": "email.mime"}, None),
    ],
)
def test_whose_event_it_is(bus, errors, event_home, homes, missing):
    """An event belongs to the modules that are defined closest to it, and to nobody else."""
    for name in homes.values():
        if name in ("json", "email.mime"):
            importlib.import_module(name)
    owners = [module(name, home=home) for name, home in homes.items()]
    register_modules(bus, [*owners, module("z", on=[event_in(event_home)], home="other.module")])
    assert owner_missing(errors) == ([("z", missing)] if missing else [])


@pytest.mark.parametrize("home", ["__main__", "shop.modules", "shop.orders.module"])
def test_modules_of_one_file_share_its_events(bus, errors, home):
    """Modules in one file, a script included, are not told to depend on each other."""
    placed = event_in(home)
    register_modules(
        bus, [module("a", on=[placed], home=home), module("b", on=[placed], home=home)]
    )
    assert owner_missing(errors) == []


def test_one_of_several_owners_is_enough(bus, errors):
    """Who depends on one of the modules that an event belongs to has declared it."""
    placed = event_in("shop.orders.events")
    pair = [module(name, home="shop.orders.module") for name in "ab"]
    register_modules(bus, [*pair, module("z", "b", on=[placed], home="other.module")])
    assert owner_missing(errors) == []


def test_only_what_a_module_subscribes_counts(bus, errors):
    """Handlers that were there before, or are another module's, are not a module's own."""
    placed = event_in("shop.orders.events")
    bus.subscribe(placed, print)
    orders = module("orders", on=[placed], home="shop.orders.module")
    register_modules(bus, [orders, module("mail", home="shop.mail.module")])
    assert owner_missing(errors) == []
    assert sys.modules.get("shop") is None
