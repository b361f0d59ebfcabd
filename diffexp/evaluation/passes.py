"""The passes of an evaluation: each goes over a set of images once and gives a row for each metric.

Several ranks take a part of every set each, by the images' indices; sums and counts of all of them make the number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset
from diffexp.evaluation.controls import control_batches, tells
from diffexp.evaluation.gauge import Batches, Gauge, measure
from diffexp.evaluation.generate import Conditioner, generate
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.pairs import HELD_OUT, Pairing
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.results import CONTROL_PREFIX, Row, blank_row
from diffexp.evaluation.settings import Arm, EvaluationSettings
from diffexp.launch.ranks import ALONE, World
from diffexp.prediction.denoiser import Denoiser

log = logging.getLogger("diffexp")

TRAINING = "train"


@dataclass
class Evaluation:
    """What a sweep found.

    Attributes:
        provenance: where the rows come from.
        protocols: how they were measured, one for each metric; none without extractor and metrics.
        rows: those that were measured now, one for each (arm, NFE, seed, metric) and (control, seed, metric).
        kept: rows of the same kind that were known before.
        grids: one for each arm, by names for files.
        real: as many held-out images as a row of a grid has; of pairs the targets of that row.
        sources: of pairs, their sources.
    """

    provenance: Provenance
    protocols: list[Protocol] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    grids: dict[str, Pictures] = field(default_factory=dict)
    real: Tensor | None = None
    sources: Tensor | None = None


@dataclass(frozen=True)
class Pictures:
    """The first images of the first seed.

    Attributes:
        title: sampler and grid with their settings.
        rows: counted NFE -> uint8 (k, C, H, W).
    """

    title: str
    rows: dict[float, Tensor] = field(default_factory=dict)


@dataclass
class Tape:
    """What is kept while images stream by: the first ones, the seconds, and the counted evaluations."""

    images: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    evaluations: float = 0.0
    count: int = 0

    def cost(self, here: World) -> dict[str, float]:
        """The columns of a row that say what the images cost, those of all ranks together.

        Evaluations are a mean, to one decimal, and a whole number where all images have the same; seconds are those of
        one device.
        """
        seconds, evaluations, count = (
            sum(here.gather(float(part))) for part in (self.seconds, self.evaluations, self.count)
        )
        return {"nfe": _rounded(evaluations / max(count, 1.0)), "seconds_per_image": seconds / max(count, 1.0)}

    @property
    def nfe(self) -> float:
        """Counted evaluations for each image of this rank."""
        return _rounded(self.evaluations / max(self.count, 1))

    @property
    def shown(self) -> Tensor:
        """The first images, uint8 (k, C, H, W); empty where there were none."""
        return torch.cat(self.images) if self.images else torch.empty(0)


def _rounded(mean: float) -> float:
    mean = round(mean, 1)
    return int(mean) if mean == int(mean) else mean


def shard(n: int, here: World) -> range:
    """Which of the images 0 .. n-1 are this rank's: equal parts in order, or as equal as they can be."""
    return range(n * here.rank // here.size, n * (here.rank + 1) // here.size)


def check_parts(n: int, here: World) -> None:
    """Refuse an evaluation of fewer images than ranks: ConfigError."""
    if n < here.size:
        raise ConfigError(f"evaluation.n={n}: {here.size} ranks cannot share so few images: set trainer.devices={n}")


@dataclass
class Run:
    """What all passes of one evaluation share.

    Attributes:
        found: takes the rows.
        denoiser: None where nothing is generated.
        known: rows that need not be measured, by their keys; on every rank the same.
        here: this process among the ranks that evaluate together.
    """

    found: Evaluation
    denoiser: Denoiser | None
    dataset: Dataset
    settings: EvaluationSettings
    gauges: list[Gauge]
    pairing: Pairing | None
    conditioner: Conditioner | None
    device: torch.device
    on_batch: Callable[[int], None] | None
    known: Mapping[tuple[object, ...], Row]
    on_row: Callable[[Evaluation, Row], None] | None
    here: World = ALONE
    warm: bool = False

    def measure(
        self, gauges: Sequence[Gauge], blanks: Sequence[Row], images: Callable[[], Batches], tape: Tape | None = None
    ) -> list[Row]:
        """One row for each gauge: the known one of the same key, or what one pass over the images gives.

        Args:
            gauges: what is measured.
            blanks: the rows without their values.
            images: makes the batches of this rank's images; called when a row is missing.
            tape: records cost and first images, which new rows take their time and NFE from.
        """
        rows = [self.known.get(blank.key) for blank in blanks]
        self.found.kept += [row for row in rows if row is not None]
        missing = [place for place, row in enumerate(rows) if row is None]
        if not missing:
            return [row for row in rows if row is not None]
        values = measure([gauges[place] for place in missing], images(), self.settings.n, self.here)
        cost = {} if tape is None else tape.cost(self.here)
        for place, value in zip(missing, values, strict=True):
            rows[place] = row = replace(blanks[place], value=value, **cost)
            self.found.rows.append(row)
            if self.on_row is not None:
                self.on_row(self.found, row)
        return [row for row in rows if row is not None]

    def told(self, batches: Batches) -> Batches:
        """The batches; each is told when it has been measured."""
        for images, indices in batches:
            yield images, indices
            if self.on_batch is not None:
                self.on_batch(len(images))

    def measured_batches(self, arm: Arm, nfe: int | None, seed: int, tape: Tape) -> Batches:
        """This rank's images of a seed, after the first batch of all was made once without being timed."""
        self.warm_up(arm, nfe)
        return self.batches(arm, nfe, seed, shard(self.settings.n, self.here), tape)

    def batches(
        self, arm: Arm, nfe: int | None, seed: int, which: range, tape: Tape
    ) -> Iterator[tuple[Tensor, Sequence[int]]]:
        """The images `which` of a seed with their indices, recorded on the tape."""
        settings, missing = self.settings, self.settings.grid_images
        for batch in generate(
            arm.sampler, self.denoiser, self.dataset.shape, which, seed, nfe,
            settings.batch_size, settings.quantise, self.conditioner, self.device,
        ):  # fmt: skip
            tape.seconds += batch.seconds
            tape.evaluations += batch.nfe * len(batch.images)
            tape.count += len(batch.images)
            if missing > 0:
                tape.images.append(batch.images[:missing].cpu())
                missing -= len(batch.images)
            yield batch.images, batch.indices
            if self.on_batch is not None:
                self.on_batch(len(batch.images))

    def warm_up(self, arm: Arm, nfe: int | None) -> None:
        """Before the first timing, one batch that is not timed: first calls load kernels."""
        if not self.warm:
            n = min(self.settings.batch_size, self.settings.n)
            _drain(self.batches(arm, nfe, self.settings.seeds[0], range(n), Tape()))
            self.warm = True

    def first_images(self, arm: Arm, nfe: int | None) -> Tape:
        """Images for the picture grid when no distance is measured, it is known, or they are not all of one rank."""
        tape = Tape()
        _drain(self.batches(arm, nfe, self.settings.seeds[0], range(self.settings.grid_images), tape))
        return tape


def _drain(batches: Batches) -> None:
    for _ in batches:
        pass


def add_arm(arm: Arm, nfe: int | None, run: Run) -> tuple[float, Tensor]:
    """Measure one sampler at one budget, for all seeds.

    Returns:
        (NFE, first images of the first seed); there may be none, and on ranks > 0 there are none.
    """
    found, rows, tapes = run.found, [], {}
    for seed in run.settings.seeds if run.gauges else ():
        tape = Tape()
        blanks = [blank_row(found.provenance, p, arm.label, arm.grid, nfe, seed) for p in found.protocols]
        rows.append(run.measure(run.gauges, blanks, partial(run.measured_batches, arm, nfe, seed, tape), tape))
        if tape.count:
            tapes[seed] = tape
    tape = tapes.get(run.settings.seeds[0], Tape())
    if run.here.main and (not tape.count or len(tape.shown) < run.settings.grid_images):
        tape = run.first_images(arm, nfe)
    counted = rows[0][0].nfe if rows else tape.nfe
    log.info("%s", line(f"{arm.name} at NFE {counted}", rows, len(tapes)))
    return counted, tape.shown if run.here.main else torch.empty(0)


def add_control(name: str, run: Run) -> None:
    """Measure one control, for all seeds."""
    settings = run.settings
    splits = run.dataset.split(TRAINING), run.dataset.split(HELD_OUT)

    def images(seed: int) -> Batches:
        which = shard(settings.n, run.here)
        return control_batches(name, *splits, which, seed, settings.batch_size, settings.quantise, run.pairing)

    gauges = [gauge for gauge in run.gauges if tells(name, gauge.protocol.metric)]
    add_set(name, f"control {name}", settings.seeds, images, gauges, run)


def add_set(
    name: str, what: str, seeds: Sequence[int], images: Callable[[int], Batches], gauges: Sequence[Gauge], run: Run
) -> list[list[Row]]:
    """Measure images that no sampler has made, one set for each seed.

    Args:
        name: of the rows.
        what: the same in the log.
        images: this rank's images of a seed.
        gauges: those that say something about them.

    Returns:
        the rows of each seed, one for each gauge.
    """
    found, rows, measured = run.found, [], 0
    for seed in seeds if gauges else ():
        blanks = [blank_row(found.provenance, g.protocol, CONTROL_PREFIX + name, "", None, seed) for g in gauges]
        before = len(found.rows)
        rows.append(run.measure(gauges, blanks, partial(images, seed)))
        measured += len(found.rows) > before
    if rows:
        log.info("%s", line(what, rows, measured))
    return rows


def line(what: str, rows: Sequence[Sequence[Row]], measured: int) -> str:
    """One line for the log: the values of all seeds, metric by metric."""
    columns = [
        ", ".join(meaning(row.metric).spell_long(row.value) for row in column) for column in zip(*rows, strict=True)
    ]
    names = [row.metric for row in rows[0]] if rows else []
    text = columns[0] if len(columns) == 1 else "; ".join(f"{n} {c}" for n, c in zip(names, columns, strict=True))
    known = len(rows) - measured
    note = "" if known == 0 else " (known before)" if measured == 0 else f" ({known} of them known before)"
    return f"{what}: {text or 'done'}{note}"
