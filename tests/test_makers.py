# SPDX-License-Identifier: MIT
"""`python -m eventbus map`: the places that make events, read in the application's source."""

import re
import sys
import types
from pathlib import Path

import pytest
from target import PACKAGE

EVENTS = """
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from eventbus import Event

E, T = TypeVar("E"), TypeVar("T")

class Base(Event):
    @classmethod
    def of_base(cls) -> "Base": ...

@dataclass
class OrderPlaced(Base):
    number: int = 1

    @classmethod
    def of_self(cls) -> "list[Self]": ...
    @classmethod
    def of_type(cls: type[E]) -> E: ...
    @classmethod
    def unannotated(cls): ...
    @classmethod
    def schema(cls) -> dict[str, Any]: ...
    @staticmethod
    def key() -> "OrderPlaced": ...

class OrderPaid(Event): ...

class Outer:
    class Inner(Event): ...

class Changed(Event, Generic[T]): ...

class NoEvent:
    @classmethod
    def unannotated(cls): ...
"""
APP = """
from eventbus import EventBus
from .events import OrderPaid, OrderPlaced
from . import service

bus = EventBus()
bus.on(OrderPlaced, OrderPaid)(lambda event: None)
"""


@pytest.fixture
def made(company, command, capsys):
    """Map an application with that service; return the places, and who makes what in them."""

    def made(service):
        company("events", EVENTS)
        company("app", APP)
        company("service", service)
        return printed()

    def printed():
        assert command(["map", "company.app:bus"]) == 0
        lines, event_type, found = capsys.readouterr().out.splitlines(), None, []
        for line in lines:
            place = re.search(r"─ made in (.*?)(?: (\S+))?$", line)
            if place:
                file, _, number = place[1].rpartition(":")
                found.append((event_type, Path(file).name, int(number), place[2]))
            elif re.match(r"\w", line):
                event_type = line.split()[0]
        return found

    made.again = printed
    return made


@pytest.mark.parametrize(
    "source",
    [
        "from .events import OrderPlaced\ndef f(): OrderPlaced(1)",
        "from .events import OrderPlaced as OP\ndef f(): OP(1)",
        "from .events import *\ndef f(): OrderPlaced(1)",
        "from company import events\ndef f(): events.OrderPlaced(1)",
        "import company.events as ev\ndef f(): ev.OrderPlaced(1)",
        "import company.events\ndef f(): company.events.OrderPlaced(1)",
        "from .events import OrderPlaced; Placed = OrderPlaced\ndef f(): Placed(1)",
        "from . import events; Placed = events.OrderPlaced\ndef f(): Placed(1)",
        "from . import events; g = lambda: 0; g.type = events.OrderPlaced\ndef f(): g.type(1)",
        "\ndef f(): from .events import OrderPlaced as OP; OP(1)",
        "\ndef f(): from . import events; events.OrderPlaced(1)",
        "\ndef f(): import company.events as ev; ev.OrderPlaced(1)",
        "\ndef f(): import company.events; company.events.OrderPlaced(1)",
        "from .events import OrderPlaced\ndef f(): return [OrderPlaced(n) for n in range(3)]",
        "from .events import OrderPlaced\nasync def f(bus): await bus.publish(OrderPlaced(1))",
        "from .events import OrderPlaced\ndef f(): g = lambda OrderPlaced: 1; OrderPlaced(1)",
        "from .events import OrderPlaced\ndef f(): OrderPlaced.of_base()",
        "from .events import OrderPlaced\ndef f(): OrderPlaced.of_self()",
        "from .events import OrderPlaced\ndef f(): OrderPlaced.of_type()",
        "from .events import OrderPlaced\ndef f(): OrderPlaced.unannotated()",
    ],
)
def test_name_is_what_it_stands_for(made, source):
    """Section 5: a type is made by any name: an alias, a module's attribute, a local import."""
    assert made(source) == [("OrderPlaced", "service.py", 2, "f")]


