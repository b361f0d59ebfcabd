"""From rows to what a person compares: one line for each arm and budget, over seeds, all of one protocol."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.describe import shorten
from diffexp.evaluation.metric import Meaning, meaning
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row

_MODEL = ("experiment", "process", "prediction", "network", "checkpoint")
FLOORS = ("real", "held_out")
"""Controls that a perfect model reaches: the first that was measured is the floor of a report's sentences."""

_SHARED = ("real", "source", "mean")  # controls whose seeds hold the same images, in part or all


@dataclass(frozen=True)
class Summary:
    """One number over its seeds.

    Attributes:
        label: the sampler's or control's name, with whatever else distinguishes it in this table.
        sampler: the sampler with its settings; the control's name.
        grid: time grid with its settings, empty for controls.
        nfe: counted network evaluations, for adaptive samplers the mean over the seeds; None for controls.
        values: one value for each seed.
        seconds: mean seconds per image, or None.
        independent: whether the seeds are draws of their own; where they share images, their standard deviation says
            nothing of how far another set would be.
        tag: what tells its run from the others in the table.
        metric: what was measured.
        seeds: the seeds of the values.
    """

    label: str
    sampler: str
    grid: str
    nfe: float | None
    values: tuple[float, ...]
    seconds: float | None = None
    independent: bool = True
    tag: str = ""
    metric: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def meaning(self) -> Meaning:
        """What the values mean, and how they are written."""
        return meaning(self.metric)

    @property
    def plain_label(self) -> str:
        """The label without the tag."""
        return self.label.removesuffix(f" ({self.tag})").replace(f", {self.tag})", ")") if self.tag else self.label

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one, and for seeds that share images."""
        return statistics.stdev(self.values) if self.independent and len(self.values) > 1 else None

    @property
    def minimum(self) -> float:
        """The smallest value: what papers that report the best of several runs compare."""
        return min(self.values)

    @property
    def maximum(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def best(self) -> float:
        """The smallest value, or the largest where that is better."""
        return self.maximum if self.meaning.higher else self.minimum


def best_of(arms: Iterable[Summary]) -> Summary | None:
    """The best mean of one metric; None without any."""
    return min(arms, key=lambda arm: -arm.mean if arm.meaning.higher else arm.mean, default=None)


def require_one_protocol(rows: Iterable[Row], protocols: Mapping[str, Protocol]) -> Protocol:
    """The protocol of all rows.

    Raises:
        DiffexpError: for no rows, a protocol that is not on record, or rows of two protocols; it names the fields that
            differ.
    """
    names = list(dict.fromkeys(row.protocol for row in rows))
    if not names:
        raise DiffexpError("there are no rows to tabulate")
    unknown = [name for name in names if name not in protocols]
    if unknown:
        raise DiffexpError(f"the protocol {unknown[0]} of a row is not on record in protocol.json")
    if len(names) > 1:
        fields = protocols[names[0]].difference(protocols[names[1]])
        raise DiffexpError(f"rows of different protocols do not belong in one table: {', '.join(fields)}")
    return protocols[names[0]]


def summarise_arms(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each metric, sampler and NFE, samplers in the order of their rows, NFE ascending."""
    return summarise_groups([("", list(rows))])


def summarise_groups(groups: Sequence[tuple[str, Sequence[Row]]]) -> list[Summary]:
    """The summaries of several runs for one table: rows of two runs are never one arm.

    Args:
        groups: (what tells a run from the others, its rows).
    """
    arms = [(tag, [row for row in rows if row.control is None]) for tag, rows in groups]
    everything = [row for _, rows in arms for row in rows]
    found = []
    for tag, rows in arms:
        label = _labels(rows, everything, tag)
        series: dict[tuple[str, str], dict[float, list[Row]]] = {}
        for row in rows:
            budget = 0 if row.adaptive else row.nfe or 0
            series.setdefault((row.metric, label(row)), {}).setdefault(budget, []).append(row)
        for (_, name), budgets in series.items():
            found += [_summary(name, group, tag) for _, group in sorted(budgets.items())]
    return found


def _summary(label: str, rows: Sequence[Row], tag: str) -> Summary:
    values, seconds = tuple(row.value for row in rows), _mean_seconds(rows)
    counts = [row.nfe or 0 for row in rows]
    nfe = counts[0] if len(set(counts)) == 1 else round(statistics.fmean(counts), 1)
    metric, seeds = rows[0].metric, tuple(row.seed for row in rows)
    return Summary(label, rows[0].sampler, rows[0].grid, nfe, values, seconds, tag=tag, metric=metric, seeds=seeds)


def summarise_controls(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each metric and control. A control has one row for each seed: it does not depend on the model."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row.control is not None:
            values.setdefault((row.metric, row.control), {})[row.seed] = row.value
    return [
        Summary(name, name, "", None, tuple(by_seed.values()), independent=name not in _SHARED, metric=metric)
        for (metric, name), by_seed in values.items()
    ]


def _labels(rows: Sequence[Row], everything: Sequence[Row], tag: str) -> Callable[[Row], str]:
    """What to call an arm: the sampler, its grid where it has several, the model where a run has several, the run.

    Settings are spelled out as far as they tell two arms of the whole table apart.
    """
    samplers = shorten(row.sampler for row in everything)
    grids: dict[str, list[str]] = {}
    for row in everything:
        grids.setdefault(row.sampler, []).append(row.grid)
    short = {sampler: shorten(found) for sampler, found in grids.items()}
    model = [name for name in _MODEL if len({getattr(row, name) for row in rows}) > 1]

    def label(row: Row) -> str:
        grid = [short[row.sampler][row.grid]] if len(short[row.sampler]) > 1 else []
        extra = ", ".join([*grid, *(getattr(row, name) for name in model), *([tag] if tag else [])])
        return f"{samplers[row.sampler]} ({extra})" if extra else samplers[row.sampler]

    return label


def _mean_seconds(rows: Sequence[Row]) -> float | None:
    seconds = [row.seconds_per_image for row in rows if row.seconds_per_image is not None]
    return statistics.fmean(seconds) if seconds else None


def spell_spread(summary: Summary) -> str:
    """Mean and spread as text, e.g. ``13.21 ± 0.25``; the mean alone where the seeds tell no spread."""
    mean = summary.meaning.spell(summary.mean)
    return mean if summary.spread is None else f"{mean} ± {summary.meaning.spell(summary.spread)}"


def spell_range(summary: Summary) -> str:
    """Smallest and largest value as text, e.g. ``13.02 to 13.51``; empty where all are equal."""
    spell = summary.meaning.spell
    return f"{spell(summary.minimum)} to {spell(summary.maximum)}" if summary.maximum > summary.minimum else ""
