# SPDX-License-Identifier: MIT
"""The bus of an application, found by a name of what people have.

That is a bus; a function or a context manager that makes one, sync or async; or an application
as ASGI servers are given it, or a function that makes that. The lifespan of an application is
driven by the ASGI protocol alone, whatever its framework.
"""

import asyncio
import difflib
import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

from . import EventBus
from ._application import PACKAGE, Application


class MapError(Exception):
    """Why there is no bus to map, in one line."""


class Target:
    """What `package.module:attribute` names.

    Raises:
        MapError: It cannot be imported, or is not there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        module_name, _, path = name.partition(":")
        if not all(map(str.isidentifier, [*module_name.split("."), *path.split(".")])):
            raise MapError(f"expected package.module:attribute, as in shop.app:app, got {name!r}")
        self.application: Application = Application(module_name)
        sys.path.insert(0, str(Path.cwd()))
        with self._explained(f"cannot import {module_name}"):
            self._found: Any = importlib.import_module(module_name)
        with self._explained(f"cannot find {path} in {module_name}"):
            for part in path.split("."):
                self._found = getattr(self._found, part)

    @asynccontextmanager
    async def bus(self) -> AsyncGenerator[EventBus, None]:
        """Find the bus; keep open what it was found in until the block ends.

        Raises:
            MapError: There is none, or more than one, or the application fails.
        """
        found, name = self._found, self.name
        with self._explained(f"cannot call {self.name}"):
            if _takes(found, 0):
                name += "()"
                found = found()
            if inspect.isawaitable(found):
                found = await found
        if isinstance(found, EventBus):
            yield found
        elif _takes(found, 3):
            async with self._entered(_lifespan(found), name) as scope:
                yield _only_bus(found, scope, name)
        elif _has(found, "__aexit__") or _has(found, "__exit__"):
            async with self._entered(_as_async(found), name) as made:
                yield _checked(made, f"what {name} yields")
        else:
            yield _checked(found, name)

    @asynccontextmanager
    async def _entered(
        self, manager: AbstractAsyncContextManager[Any], name: str
    ) -> AsyncGenerator[Any, None]:
        """Enter a context manager of the application, and leave it; explain what it raises."""
        with self._explained(f"cannot start {name}"):
            value = await manager.__aenter__()
        try:
            yield value
        finally:
            with self._explained(f"cannot end {name}"):
                await manager.__aexit__(None, None, None)

    @contextmanager
    def _explained(self, problem: str) -> Generator[None, None, None]:
        """Make a MapError of what the application raises in the block, in one line."""
        try:
            yield
        except MapError as exc:
            raise MapError(f"{problem}: {exc}") from exc.__cause__
        except (Exception, SystemExit) as exc:
            explanation = self.application.explain(exc) + _nearest_name(exc)
            raise MapError(f"{problem}: {explanation}") from exc


def _nearest_name(problem: BaseException) -> str:
    """Return a hint at what may be meant by a name that is not there; "" if nothing is near."""
    near: list[str] = []
    if isinstance(problem, AttributeError) and problem.name:
        near = difflib.get_close_matches(problem.name, dir(problem.obj), 1)
    elif isinstance(problem, ModuleNotFoundError) and problem.name:
        parent, _, name = problem.name.rpartition(".")
        folders = getattr(sys.modules.get(parent), "__path__", ()) if parent else sys.path
        beside = {name for folder in folders for name in _modules_in(Path(folder))}
        near = difflib.get_close_matches(name, sorted(beside), 1)
        near = [f"{parent}.{name}".removeprefix(".") for name in near]
    return f"; did you mean {near[0]!r}?" if near else ""


def _modules_in(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()]
    except OSError:  # a file, such as that of the standard library, or not there
        return []


def _has(found: object, method: str) -> bool:
    return hasattr(type(found), method)


def _takes(found: Any, count: int) -> bool:
    """Return whether something can be called with that many arguments."""
    try:
        inspect.signature(found).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def _checked(found: object, name: str) -> EventBus:
    if isinstance(found, EventBus):
        return found
    kind: type[object] = type(found)
    raise MapError(
        f"expected a bus of {PACKAGE}, a function or context manager without arguments that makes "
        f"one, or an ASGI application; {name} is a {kind.__module__}.{kind.__qualname__}"
    )


def _only_bus(app: Any, scope: Mapping[str, Any], name: str) -> EventBus:
    """Return the one bus in the state of a lifespan, or of the application, wrapped or not."""
    owners = (app, scope.get("app"))
    states = [scope["state"], *(getattr(owner, "state", {}) for owner in owners)]
    buses: dict[EventBus, str] = {}
    for state in states:
        for key, value in _items(state):
            if issubclass(type(value), EventBus):  # `isinstance` would ask proxies, which may raise
                buses.setdefault(cast("EventBus", value), f"{key}")
    if len(buses) == 1:
        return next(iter(buses))
    what = f"several buses ({', '.join(buses.values())})" if buses else "no bus"
    remedy = "name a function or context manager that makes the one to map"
    if not buses:
        remedy = f'yield {{"bus": bus}} in its lifespan or set app.state.bus, or {remedy}'
    raise MapError(f"found {what} in the state of {name}; {remedy}")


def _items(state: object) -> list[tuple[object, object]]:
    kept: Any = getattr(state, "_state", state)  # as Starlette and Litestar keep it
    return list((kept if hasattr(kept, "items") else getattr(kept, "__dict__", {})).items())


@asynccontextmanager
async def _as_async(manager: Any) -> AsyncGenerator[Any, None]:
    """Enter a context manager, sync or async."""
    if _has(manager, "__aexit__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


@asynccontextmanager
async def _lifespan(app: Callable[..., Any]) -> AsyncGenerator[dict[str, Any], None]:
    """Start an ASGI application, and end it after the block; yield the scope of its lifespan.

    If it goes on after its last answer, or the block is cancelled, it is cancelled with the loop.

    Raises:
        Exception: What the application raised, instead of an answer or after it.
        RuntimeError: It has answered that it failed, or not at all.
    """
    asgi = {"version": "3.0", "spec_version": "2.0"}
    scope: dict[str, Any] = {"type": "lifespan", "asgi": asgi, "state": {}}
    requests: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def run() -> BaseException | None:
        try:
            await app(scope, requests.get, answers.put)
        except asyncio.CancelledError:
            return None
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - it would end the loop
            return exc
        finally:
            answers.put_nowait({"type": "none"})
        return None

    async def ask(stage: str) -> None:
        requests.put_nowait({"type": f"lifespan.{stage}"})
        answer = await answers.get()
        if answer["type"] == f"lifespan.{stage}.complete":
            return
        await asyncio.wait({running}, timeout=1)  # what it raises says more than its answer
        problem = running.result() if running.done() else None
        if stage == "startup" and not requests.empty():
            why = f" ({type(problem).__name__}: {problem})" if problem else ""
            raise MapError(f"it has no lifespan{why}; name the bus, or what makes it") from problem
        if problem is not None:
            raise problem
        if answer["type"] != "none" or stage == "startup":
            message = answer.get("message", "").strip() or "it did not say why"
            raise RuntimeError(message.splitlines()[-1])

    running = asyncio.ensure_future(run())
    await ask("startup")
    yield scope
    await ask("shutdown")