@pytest.mark.parametrize(
    "source",
    [
        "bus.subscribe(OrderPlaced, print)",
        "isinstance(f, OrderPlaced)",
        "print(OrderPlaced)",
        "OrderPlaced.schema()",
        "OrderPlaced.key()",
        "OrderPlaced.nothing()",
        "events.nothing()",
        "NoEvent()",
        "NoEvent.unannotated()",
        "raw()",
        "f.OrderPlaced()",
        "f().OrderPlaced()",
        "proxy()",
        "proxy.OrderPlaced()",
        "def g(OrderPlaced): OrderPlaced()",
        "def g(*, OrderPlaced=None): OrderPlaced()",
        "def g(): OrderPlaced = f; OrderPlaced()",
        "def g(): from nowhere import OrderPlaced; OrderPlaced()",
        "def g(): from .....nowhere import OrderPlaced; OrderPlaced()",
        "lambda OrderPlaced: OrderPlaced()",
        "def g():\n    def OrderPlaced(): ...\n    OrderPlaced()",
        "match f:\n    case OrderPlaced(): ...",
    ],
)
def test_what_makes_nothing(made, source):
    """Section 5: what is only mentioned, or hidden by another name, or no event, is not made."""
    proxy = """
class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("outside of a request")
    def __call__(self): ...
    def __getattr__(self, name):
        raise RuntimeError("outside of a request")
proxy = Proxy()
raw = classmethod(print)
bus = type("Bus", (), {"subscribe": print})
"""
    body = "".join(f"    {line}\n" for line in source.splitlines())
    imports = "from . import events\nfrom .events import NoEvent, OrderPlaced"
    assert made(f"{imports}\n{proxy}\ndef f():\n{body}") == []


def test_place_has_its_function(made):
    """Section 5: a place is the line of the call, and the qualified name of the function around."""
    source = """
from .events import Changed, OrderPaid, OrderPlaced, Outer

OrderPaid()

class Service:
    first = OrderPaid()

    async def place(self, bus):
        await bus.publish(
            OrderPlaced(
                2
            )
        )

    def later(self):
        def soon():
            return OrderPaid()
        return soon

handle = lambda event: Outer.Inner()

def change():
    return Changed[int]()
"""
    assert made(source) == [
        ("OrderPlaced", "service.py", 11, "Service.place"),
        ("OrderPaid", "service.py", 4, None),
        ("OrderPaid", "service.py", 7, "Service"),
        ("OrderPaid", "service.py", 18, "Service.later.<locals>.soon"),
        ("Outer.Inner", "service.py", 21, "<lambda>"),
        ("Changed", "service.py", 24, "change"),
    ]


def test_marks(made, command, capsys):
    """Section 5: marked are types that nobody handles, and types that nothing is seen to make."""
    made("from .events import *\nOrderPlaced(); Outer.Inner()")
    command(["map", "company.app:bus"])
    heads = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\w", line)]
    assert heads == [
        "OrderPlaced",
        "OrderPaid  no place found that makes it",
        "Outer.Inner  nobody handles it",
    ]


def test_handler_that_makes_events_is_one_node(company, command, capsys):
    """Section 5: in the flowchart a handler that makes the next event is between the two."""
    company("events", EVENTS)
    company(
        "app",
        """
        import functools
        from eventbus import EventBus
        from .events import OrderPaid, OrderPlaced

        def decorated(function):
            return functools.wraps(function)(lambda *arguments: function(*arguments))

        @decorated
        def pay(event):
            return OrderPaid()

        def place():
            return OrderPlaced()

        OrderPlaced()
        bus = EventBus()
        bus.subscribe(OrderPlaced, pay)
        """,
    )
    assert command(["map", "company.app:bus", "--format", "mermaid"]) == 0
    file = Path("company", "app.py")
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "flowchart LR",
        'n0(["OrderPlaced"])',
        f'n1["company.app.pay<br/>sync<br/>{file}:9"]',
        'n2(["OrderPaid<br/>nobody handles it"]):::unhandled',
        f'n3["company.app.place<br/>{file}:13"]',
        f'n4["company.app<br/>{file}"]',
        "n0 --> n1",
        "n3 --> n0",
        "n4 --> n0",
        "n1 --> n2",
        "classDef unhandled stroke-dasharray:4",
    ]


