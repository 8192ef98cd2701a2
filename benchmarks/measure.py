# SPDX-License-Identifier: MIT
"""How things are measured: interleaved, the best of several rounds, every call counted.

The contenders take turns within one process, so that what slows the machine down slows all of
them; where nanoseconds count, in one process after the other, since where a process happens to
have its objects in memory makes up to a tenth of a difference. The garbage collector stays on; it
runs in full before each turn. A wrong count of calls ends the run; a time never does.
"""

import asyncio
import gc
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from contenders import Handler, Kinds

T = TypeVar("T")
Trial = Callable[[], Coroutine[Any, Any, tuple[float, ...]]]

# A figure, or the reason why there is none.
Cell = float | str


NOISE = 1.5  # how many times the best round another may take before the figure says nothing
NOISY = "noisy: a round took half as long again as another"


class Miscount(Exception):
    """Handlers were not called as often as they should have been."""


@dataclass(frozen=True)
class Effort:
    """How long to measure, and on which loop."""

    quick: bool = False
    uvloop: bool = False

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 5

    @property
    def processes(self) -> int:
        """How many processes have these rounds each, where nanoseconds count."""
        return 1 if self.quick else 5

    @property
    def chunk(self) -> float:
        """Seconds that are timed in one go, at least."""
        return 0.001 if self.quick else 0.005

    @property
    def budget(self) -> float:
        """Seconds that a turn spends on what it measures, at least."""
        return 0.002 if self.quick else 0.0125

    def best(self, figures: Sequence[float]) -> Cell:
        """Return the best of some rounds; where they are few, only if they agree."""
        least = min(figures)
        return NOISY if self.quick and max(figures) > NOISE * least else least

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` on a new loop."""
        factory = None
        if self.uvloop:
            import uvloop

            factory = uvloop.new_event_loop
        # What was imported stays, and must not make the collections below slow.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)


def make_handlers(kinds: Kinds) -> tuple[list[Handler], Callable[[], int]]:
    """Return a handler of its own for each kind, and a function that counts the calls of all."""
    called = 0

    def make_sync() -> Handler:
        def handler(event: object) -> None:
            nonlocal called
            called += 1

        return handler

    def make_async() -> Handler:
        async def handler(event: object) -> None:
            nonlocal called
            called += 1

        return handler

    async def nothing() -> None:
        pass

    def make_awaits() -> Handler:
        async def handler(event: object) -> None:
            nonlocal called
            await nothing()
            called += 1

        return handler

    def make_waits() -> Handler:
        async def handler(event: object) -> None:
            nonlocal called
            await asyncio.sleep(0)
            called += 1

        return handler

    def make_fails() -> Handler:
        def handler(event: object) -> None:
            nonlocal called
            called += 1
            raise LookupError("out of stock")

        return handler

    def make_async_fails() -> Handler:
        async def handler(event: object) -> None:
            nonlocal called
            called += 1
            raise LookupError("out of stock")

        return handler

    make = {
        "sync": make_sync,
        "async": make_async,
        "awaits": make_awaits,
        "waits": make_waits,
        "fails": make_fails,
        "async fails": make_async_fails,
    }
    return [make[kind]() for kind in kinds], lambda: called


def check(name: str, called: int, expected: int) -> None:
    """Raise `Miscount` unless the handlers of `name` were called exactly as often as expected."""
    if called != expected:
        raise Miscount(f"{name}: handlers were called {called:,} times instead of {expected:,}")


async def time_calls(
    call: Callable[[Any], Awaitable[object]], argument: object, effort: Effort
) -> tuple[float, int]:
    """Return the seconds of awaiting `call(argument)`, best of some chunks, and how many it was."""
    best, spent, made, chunk = math.inf, 0.0, 0, 1
    while True:
        begin = perf_counter()
        for _ in range(chunk):
            await call(argument)
        took = perf_counter() - begin
        made += chunk
        if took < effort.chunk:
            chunk = max(chunk + 1, min(chunk * 4, math.ceil(chunk * 1.2 * effort.chunk / took)))
            continue
        best = min(best, took / chunk)
        spent += took
        if spent >= effort.budget:
            return best, made


async def all_called(called: Callable[[], int], expected: int) -> list[float]:
    """Wait, at every turn of the loop, until the handlers have been called; return the times."""
    turns = [perf_counter()]
    while called() < expected and turns[-1] - turns[0] < 60:
        await asyncio.sleep(0)
        turns.append(perf_counter())
    return turns


async def settle() -> None:
    """Let tasks that have finished be noticed as such."""
    for _ in range(5):
        await asyncio.sleep(0)


def progress(text: str = "") -> None:
    """Show on a terminal, in one line that the next call writes over, what is going on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


async def interleave(
    label: str,
    cases: Mapping[str, Mapping[str, Trial]],
    effort: Effort,
    rounds: int,
    width: int = 1,
) -> dict[str, dict[str, tuple[Cell, ...]]]:
    """Run every trial of every case in turn, `rounds` times, each in a context of its own.

    So the rounds of one case lie seconds apart, and a slow moment of the machine, or an unlucky
    layout of memory, spoils few of them; and nobody pays for the contextvars of somebody else.
    Returns, by case and contender, the best of each of the `width` figures; in place of those of
    another project that fails here stands its failure.
    """
    figures: dict[str, dict[str, list[tuple[float, ...]]]] = {
        case: {name: [] for name in trials} for case, trials in cases.items()
    }
    failed: dict[str, dict[str, tuple[Cell, ...]]] = {case: {} for case in cases}
    for number in range(1, rounds + 1):
        progress(f"  {label}: round {number} of {rounds}")
        for case, trials in cases.items():
            for name, trial in trials.items():
                if name in failed[case]:
                    continue
                gc.collect()
                try:
                    figures[case][name].append(await asyncio.create_task(trial()))
                except Miscount:
                    raise
                except Exception as exc:
                    if name in ("eventbus", "pyee variant"):
                        raise
                    progress()
                    print(f"  {case}: {name} is skipped: {exc!r}", file=sys.stderr)
                    failed[case][name] = (f"does not work here: {type(exc).__name__}",) * width
    progress()
    return {
        case: {
            name: failed[case].get(name) or tuple(map(effort.best, zip(*taken, strict=True)))
            for name, taken in by_name.items()
        }
        for case, by_name in figures.items()
    }
