"""Timing on a machine that others use too: tasks take turns, and the best turn of each counts.

What disturbs a computation only ever makes it slower, so the shortest of many short turns is the nearest to its true
cost; turns that alternate share slow and fast minutes fairly. Results are of wall-clock seconds; the processor's own
seconds stand beside them, and where the two ratios differ, somebody else had the processor.
"""

from __future__ import annotations

import gc
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Series = Mapping[str, Sequence[float]]


def processor_seconds() -> float:
    """Seconds that processors have worked for this process and for its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(frozen=True)
class Spent:
    """Seconds of each task, one for each round.

    Attributes:
        wall: by the clock on the wall.
        cpu: by the processors' own account.
    """

    wall: Series
    cpu: Series


def take_turns(tasks: Mapping[str, Callable[[], object]], rounds: int) -> Spent:
    """What each task takes in each round, after one round that does not count; every second round runs backwards."""
    for task in tasks.values():
        task()
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for place in range(rounds):
            for name in list(tasks)[:: -1 if place % 2 else 1]:
                began, worked = time.perf_counter(), processor_seconds()
                tasks[name]()
                cpu[name].append(processor_seconds() - worked)
                wall[name].append(time.perf_counter() - began)
    finally:
        if collects:
            gc.enable()
    return Spent(wall, cpu)


@dataclass(frozen=True)
class Ratio:
    """One result: how many times the reference's seconds something takes.

    Attributes:
        name: what was measured, unique in a run.
        text: numerator / denominator, in words.
        value: best turn over best turn.
        cpu: the same of processor seconds.
        spread: quartiles of the ratios within single rounds, for the reader's trust.
        target: the largest value that is good; None where there is no such number.
        seconds: best turns, side information.
        notes: further plain numbers of this measurement; `core_share` is how much of a core it had, 1 when undisturbed.
        binding: a missed target fails the whole run; otherwise it is information.
    """

    name: str
    text: str
    value: float
    cpu: float
    spread: tuple[float, float]
    target: float | None
    seconds: Mapping[str, float]
    notes: Mapping[str, float | int | str]
    binding: bool = True

    @property
    def met(self) -> bool:
        """Whether the value is a number, and not above its target."""
        return math.isfinite(self.value) and (self.target is None or self.value <= self.target)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong: a target that is not binding may be missed."""
        return self.met or (math.isfinite(self.value) and not self.binding)


def ratio(
    name: str,
    text: str,
    spent: Spent,
    pair: tuple[str, str],
    target: float | None = None,
    without: str | None = None,
    share: float = 1.0,
    binding: bool = True,
    **notes: float | int | str,
) -> Ratio:
    """A ratio of two tasks that took turns.

    Args:
        name, text, target, binding, notes: see `Ratio`.
        spent: what `take_turns` returned.
        pair: the tasks above and below the line.
        without: a task whose time is subtracted above and below, so much of it as `share` says.
    """
    wall, cpu = (_columns(series, pair, without, share) for series in (spent.wall, spent.cpu))
    single = [_quotient(*turn) for turn in zip(*wall, strict=True)]
    low, _, high = statistics.quantiles(single, n=4) if len(single) > 1 else single * 3
    best = [min(column) for column in wall]
    seconds = dict(zip((*pair, without), best, strict=True)) if without else dict(zip(pair, best[:2], strict=True))
    value, worked = _quotient(*best), _quotient(*(min(column) for column in cpu))
    notes = {"rounds": len(single), "core_share": _share(spent, pair), **notes}
    return Ratio(name, text, value, worked, (low, high), target, seconds, notes, binding)


def _share(spent: Spent, pair: tuple[str, str]) -> float:
    """How much of one core the tasks had while they ran; 1 on a quiet machine."""
    wall, cpu = (sum(sum(series[task]) for task in pair) for series in (spent.wall, spent.cpu))
    return cpu / wall if wall > 0.0 else math.nan


def _columns(series: Series, pair: tuple[str, str], without: str | None, share: float) -> list[list[float]]:
    """Seconds above the line, below it, and of what is subtracted."""
    above, below = (list(series[task]) for task in pair)
    less = [0.0] * len(above) if without is None else [share * seconds for seconds in series[without]]
    return [above, below, less]


def _quotient(above: float, below: float, less: float) -> float:
    return (above - less) / (below - less) if below != less else math.inf
