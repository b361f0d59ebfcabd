"""The search over the two numbers that a schedule starts from: the best schedule of each number of steps.

As in BDDM's released code (Lam et al. 2022): a grid of starts; for each a schedule made with DDPM's steps and one
made with DDIM's; both judged by samples; one bucket for each number of steps; then random starts around each bucket's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.distillation.bilateral.pair import TIMES, pair
from diffexp.distillation.bilateral.scheduling import Mode, Start
from diffexp.process.base import Process

MODES: tuple[Mode, ...] = ("ddpm", "ddim")

Make = Callable[[Start, Mode], Tensor]
"""make(start, mode): the betas of a schedule, see `scheduling.noise_schedule`."""

Judge = Callable[[Tensor], Sequence[float]]
"""judge(betas): one number for each metric, higher is better; by the same samples for every schedule."""

Shares = Callable[[int, int], tuple[float, float]]
"""shares(steps, attempt): two uniform numbers in [0, 1) that move a start, for alpha and for beta."""


def starts(process: Process, bins: int, times: int = TIMES) -> list[Start]:
    """The grid of starts, beta in the outer loop, alpha in the inner one, both rising.

    beta = j / (bins + 1), and alpha at the same shares of the way from the training's last level to its first; a step
    larger than its level is left out.

    Args:
        process: its operators are numbers.
        bins: values of each, >= 1.
        times: T on a process without a table.

    Raises:
        ConfigError: for fewer than one bin, or when nothing is left.
    """
    if bins < 1:
        raise ConfigError(f"search.bins={bins}: must be at least 1")
    first = process.t_data + (process.t_max - process.t_data) / (process.num_steps or times)
    ends = torch.tensor([process.t_max, first], dtype=torch.float64)
    low, high = pair(process, ends, ends).alpha.tolist()
    shares = [j / (bins + 1) for j in range(1, bins + 1)]
    alphas = [low + (high - low) * share for share in shares]
    found = [Start(alpha, beta) for beta in shares for alpha in alphas if alpha <= (1.0 - beta) ** 0.5]
    if not found:
        raise ConfigError(f"search.bins={bins}: no step fits its level: use more bins")
    return found


@dataclass(frozen=True)
class Assessment:
    """One schedule and what the judge said.

    Attributes:
        start: what it was made from.
        mode: whose steps it was made with.
        betas: rising from the data, float64 (n,).
        scores: one for each metric, higher is better.
    """

    start: Start
    mode: Mode
    betas: Tensor
    scores: tuple[float, ...]

    @property
    def steps(self) -> int:
        """n."""
        return len(self.betas)

    @property
    def key(self) -> str:
        """The start as the released code notes it, with two decimals."""
        return f"{self.start.alpha:.2f},{self.start.beta:.2f}"

    def noted(self, rounded: bool) -> Start:
        """The start itself, or what its key says."""
        return Start(*(float(number) for number in self.key.split(","))) if rounded else self.start


@dataclass
class Buckets:
    """The best schedule of each number of steps so far.

    Attributes:
        best: steps -> the assessment that holds the place, in the order in which the places were first taken.
    """

    best: dict[int, Assessment] = field(default_factory=dict)

    def enter(self, found: Assessment) -> bool:
        """Take the place of its number of steps: when it is free, or when every score is strictly higher."""
        held = self.best.get(found.steps)
        if held is not None and not all(new > old for new, old in zip(found.scores, held.scores, strict=True)):
            return False
        self.best[found.steps] = found
        return True


def around(start: Start, shares: tuple[float, float]) -> Start:
    """A start within 5 percent: each number times 0.95 + 0.1 u."""
    return Start(*(value * (0.95 + 0.1 * u) for value, u in zip((start.alpha, start.beta), shares, strict=True)))


def keyed_shares(seed: int) -> Shares:
    """Numbers that belong to (seed, steps, attempt)."""

    def shares(steps: int, attempt: int) -> tuple[float, float]:
        alpha, beta = (float(random.uniform(seed, f"search/{name}", [steps], attempt)) for name in ("alpha", "beta"))
        return alpha, beta

    return shares


def search(
    grid: Sequence[Start],
    make: Make,
    judge: Judge,
    attempts: int = 0,
    shares: Shares | None = None,
    rounded: bool = False,
    on_assessed: Callable[[Assessment], None] | None = None,
    modes: Sequence[Mode] = MODES,
    cuts: Sequence[int] = (),
    on_stage: Callable[[str, int], None] | None = None,
    fitting: bool = False,
) -> Buckets:
    """Assess the grid, then `attempts` starts around that of each bucket; a schedule of each mode for each start.

    Args:
        grid: the starts, in order.
        make, judge: see `Make` and `Judge`.
        attempts: of each bucket that the grid has filled; 0 for none. They may fill and improve any bucket.
        shares: where the starts of the attempts come from; None: `keyed_shares(0)`.
        rounded: attempts begin from a bucket's start with two decimals, as the released code's.
        on_assessed: called with every assessment, in order.
        modes: whose steps schedules are made with, in order.
        cuts: numbers of steps; a longer schedule is assessed once more without its steps nearest to the data, as if
            one of these had been its cap.
        on_stage: called with (what follows, at most how many schedules it makes) before the grid and the attempts.
        fitting: leave out attempts whose step would hold more noise than its level, see `Start.check`; the released
            code takes that step alone for a schedule.
    """
    buckets, shares = Buckets(), shares or keyed_shares(0)
    on_stage = on_stage or (lambda what, schedules: None)

    def assess(start: Start) -> None:
        for mode in modes:
            made = make(start, mode)
            for betas in (made, *(made[-n:] for n in cuts if n < len(made))):
                found = Assessment(start, mode, betas, tuple(judge(betas)))
                buckets.enter(found)
                if on_assessed is not None:
                    on_assessed(found)

    on_stage("grid", len(grid) * len(modes))
    for start in grid:
        assess(start)
    filled = list(buckets.best)
    on_stage("attempts", len(filled) * attempts * len(modes))
    for steps in filled:
        centre = buckets.best[steps].noted(rounded)
        for attempt in range(attempts):
            moved = around(centre, shares(steps, attempt))
            if moved.fits or not fitting:
                assess(moved)
    return buckets
