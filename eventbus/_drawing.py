# SPDX-License-Identifier: MIT
"""Text trees and Mermaid flowcharts, of whatever has a name."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Row = tuple[str, str, str, str]  # branch, name, a middle column, a remark

WIDTH = 100
_NAMES = 56  # columns that branch and name may take at least, however long the remarks are
_LEVELS = 8  # levels of a tree that are drawn beside each other


def walk(roots: Sequence[T], children: Callable[[T], Sequence[T]]) -> Iterator[tuple[str, T]]:
    """Yield the nodes of a forest from the top down, each with the branch that leads to it.

    However deep it is, branches stay short: every few levels the drawing starts at the left
    again, behind the number of levels left out: `…12 └─ `.
    """
    pending = [(root, "", "", 1) for root in reversed(roots)]
    while pending:
        node, branch, indent, level = pending.pop()
        yield branch, node
        if level % _LEVELS == 0:
            indent = f"…{level} "
        fork, bar = "└─ ", "   "
        for child in reversed(children(node)):
            pending.append((child, indent + fork, indent + bar, level + 1))
            fork, bar = "├─ ", "│  "


def columns(rows: Sequence[Row]) -> str:
    """Lay out the rows of a tree, at least one, in aligned columns, the middle one to the right.

    No line is longer than `WIDTH`: names keep their tail, remarks their head.
    """
    middle = max(len(row[2]) for row in rows)
    remarks = max(len(row[3]) for row in rows)
    first = max(len(branch) + len(name) for branch, name, _, _ in rows)
    first = min(first, max(_NAMES, WIDTH - 4 - middle - remarks))
    lines: list[str] = []
    for branch, name, number, remark in rows:
        label = branch + _tail(name, first - len(branch))
        remark = _head(remark, WIDTH - 4 - middle - first)
        lines.append(f"{label:{first}}  {number:>{middle}}  {remark}".rstrip())
    return "\n".join(lines)


def _head(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _tail(name: str, width: int) -> str:
    """Shorten a dotted name from the left, at a dot if one is near: `…invoices.on_order`."""
    if len(name) > width:
        name = name.replace(".<locals>", "")
    if len(name) <= width:
        return name
    tail = name[len(name) - width + 1 :]
    _, dot, rest = tail.partition(".")
    return "…" + (rest if dot and len(rest) > width // 2 else tail)


def place(location: str | None) -> str:
    """Return `file:line`, the shorter of the absolute and the relative one; "" if unknown."""
    try:
        return min(location, os.path.relpath(location), key=len) if location else ""
    except (OSError, ValueError):  # no current folder, or another drive
        return location or ""


def distinct_names(types: Sequence[type[object]]) -> dict[type[object], str]:
    """Return a name for each class: as short as can be, and no two the same.

    Those of one name are told apart by their modules, and if that does not help by a number. One
    that exists twice in the source's eyes has the same name in every drawing: a class that its
    module has replaced says so, and one of a file that was imported twice bears its module.
    """
    names: dict[type[object], str] = {}
    namings: list[Callable[[type[object]], str]] = [_short_name, _long_name]
    unnamed = list(dict.fromkeys(types))
    for naming in namings:
        found = [naming(kind) for kind in unnamed]
        taken = [*names.values(), *found]
        names.update(
            (kind, name) for kind, name in zip(unnamed, found, strict=True) if taken.count(name) < 2
        )
        unnamed = [kind for kind in unnamed if kind not in names]
    for number, kind in enumerate(unnamed, 1):
        names[kind] = f"{_long_name(kind)} #{number}"
    return names


def _short_name(kind: type[object]) -> str:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    for other in list(sys.modules.values()) if file is not None else ():
        is_twin = other is not module and getattr(other, "__file__", None) == file
        if is_twin and _found_in(other, kind) not in (None, kind):
            return _long_name(kind)
    return _mark(kind, kind.__qualname__.rpartition("<locals>.")[2])


def _long_name(kind: type[object]) -> str:
    return _mark(kind, f"{kind.__module__}.{kind.__qualname__}")


def _mark(kind: type[object], name: str) -> str:
    """Mark a class that its module has replaced: reloaded, or a notebook cell run again."""
    current = _found_in(sys.modules.get(kind.__module__), kind)
    return name if current in (None, kind) else f"{name} (replaced)"


def _found_in(module: object, kind: type[object]) -> object:
    """Return what a module has under the name of a class; None if nothing, as for local classes."""
    found: Any = module
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) else None


class Flowchart:
    """A Mermaid flowchart of event types (round) and handlers (square)."""

    # Both in the order in which they are to be drawn: nodes by key, with id and text.
    def __init__(self) -> None:
        self._nodes: dict[object, tuple[str, str]] = {}
        self._edges: dict[tuple[str, str, str], None] = {}

    def event(self, key: object, *lines: str, style: str = "") -> None:
        """Draw an event type, once; its style may be "unhandled" or "unmade"."""
        style = f":::{style}" if style else ""
        label = "<br/>".join(map(_escape, lines))
        self._nodes.setdefault(key, (f"n{len(self._nodes)}", f'(["{label}"]){style}'))

    def handler(self, key: object, *lines: str, failed: bool = False) -> None:
        """Draw a handler, once."""
        style = ":::failed" if failed else ""
        label = "<br/>".join(map(_escape, lines))
        self._nodes.setdefault(key, (f"n{len(self._nodes)}", f'["{label}"]{style}'))

    def arrow(self, source: object, target: object, *, background: bool = False) -> None:
        """Draw an arrow between two nodes, once; a dotted one for background work."""
        arrow = "-. background .->" if background else "-->"
        self._edges[self._nodes[source][0], arrow, self._nodes[target][0]] = None

    def __str__(self) -> str:
        lines = ["flowchart LR"]
        lines += [node + text for node, text in self._nodes.values()]
        lines += [" ".join(edge) for edge in self._edges]
        for style, look in (
            ("failed", "stroke:#d1242f,stroke-width:3px"),
            ("unhandled", "stroke-dasharray:4"),
            ("unmade", "stroke-dasharray:4"),
        ):
            if any(text.endswith(f":::{style}") for _, text in self._nodes.values()):
                lines.append(f"classDef {style} {look}")
        return "\n    ".join(lines)


def _escape(text: str) -> str:
    """Replace what Mermaid, HTML or Markdown could take for their own: `<locals>`, `__main__`."""
    # An underscore can end an emphasis unless a letter follows it.
    return re.sub(r"[^\w .,:/()-]|_(?![^\W_])", lambda match: f"#{ord(match[0])};", text)
