"""From rows to what a person compares: one line for each arm and budget, over seeds, all of one protocol."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row

_SERIES = ("experiment", "process", "prediction", "network", "grid", "checkpoint")


@dataclass(frozen=True)
class Summary:
    """One number over its seeds.

    Attributes:
        label: the sampler's or control's name, with whatever else distinguishes it in this table.
        grid: name of the time grid, empty for controls.
        nfe: counted network evaluations; None for controls.
        values: one value for each seed.
        seconds: mean seconds per image, or None.
    """

    label: str
    grid: str
    nfe: int | None
    values: tuple[float, ...]
    seconds: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def minimum(self) -> float:
        """The smallest value: what papers that report the best of several runs compare."""
        return min(self.values)


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
    """One summary for each sampler and NFE, samplers in the order of their rows, NFE ascending."""
    arms = [row for row in rows if row.control is None]
    varying = _varying(arms)
    series: dict[str, dict[int, list[Row]]] = {}
    for row in arms:
        series.setdefault(_label(row, varying), {}).setdefault(row.nfe or 0, []).append(row)
    return [
        Summary(label, group[0].grid, nfe, tuple(row.value for row in group), _mean_seconds(group))
        for label, budgets in series.items()
        for nfe, group in sorted(budgets.items())
    ]


def summarise_controls(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each control; a control does not depend on the model, so the last row of a seed stands."""
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.control is not None:
            values.setdefault(row.control, {})[row.seed] = row.value
    return [Summary(name, "", None, tuple(by_seed.values())) for name, by_seed in values.items()]


def _varying(rows: list[Row]) -> tuple[str, ...]:
    """Columns that tell two arms of this table apart, beside the sampler's name."""
    return tuple(name for name in _SERIES if len({getattr(row, name) for row in rows}) > 1)


def _label(row: Row, varying: tuple[str, ...]) -> str:
    extra = ", ".join(str(getattr(row, name)) for name in varying)
    return f"{row.sampler} ({extra})" if extra else row.sampler


def _mean_seconds(rows: list[Row]) -> float | None:
    seconds = [row.seconds_per_image for row in rows if row.seconds_per_image is not None]
    return statistics.fmean(seconds) if seconds else None


def spell(value: float) -> str:
    """A distance as text, with three or four significant digits."""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def spell_spread(summary: Summary) -> str:
    """Mean and spread as text, e.g. ``13.21 ± 0.25``."""
    return spell(summary.mean) if summary.spread is None else f"{spell(summary.mean)} ± {spell(summary.spread)}"