# Which modules are read


def test_modules_not_imported_are_read(made, company):
    """Section 5: what the package has not imported yet makes events as well, but for its tests."""
    company("jobs.__init__", "from ..events import *\ndef start(): OrderPaid()")
    company("jobs.nightly", "import company.events as ev\nfrom nowhere import *\nev.OrderPaid()")
    for name in ("tests.helpers", "test_jobs", "conftest", "jobs.not-a-module"):
        company(name, "from company.events import OrderPaid\nOrderPaid()")
    assert made("") == [
        ("OrderPaid", "__init__.py", 2, "start"),
        ("OrderPaid", "nightly.py", 3, None),
    ]
    assert "company.jobs" not in sys.modules


def test_modules_of_others_are_not_read(made, tmp_path, monkeypatch):
    """Section 5: installed packages make nothing that is the application's, unless it is one."""
    made("")
    source = "from company.events import OrderPaid\nOrderPaid()"
    for folder in ("lib", "site-packages"):
        file = tmp_path / folder / f"{folder[:3]}_events.py"
        file.parent.mkdir()
        file.write_text(source)
        module = types.ModuleType(file.stem)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, file.stem, module)
    monkeypatch.setitem(sys.modules, "absent", None)
    command_line = types.ModuleType("__main__")
    command_line.__file__ = str(tmp_path / "lib" / "command_line.py")
    Path(command_line.__file__).write_text(source)
    monkeypatch.setitem(sys.modules, "__mp_main__", command_line)
    assert made.again() == [("OrderPaid", "lib_events.py", 2, None)]


def test_file_that_is_two_modules_is_read_once(made, company):
    """Section 5: a place is told once, though its file was imported under two names."""
    company("twice", "from company.events import OrderPaid\nOrderPaid()")
    source = "import sys, company.twice\nsys.path[:0] = company.__path__\nimport twice"
    assert made(source) == [("OrderPaid", "twice.py", 2, None)]
    assert sys.modules["twice"] is not sys.modules["company.twice"]


def test_installed_application_is_read(company, command, capsys, tmp_path, monkeypatch):
    """Section 5: the package that is named is the application, wherever it is installed."""
    company("events", EVENTS)
    company("app", APP)
    company("service", "from .events import OrderPaid as Paid; OP = Paid\ndef f(): OP()")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (tmp_path / "company").rename(installed / "company")
    monkeypatch.syspath_prepend(installed)
    assert command(["map", "company.app:bus"]) == 0
    assert "service.py:2 f" in capsys.readouterr().out


def test_own_package_is_not_read(made, capsys):
    """Section 5: what the bus's own package makes in its demo is none of the application's."""
    assert f"{PACKAGE}._demo" in sys.modules
    assert made("") == []


def test_module_that_cannot_be_read(company, command, capsys):
    """Section 5: a module whose source makes no sense is left out, and told."""
    company("app", "from eventbus import EventBus\nbus = EventBus()")
    company("template", "\n{{ name }} = = 1")
    for name, source in (("binary", b"# \xff"), ("null", b"x = '\0'")):
        Path("company", f"{name}.py").write_bytes(source)
    Path("company", "gone.py").symlink_to("nowhere.py")
    assert command(["map", "company.app:bus"]) == 0
    printed = capsys.readouterr()
    assert [line.split(": ")[:2] for line in printed.err.splitlines()] == [
        ["left out", str(Path("company", f"{name}.py"))]
        for name in ("binary", "gone", "null", "template")
    ]
    assert "template.py: SyntaxError: " in printed.err
    assert printed.out == "nobody handles anything\n"


def test_warnings_of_the_source_are_its_own(made, company):
    """Section 5: a source that the compiler warns of is read, though warnings are errors here."""
    company("later", "from .events import OrderPaid\ndef f(): OrderPaid('\\d')")
    assert made("") == [("OrderPaid", "later.py", 2, "f")]
