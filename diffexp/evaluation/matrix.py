"""What fits what: a cell for each process, sampler and prediction, with its exact error or the reason of its refusal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.evaluation.law import measure
from diffexp.prediction.oracle.gaussian import Voiced
from diffexp.sampler.loop import Sampler

_ROUNDING = 1e-12  # an error this small says nothing about an order


class MatrixSettings:
    """The group `matrix`.

    Args:
        nfe: the budgets at which errors are measured, rising.
        homes: words of the command line (grids and their settings) for a process, or for a sampler on any process.
        processes, samplers, predictions: names of these groups; None: all.
        mean, std: of the data's pixels.

    Raises:
        ConfigError: for a value out of range.
    """

    def __init__(
        self,
        nfe: list[int],
        homes: dict[str, list[str]],
        processes: list[str] | None = None,
        samplers: list[str] | None = None,
        predictions: list[str] | None = None,
        mean: float = 0.2,
        std: float = 0.5,
    ) -> None:
        if not nfe or min(nfe) < 1 or sorted(set(nfe)) != nfe:
            raise ConfigError(f"matrix.nfe={nfe}: give rising budgets of at least one evaluation, e.g. [10,50]")
        if not std > 0.0:
            raise ConfigError(f"matrix.std={std}: must be > 0")
        self.nfe = nfe
        self.homes = homes
        self.processes = processes
        self.samplers = samplers
        self.predictions = predictions
        self.mean = mean
        self.std = std


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        process, sampler, prediction: choices of these groups.
        words: what it needs besides, as words of the command line.
        reason: why it is refused; None: it fits.
        broken: the reason is no refusal: it was accepted, and failed.
        nfe: counted evaluations of each measurement.
        errors: the distance from the exact law at each, see `diffexp.evaluation.law`.
        order: at which the error falls from the last budget to one of twice the steps; None where none is meant.
        declared: the order that the sampler states.
    """

    process: str
    sampler: str
    prediction: str
    words: tuple[str, ...] = ()
    reason: str | None = None
    broken: bool = False
    nfe: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    order: float | None = None
    declared: int | None = None

    @property
    def fits(self) -> bool:
        """Whether it was measured."""
        return self.reason is None

    @property
    def spelled(self) -> str:
        """The cell in a table: its order, "fits" where there is none, "–" for a refusal, or "broken"."""
        if not self.fits:
            return "broken" if self.broken else "–"
        return "fits" if self.order is None else f"{self.order:.1f}"


@dataclass(frozen=True)
class Found:
    """What was measured of one sampler; attributes as in `Cell`."""

    nfe: tuple[float, ...]
    errors: tuple[float, ...]
    order: float | None


def examine(sampler: Sampler, denoiser: Voiced, shape: tuple[int, int, int], budgets: Sequence[int]) -> Found:
    """The errors of a sampler at the budgets nearest to those that are asked for, and its order.

    Raises:
        ConfigError: the sampler does not fit.
        SamplingError: it does not do what it declared, or its samples are not finite.
    """
    sampler.check(denoiser.gives)
    feasible = [sampler.nearest_nfe(nfe) for nfe in budgets] if sampler.budgeted else [None]
    feasible = list(dict.fromkeys(feasible))
    measured = [measure(sampler, denoiser, shape, nfe) for nfe in feasible]
    last, order = feasible[-1], None
    if sampler.stepper.order is not None and last is not None and sampler.grid.choices is None:
        finer = measure(sampler, denoiser, shape, sampler.evaluations(2 * sampler.steps(last))).error
        if finer > _ROUNDING:
            order = math.log2(measured[-1].error / finer)
    errors = tuple(found.error for found in measured)
    if not all(map(math.isfinite, errors)):
        raise SamplingError(f"sampler {sampler.name}: its samples are not finite")
    return Found(tuple(found.nfe for found in measured), errors, order)


COLUMNS = ("process", "sampler", "prediction", "words", "fits", "nfe", "error", "order", "declared_order", "reason")


def as_csv(cells: Iterable[Cell]) -> str:
    """One line for each measurement, and one for each cell without; numbers with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        names = [cell.process, cell.sampler, cell.prediction, " ".join(cell.words)]
        if not cell.fits:
            writer.writerow([*names, "broken" if cell.broken else "no", "", "", "", "", cell.reason])
        orders = [_number(cell.order), _number(cell.declared)]
        for nfe, error in zip(cell.nfe, cell.errors, strict=True):
            writer.writerow([*names, "yes", _number(nfe), _number(error), *orders, ""])
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if float(value).is_integer() else repr(value)


def largest_difference(cells: Iterable[Cell]) -> tuple[float, str]:
    """How much the errors of a process and sampler differ between predictions, relative, and where: (0, "") for none."""
    first: dict[tuple[str, str], Cell] = {}
    worst = (0.0, "")
    for cell in cells:
        if not cell.fits or any(error <= _ROUNDING for error in cell.errors):
            continue
        other = first.setdefault((cell.process, cell.sampler), cell)
        if other.nfe == cell.nfe:
            apart = max(abs(a - b) / b for a, b in zip(cell.errors, other.errors, strict=True))
            worst = max(worst, (apart, f"{cell.sampler} on {cell.process}, {cell.prediction} and {other.prediction}"))
    return worst
