"""Which of two arms is better, said only where paired seeds tell: better, worse or undecided.

All arms of an evaluation start from the same noise for each seed, so that the difference of two arms is taken seed by
seed; Student's t gives a 95 % interval for its mean. With three seeds the interval is wide (4.3 standard errors), which
is the honest answer to three numbers.

Of several arms the best is found from the same numbers that are to judge it: among six equal ones, three tables of ten
would call some arm worse. The intervals of k arms therefore hold together, for all k (k - 1) / 2 differences
(Bonferroni's inequality, which asks nothing of how the arms depend on each other).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from diffexp.evaluation.table import Summary

LEVEL = 0.95
_ROUNDING = 1.0e-6  # relative: smaller differences are those of float32 arithmetic, whatever their spread


@dataclass(frozen=True)
class Verdict:
    """One arm against another.

    Attributes:
        difference: mean over the common seeds of the first arm's value minus the second's.
        half: half the width of the 95 % interval around it; infinite for fewer than two common seeds.
        word: of the first arm, "better", "worse" or "undecided".
    """

    difference: float
    half: float
    word: str


def compare(first: Summary, second: Summary, among: int = 2) -> Verdict:
    """The first arm against the second, on the seeds that both have; both of one metric.

    Args:
        among: number of arms that the two were picked from: the intervals of all their differences hold together.

    Raises:
        ValueError: for arms without a common seed.
    """
    known = dict(zip(second.seeds, second.values, strict=True))
    pairs = [(value, known[seed]) for seed, value in zip(first.seeds, first.values, strict=True) if seed in known]
    if not pairs:
        raise ValueError("two arms without a common seed cannot be compared")
    differences = [one - other for one, other in pairs]
    mean, half = statistics.fmean(differences), _half_width(differences, among * (among - 1) // 2)
    if abs(mean) <= max(half, _ROUNDING * max(abs(value) for pair in pairs for value in pair)):
        return Verdict(mean, half, "undecided")
    return Verdict(mean, half, "better" if (mean > 0.0) == first.meaning.higher else "worse")


def _half_width(values: Sequence[float], together: int) -> float:
    """Half the width of the t interval of a mean, one of several that hold together."""
    if len(values) < 2:
        return math.inf
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, 1.0 - 0.5 * (1.0 - LEVEL) / together))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Reach:
    """How many evaluations a slower arm needs for what a faster one has.

    Attributes:
        nfe: the smallest measured budget at which the slower arm's mean is as good; None where none is.
        largest: the slower arm's largest measured budget.
        first: whether `nfe` is its smallest measured budget, so that fewer might do.
        decided: whether its next smaller budget is worse than the faster arm beyond the interval, or, where no budget
            is as good, its largest one is.
    """

    nfe: float | None
    largest: float
    first: bool
    decided: bool


def reach(fast: Summary, slow: Sequence[Summary]) -> Reach:
    """What the arm `slow`, one summary for each budget, needs to be as good as `fast`."""
    budgets = sorted(slow, key=lambda arm: arm.nfe or 0)
    sign = -1.0 if fast.meaning.higher else 1.0
    place = next((k for k, arm in enumerate(budgets) if sign * arm.mean <= sign * fast.mean), len(budgets))
    largest = budgets[-1].nfe or 0
    before = budgets[place - 1] if place > 0 else None
    decided = before is not None and compare(fast, before).word == "better"
    return Reach(budgets[place].nfe if place < len(budgets) else None, largest, place == 0, decided)
