"""What fits what: a cell for each process, sampler and prediction, with its exact error or why it is refused."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffexp.core.errors import ConfigError
from diffexp.evaluation.law import measure
from diffexp.prediction.oracle.gaussian import Voiced
from diffexp.sampler.loop import Sampler

_EXACT = 1e-12  # an error this small is rounding
_SMALLEST = 1e-7  # one this small says nothing of an order any more
_STEPS = (128, 64, 32, 16, 8)  # an order is measured between the first that leaves such an error, and twice as many
_SAME = 1e-6  # how far predictions of one law may be apart, relative


class MatrixSettings:
    """The group `matrix`.

    Args:
        nfe: the budgets at which errors are measured, rising.
        homes: words of the command line (grids and their settings) for a process, or for a sampler on any process.
        processes, samplers, predictions: names of these groups; None: all.
        mean, std: of the data's pixels.
        into: a Markdown file whose tables between the lines of `matrix_text.BEGIN` and END are replaced; None: none.

    Raises:
        ConfigError: for a value out of range, or a part of the matrix that is to be written into a file.
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
        into: str | None = None,
    ) -> None:
        if not nfe or min(nfe) < 1 or sorted(set(nfe)) != nfe:
            raise ConfigError(f"matrix.nfe={nfe}: give rising budgets of at least one evaluation, e.g. [10,50]")
        if not std > 0.0:
            raise ConfigError(f"matrix.std={std}: must be > 0")
        if into is not None and any(chosen is not None for chosen in (processes, samplers, predictions)):
            raise ConfigError(f"matrix.into={into}: takes the whole matrix: leave out the lists of names")
        self.nfe = nfe
        self.homes = homes
        self.processes = processes
        self.samplers = samplers
        self.predictions = predictions
        self.mean = mean
        self.std = std
        self.into = into


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
        order: at which the error falls with the steps, see `order_of`; None where none is meant.
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


def examine(
    sampler: Sampler,
    denoiser: Voiced,
    shape: tuple[int, int, int],
    budgets: Sequence[int],
    known: Found | None = None,
) -> Found:
    """The errors of a sampler at the budgets nearest to those that are asked for, and its order.

    Args:
        sampler, denoiser, shape: as for `measure`.
        budgets: evaluations.
        known: what another prediction gave; where the errors are the same, so is the order.

    Raises:
        ConfigError: the sampler does not fit.
        SamplingError: see `measure`.
    """
    sampler.check(denoiser.gives)
    feasible = [sampler.nearest_nfe(nfe) for nfe in budgets] if sampler.budgeted else [None]
    feasible = list(dict.fromkeys(feasible))
    measured = [measure(sampler, denoiser, shape, nfe) for nfe in feasible]
    nfe, errors = tuple(found.nfe for found in measured), tuple(found.error for found in measured)
    if known is not None and known.nfe == nfe and apart(errors, known.errors) < _SAME:
        return Found(nfe, errors, known.order)
    return Found(nfe, errors, order_of(sampler, denoiser, shape))


def order_of(sampler: Sampler, denoiser: Voiced, shape: tuple[int, int, int]) -> float | None:
    """log2 of how much smaller the error is with twice the steps, with as many steps as leave more than rounding.

    None for a sampler that states none, or whose grid has its own numbers of steps.
    """
    if sampler.stepper.order is None or sampler.grid.choices is not None:
        return None
    for n in _STEPS:
        fine = measure(sampler, denoiser, shape, sampler.evaluations(2 * n)).error
        if fine > _SMALLEST:
            return math.log2(measure(sampler, denoiser, shape, sampler.evaluations(n)).error / fine)
    return None


def apart(errors: Sequence[float], others: Sequence[float]) -> float:
    """The largest difference, relative to the second one; errors that are rounding do not count."""
    pairs = [(a, b) for a, b in zip(errors, others, strict=True) if max(a, b) > _EXACT]
    return max((abs(a - b) / b for a, b in pairs), default=0.0)


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
    """How much errors of one process and sampler differ between predictions, relative, and where; (0, "") for none."""
    first: dict[tuple[str, str], Cell] = {}
    worst = (0.0, "")
    for cell in cells:
        if not cell.fits:
            continue
        other = first.setdefault((cell.process, cell.sampler), cell)
        if other.nfe == cell.nfe and other is not cell:
            found = apart(cell.errors, other.errors)
            worst = max(worst, (found, f"{cell.sampler} on {cell.process}, {cell.prediction} and {other.prediction}"))
    return worst
