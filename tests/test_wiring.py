# SPDX-License-Identifier: MIT
"""Seeing it: `wiring`, who handles what, as text and as a flowchart."""

import functools
import importlib
import os
import re

import pytest
import support
from support import InvoiceIssued, Namesakes, OrderPlaced, going_on
from target import PACKAGE, Event

wiring = importlib.import_module(f"{PACKAGE}.flow").wiring
HERE, SUPPORT = os.path.relpath(__file__), os.path.relpath(support.__file__)


def line_of(function):
    return function.__code__.co_firstlineno


async def put(queue, event):
    pass


def test_wiring_as_text(bus):
    """Section 5: types and handlers in their order, with kind and place, in aligned columns."""

    def plain_function(event):
        pass

    bus.subscribe(OrderPlaced, plain_function)
    bus.subscribe(OrderPlaced, going_on)
    bus.subscribe(InvoiceIssued, functools.partial(put, None))
    bus.subscribe(InvoiceIssued, [].append)
    here = f"{__name__}.test_wiring_as_text.<locals>.plain_function"
    assert wiring(bus).splitlines() == [
        "OrderPlaced",
        f"├─ {here}  sync   {HERE}:{line_of(plain_function)}",
        f"└─ {'support.going_on':{len(here)}}  sync   {SUPPORT}:{line_of(going_on)}",
        "InvoiceIssued",
        f"├─ {__name__ + '.put':{len(here)}}  async  {HERE}:{line_of(put)}",
        f"└─ {'list.append':{len(here)}}  sync",
    ]


def test_wiring_as_mermaid(bus):
    """Section 5: the same as a flowchart, names escaped, a handler of two types drawn once."""
    bus.on(OrderPlaced, InvoiceIssued)(lambda event: None)
    chart = wiring(bus, format="mermaid").splitlines()
    name = f"{__name__}.test_wiring_as_mermaid.#60;locals#62;.#60;lambda#62;"
    line = line_of(test_wiring_as_mermaid) + 2
    assert chart == [
        "flowchart LR",
        '    n0(["OrderPlaced"])',
        f'    n1["{name}<br/>sync<br/>{HERE}:{line}"]',
        '    n2(["InvoiceIssued"])',
        "    n0 --> n1",
        "    n2 --> n1",
    ]


def test_mermaid_takes_no_name_for_its_own(bus):
    """Section 5: quotes, tags, entities and Markdown in a name are only a name."""
    handler = type("Handler", (), {"__call__": going_on})()
    type(handler).__module__ = "__main__"
    type(handler).__qualname__ = 'a_b.class_["<i>`#34;&amp;"]'
    bus.subscribe(OrderPlaced, functools.partial(handler, OrderPlaced))
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
    Local = type("OrderPlaced", (Event,), {"__module__": "elsewhere"})
    again = type("OrderPlaced", (Event,), {"__module__": "elsewhere"})
    bus.on(OrderPlaced, Namesakes.OrderPlaced, Local, again)(going_on)
    assert wiring(bus).splitlines()[::2] == [
        "support.OrderPlaced",
        "Namesakes.OrderPlaced",
        "elsewhere.OrderPlaced #1",
        "elsewhere.OrderPlaced #2",
    ]


def test_place_without_a_current_folder(bus, monkeypatch):
    """Where the current folder is gone, the place is absolute."""

    def gone(path):
        raise FileNotFoundError

    bus.subscribe(OrderPlaced, going_on)
    monkeypatch.setattr(os.path, "relpath", gone)
    assert wiring(bus).endswith(f"  sync   {support.__file__}:{line_of(going_on)}")
