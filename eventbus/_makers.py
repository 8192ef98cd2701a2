# SPDX-License-Identifier: MIT
"""Where an application makes its events, found by reading the source of its own modules.

A call makes an event if what it calls is a class of events, or a class method of one that returns
an instance. What a name stands for is looked up, not guessed: in the imported module's own
namespace, which knows every alias, or if a function imports it in the module it comes from.
Nothing is imported or called for it.
"""

import ast
import importlib.util
import inspect
import re
import sys
import tokenize
import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard, cast

from . import Event
from ._application import Application
from ._drawing import place
from ._wiring import Maker

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Named = _Function | ast.ClassDef


def find_makers(application: Application) -> tuple[list[Maker], list[str]]:
    """Return the places that make events, sorted, and a line on each file that cannot be read."""
    makers: dict[object, Maker] = {}  # by type and place: a file may be two modules
    problems: list[str] = []
    for name, file, names in application.modules():
        try:
            with warnings.catch_warnings(), tokenize.open(file) as source:
                warnings.simplefilter("ignore")  # of the source's own
                tree = ast.parse(source.read(), file)
        except (OSError, SyntaxError, ValueError) as exc:
            problems.append(f"{place(file)}: {type(exc).__name__}: {exc}")
        else:
            for maker in _read(name, file, tree, names):
                makers.setdefault(maker[:3], maker)
    return sorted(makers.values(), key=lambda maker: (maker.file, maker.line)), problems


def _read(name: str, file: str, tree: ast.Module, names: Mapping[str, object]) -> Iterator[Maker]:
    """Yield the places in a module that make events, given what its names stand for."""
    package = name if file.endswith("__init__.py") else name.rpartition(".")[0]
    module = _Scope("", "", None, ChainMap({**_own_names(tree, package), **names}))
    pending: list[tuple[ast.AST, _Scope]] = [(tree, module)]
    while pending:
        node, scope = pending.pop()
        if isinstance(node, _Named):
            scope = scope.inner(node, package)
        elif isinstance(node, ast.Call):
            made = _made(node.func, scope.names)
            if made is not None:
                function = (f"{name}.{scope.name}", f"{file}:{scope.line}")
                where = function if scope.line else (name, None)
                yield Maker(made, file, node.lineno, scope.name, *where)
        pending += [(child, scope) for child in ast.iter_child_nodes(node)]


class _Scope(NamedTuple):
    """A module, class or function while it is read."""

    name: str  # qualified; "" for a module
    prefix: str  # of the qualified names of what is defined in it
    line: int | None  # where the innermost function begins; None outside
    names: ChainMap[str, object]  # and what they stand for

    def inner(self, node: _Named, package: str) -> "_Scope":
        """Return the scope of a class or a function in this one."""
        name = self.prefix + getattr(node, "name", "<lambda>")
        if isinstance(node, ast.ClassDef):  # whose names its methods do not see
            return _Scope(name, f"{name}.", self.line, self.names)
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        line = min(each.lineno for each in (node, *decorators))
        names = self.names.new_child(_own_names(node, package))
        return _Scope(name, f"{name}.<locals>.", line, names)


def _own_names(node: ast.Module | _Function, package: str) -> dict[str, object]:
    """Return what the names stand for that a module or function binds, not one within it.

    None is what only a run would tell.
    """
    names: dict[str, object] = {}
    pending = list(ast.iter_child_nodes(node))
    while pending:
        child = pending.pop()
        if isinstance(child, ast.Import | ast.ImportFrom):
            names.update(_imported(child, package))
        elif isinstance(child, ast.arg):
            names.setdefault(child.arg, None)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.setdefault(child.id, None)
        elif isinstance(child, _Named):
            names.setdefault(getattr(child, "name", "<lambda>"), None)
            continue
        pending += ast.iter_child_nodes(child)
    return names


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, object]]:
    """Yield each name that an import binds, and what for, if its module is imported already."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            yield alias.asname or name, sys.modules.get(name)
        return
    relative = "." * node.level + (node.module or "")
    try:
        source = sys.modules.get(importlib.util.resolve_name(relative, package))
    except ImportError:  # from above the top-level package
        source = None
    for alias in node.names:
        if alias.name != "*":
            yield alias.asname or alias.name, inspect.getattr_static(source, alias.name, None)
        elif source is not None:
            yield from vars(source).items()


def _made(called: ast.expr, names: Mapping[str, object]) -> type[Event] | None:
    """Return the type of the event that a call of this makes; None if it makes none."""
    found: Any = _resolve(called, names)
    if _is_event_type(found):
        return found
    if isinstance(called, ast.Attribute) and type(found) is classmethod:
        owner = _resolve(called.value, names)
        if _is_event_type(owner) and _returns_instance(found, owner):
            return owner
    return None


def _resolve(node: ast.expr, names: Mapping[str, object]) -> object:
    """Return what an expression stands for, without running anything; None if unknown."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        return inspect.getattr_static(_resolve(node.value, names), node.attr, None)
    if isinstance(node, ast.Subscript):  # a generic class with its parameters
        return _resolve(node.value, names)
    return None


def _is_event_type(found: object) -> TypeGuard[type[Event]]:
    # `isinstance` would ask proxies what they stand for, which they may not know here.
    return issubclass(type(found), type) and issubclass(cast("type[object]", found), Event)


def _returns_instance(method: Any, owner: type[Event]) -> bool:
    """Return whether a class method returns an instance, or a list of them, or does not say."""
    try:
        returned = inspect.get_annotations(method.__func__)["return"]
    except Exception:  # noqa: BLE001 - there is none, or it cannot be evaluated (3.14)
        return True
    names = "|".join(re.escape(kind.__name__) for kind in owner.__mro__ if issubclass(kind, Event))
    return re.search(rf"~|\b(Self|{names})\b", f"{returned!r}") is not None  # ~ is a type variable
