"""Two tables of a report: the arms of one budget against the best of them, and evaluations at an equal distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffexp.evaluation.document import Block, Heading, Table
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.table import Summary, best_of
from diffexp.evaluation.verdict import Reach, compare, reach

_MOST_ARMS = 8
_FASTEST = 2  # budgets of an arm for which the others' need is told


def verdicts(arms: Sequence[Summary], title: str = "Verdicts") -> list[Block]:
    """Every arm against the best of its budget, with intervals from paired seeds; empty where nothing is to compare."""
    body = []
    for budget in sorted({arm.nfe for arm in arms if arm.nfe is not None}):
        group = [arm for arm in arms if arm.nfe == budget]
        best = best_of(group)
        rest = [arm for arm in group if arm is not best and best is not None and set(arm.seeds) & set(best.seeds)]
        body += [_line(budget, best, arm, len(rest) + 1) for arm in rest]
    if not body:
        return []
    note = (
        "The difference is that of the means over the seeds that both have; its interval is Student's, of the "
        "differences seed by seed, and so wide that all intervals of one NFE hold together with 95 % (Bonferroni, over "
        "all pairs of arms: the best was picked by the same numbers). Undecided: the interval holds zero."
    )
    header = ["NFE", "best", "other", "difference", "95 % interval", "the other is"]
    return [Heading(3, title), Table(header, body), note]


def _line(budget: float, best: Summary, other: Summary, among: int) -> list[str]:
    found, spell = compare(other, best, among), best.meaning.spell
    ends = (found.difference - found.half, found.difference + found.half)
    interval = f"{spell(ends[0])} to {spell(ends[1])}" if math.isfinite(found.half) else "one seed"
    return [f"{budget:g}", best.label, other.label, spell(found.difference), interval, found.word]


def speedups(arms: Sequence[Summary]) -> list[Block]:
    """What each arm needs for the distance that another has at its smallest budgets; empty for a single arm."""
    series: dict[str, list[Summary]] = {}
    for arm in arms:
        if arm.nfe:
            series.setdefault(arm.label, []).append(arm)
    if not 2 <= len(series) <= _MOST_ARMS:
        return []
    body = []
    for label, own in series.items():
        for fast in sorted(own, key=lambda arm: arm.nfe or 0)[:_FASTEST]:
            cells = ["" if other == label else _needed(fast, reach(fast, slow)) for other, slow in series.items()]
            body.append([label, f"{fast.nfe:g}", *cells])
    what = "distance" if meaning(arms[0].metric).distance else "value"
    note = (
        f"The smallest measured NFE at which the arm above has as good a mean {what} as the arm on the left, and how "
        "many times more that is. Undecided: its next smaller budget is not worse beyond the interval of the verdicts."
    )
    header = ["arm", "NFE", *(f"needs: {label}" for label in series)]
    return [Heading(3, f"Evaluations at an equal {what}"), Table(header, body), note]


def _needed(fast: Summary, found: Reach) -> str:
    doubt = "" if found.decided or found.first else ", undecided"
    if found.nfe is None:
        return f"> {found.largest:g}{doubt}"
    return f"{'≤ ' if found.first else ''}{found.nfe:g} ({found.nfe / (fast.nfe or 1):.3g} x{doubt})"
