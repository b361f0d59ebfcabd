"""Timing on a machine that others use too: tasks take turns, and the best turn of each counts.

What disturbs a computation only ever makes it slower, so the shortest of many turns is the nearest to its true cost;
turns that alternate share slow and fast minutes fairly. Times are wall-clock seconds.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Times = Mapping[str, Sequence[float]]


def take_turns(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round, after one round that does not count; every second round runs backwards."""
    for task in tasks.values():
        task()
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for place in range(rounds):
            for name in list(tasks)[:: -1 if place % 2 else 1]:
                began = time.perf_counter()
                tasks[name]()
                spent[name].append(time.perf_counter() - began)
    finally:
        if collects:
            gc.enable()
    return spent


@dataclass(frozen=True)
class Ratio:
    """One result: how many times the reference's seconds something takes.

    Attributes:
        name: what was measured, unique in a run.
        text: numerator / denominator, in words.
        value: best turn over best turn.
        spread: quartiles of the ratios within single rounds, for the reader's trust.
        target: the largest value that is good; None where there is no such number.
        seconds: best turns, side information.
        notes: further plain numbers of this measurement.
        binding: a missed target fails the whole run; otherwise it is information.
    """

    name: str
    text: str
    value: float
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
    spent: Times,
    pair: tuple[str, str],
    target: float | None = None,
    scale: float = 1.0,
    without: str | None = None,
    binding: bool = True,
    **notes: float | int | str,
) -> Ratio:
    """A ratio of two tasks that took turns.

    Args:
        name, text, target, binding, notes: see `Ratio`.
        spent: what `take_turns` returned.
        pair: the tasks above and below the line.
        scale: factor on the time below the line.
        without: a task whose time is subtracted above and below.
    """
    base = [0.0] * len(spent[pair[0]]) if without is None else spent[without]

    def quotient(above: float, below: float, less: float) -> float:
        return (above - less) / (scale * below - less)

    above, below = (spent[task] for task in pair)
    single = [quotient(*times) for times in zip(above, below, base, strict=True)]
    low, _, high = statistics.quantiles(single, n=4) if len(single) > 1 else single * 3
    best = {task: min(spent[task]) for task in (*pair, *([without] if without else []))}
    value = quotient(best[pair[0]], best[pair[1]], min(base))
    return Ratio(name, text, value, (low, high), target, best, {"rounds": len(single), **notes}, binding)
