# SPDX-License-Identifier: MIT
"""What is an application's own, and not a library's: its modules, and the places of its errors."""

import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

from . import EventBus
from ._drawing import place

# The name of this folder, whatever it is; `__package__` is on its way out of Python.
PACKAGE = EventBus.__module__.rpartition(".")[0]

_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_TESTS = {"conftest", "test", "tests"}


class Application:
    """The application that a module belongs to.

    Its own are all modules of that module's top-level package, wherever it is installed, and
    whatever else is neither in the standard library nor installed, nor of this package.
    """

    def __init__(self, module: str) -> None:
        self._packages = (module, module.partition(".")[0])

    def owns(self, module: str, file: str) -> bool:
        """Return whether a module of that name and file is the application's own."""
        if not file.endswith(".py"):
            return False
        if _is_below(module, PACKAGE):
            return any(_is_below(package, PACKAGE) for package in self._packages)
        if any(_is_below(module, package) for package in self._packages):
            return True
        path = Path(file)
        installed = {"site-packages", "dist-packages"} & {*path.parts}
        return not installed and not path.is_relative_to(_STANDARD_LIBRARY)

    def modules(self) -> Iterator[tuple[str, str, Mapping[str, object]]]:
        """Yield its modules: the name, the file and, if it is imported, its namespace.

        Of those that are not imported, these are the modules of the top-level package, tests left
        out: what they make does not show what the application does.
        """
        imported: set[str] = set()
        modules: list[tuple[str, object]] = list(sys.modules.items())
        for name, module in modules:
            names = vars(module) if isinstance(module, ModuleType) else {}
            file = names.get("__file__") or ""
            if names.get("__name__") != "__main__" and self.owns(name, file):  # the command line
                imported.add(file)
                yield name, file, names
        top = self._packages[-1]
        for folder in getattr(sys.modules.get(top), "__path__", ()):
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                is_test = any(name in _TESTS or name.startswith("test_") for name in parts)
                name = ".".join((top, *parts)).removesuffix(".__init__")
                file = str(path)
                if all(map(str.isidentifier, parts)) and not is_test and file not in imported:
                    yield name, file, {}

    def explain(self, problem: BaseException) -> str:
        """Describe an exception in one line, with the place in the application it comes from."""
        while isinstance(problem, BaseExceptionGroup):  # as a task group raises it
            problem = cast("BaseExceptionGroup[BaseException]", problem).exceptions[0]
        places = list(self._places(problem))
        text = textwrap.shorten(f"{type(problem).__name__}: {problem}", 300, placeholder="…")
        return f"{text} ({places[-1]})" if places else text

    def _places(self, problem: BaseException) -> Iterator[str]:
        """Yield `file:line` of the application's own frames, the last one being the innermost."""
        for frame, line in traceback.walk_tb(problem.__traceback__):
            file = frame.f_code.co_filename
            if self.owns(frame.f_globals.get("__name__", ""), file):
                yield place(f"{file}:{line}")
        if isinstance(problem, SyntaxError) and self.owns("", problem.filename or ""):
            yield place(f"{problem.filename}:{problem.lineno}")


def _is_below(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")
