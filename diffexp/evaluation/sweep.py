"""The sweep: samplers x budgets x seeds, and the controls, each measured by all gauges in one pass over its images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset, Split
from diffexp.evaluation.controls import check_floor, control_batches, tells
from diffexp.evaluation.features import check_shape
from diffexp.evaluation.gauge import Batches, Gauge, gauges_of, measure
from diffexp.evaluation.generate import Conditioner, generate
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.pairs import HELD_OUT, Pairing, pairing_of
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.results import CONTROL_PREFIX, Row, blank_row
from diffexp.evaluation.settings import Arm, EvaluationSettings, file_stems
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


def check(arms: list[Arm], denoiser: Denoiser, dataset: Dataset, settings: EvaluationSettings) -> None:
    """Refuse what cannot be evaluated, before anything is generated. Reads the data set and the extractor's weights.

    Raises:
        ConfigError: an infeasible budget, a sampler that needs what the prediction does not give, images that the
            extractor does not take, more images than there are pairs, or for the floor than are held out.
    """
    if not arms:
        raise ConfigError("evaluation.arms: there is no sampler to evaluate")
    for arm in arms:
        arm.sampler.check(denoiser.gives)
        arm.feasible(settings.nfe_policy)
    if settings.extractor is not None:
        check_shape(settings.extractor, dataset.shape, dataset.name)
        settings.extractor.prepare()
        if pairing_of(dataset, settings) is None:
            check_floor(settings.controls, settings.n, dataset.name, len(dataset.split(HELD_OUT)))
    gauges_of(dataset, settings)


def protocols_of(dataset: Dataset, settings: EvaluationSettings) -> list[Protocol]:
    """The protocols of all that `settings` measures on `dataset`: of the distance first."""
    return [gauge.protocol for gauge in gauges_of(dataset, settings)]


def evaluate(
    arms: list[Arm],
    denoiser: Denoiser,
    dataset: Dataset,
    settings: EvaluationSettings,
    provenance: Provenance,
    conditioner: Conditioner | None = None,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] | None = None,
    known: Iterable[Row] = (),
    on_row: Callable[[Evaluation, Row], None] | None = None,
) -> Evaluation:
    """Evaluate all arms at all budgets and seeds, and the controls; one pass over the images of each, nothing written.

    What is among the known rows is not measured again; only the first images, for the picture grids, are.

    Args:
        denoiser: the model, in evaluation mode, on `device`.
        dataset: one split of it is the reference; its `test` split is the floor, or its pairs are the task.
        provenance: names the rows.
        conditioner: labels or other conditions; None: those of the pairs, where the data set has them.
        on_batch: called with the number of images after each batch (progress, signals).
        known: rows of earlier evaluations, of whatever arms and protocols.
        on_row: called with the evaluation so far and its newest row, to save it.

    Raises:
        ConfigError: from `check`.
        SamplingError: when a sampler used another number of evaluations than it declared, or gave images that are not
            finite.
    """
    check(arms, denoiser, dataset, settings)
    pairing, gauges = pairing_of(dataset, settings), gauges_of(dataset, settings, device)
    found, rows = Evaluation(provenance, [gauge.protocol for gauge in gauges]), {row.key: row for row in known}
    run = _Run(
        found, denoiser, dataset, settings, gauges, pairing, conditioner or pairing, torch.device(device), on_batch,
        rows, on_row,
    )  # fmt: skip
    for name in settings.controls:
        _add_control(name, run)
    for stem, arm in file_stems(arms).items():
        pictures = Pictures(f"{arm.label} on {arm.grid}")
        for nfe in arm.feasible(settings.nfe_policy):
            counted, images = _add_arm(arm, nfe, run)
            if len(images):
                pictures.rows[counted] = images
        if pictures.rows:
            found.grids[stem] = pictures
    if pairing is None:
        found.real = _spread(dataset.split(HELD_OUT), settings.grid_images)
    else:
        first = range(settings.grid_images)
        found.real, found.sources = pairing.targets(first), pairing.sources(first)
    return found


def _spread(split: Split, count: int) -> Tensor:
    """Images spread over the split: folders list theirs class by class."""
    return split.images(torch.linspace(0, len(split) - 1, min(count, len(split))).long())


@dataclass
class _Tape:
    """What is kept while images stream by: the first ones, the seconds, and the counted evaluations."""

    images: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    evaluations: float = 0.0
    count: int = 0

    @property
    def nfe(self) -> float:
        """Counted evaluations for each image, to one decimal; a whole number where all have the same."""
        mean = round(self.evaluations / max(self.count, 1), 1)
        return int(mean) if mean == int(mean) else mean


@dataclass
class _Run:
    """What all arms of one evaluation share."""

    found: Evaluation
    denoiser: Denoiser
    dataset: Dataset
    settings: EvaluationSettings
    gauges: list[Gauge]
    pairing: Pairing | None
    conditioner: Conditioner | None
    device: torch.device
    on_batch: Callable[[int], None] | None
    known: Mapping[tuple[object, ...], Row]
    on_row: Callable[[Evaluation, Row], None] | None
    warm: bool = False

    def measure(
        self, gauges: Sequence[Gauge], blanks: Sequence[Row], images: Callable[[], Batches], tape: _Tape | None = None
    ) -> list[Row]:
        """One row for each gauge: the known one of the same key, or what one pass over the images gives.

        Args:
            gauges: what is measured.
            blanks: the rows without their values.
            images: makes the batches; called when a row is missing.
            tape: records cost and first images, which new rows take their time and NFE from.
        """
        rows = [self.known.get(blank.key) for blank in blanks]
        self.found.kept += [row for row in rows if row is not None]
        missing = [place for place, row in enumerate(rows) if row is None]
        values = measure([gauges[place] for place in missing], images(), self.settings.n) if missing else []
        for place, value in zip(missing, values, strict=True):
            cost = {} if tape is None else {"nfe": tape.nfe, "seconds_per_image": tape.seconds / self.settings.n}
            rows[place] = row = replace(blanks[place], value=value, **cost)
            self.found.rows.append(row)
            if self.on_row is not None:
                self.on_row(self.found, row)
        return [row for row in rows if row is not None]

    def measured_batches(self, arm: Arm, nfe: int | None, seed: int, tape: _Tape) -> Batches:
        """All images of a seed, after the first batch of all was made once without being timed."""
        self.warm_up(arm, nfe)
        return self.batches(arm, nfe, seed, self.settings.n, tape)

    def batches(
        self, arm: Arm, nfe: int | None, seed: int, n: int, tape: _Tape
    ) -> Iterator[tuple[Tensor, Sequence[int]]]:
        """The images 0 .. n-1 of a seed with their indices, recorded on the tape."""
        settings, missing = self.settings, self.settings.grid_images
        for batch in generate(
            arm.sampler, self.denoiser, self.dataset.shape, range(n), seed, nfe,
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
            _drain(self.batches(arm, nfe, self.settings.seeds[0], n, _Tape()))
            self.warm = True

    def first_images(self, arm: Arm, nfe: int | None) -> _Tape:
        """Images for the picture grid when no distance is measured, or it is known."""
        tape = _Tape()
        _drain(self.batches(arm, nfe, self.settings.seeds[0], self.settings.grid_images, tape))
        return tape


def _drain(batches: Batches) -> None:
    for _ in batches:
        pass


def _add_arm(arm: Arm, nfe: int | None, run: _Run) -> tuple[float, Tensor]:
    """Measure one sampler at one budget, for all seeds; return (NFE, first images of the first seed (maybe none))."""
    found, rows, tapes = run.found, [], {}
    for seed in run.settings.seeds if run.gauges else ():
        tape = _Tape()
        blanks = [blank_row(found.provenance, p, arm.label, arm.grid, nfe, seed) for p in found.protocols]
        rows.append(run.measure(run.gauges, blanks, partial(run.measured_batches, arm, nfe, seed, tape), tape))
        if tape.count:
            tapes[seed] = tape
    tape = tapes.get(run.settings.seeds[0]) or run.first_images(arm, nfe)
    counted = rows[0][0].nfe if rows else tape.nfe
    log.info("%s", _line(f"{arm.name} at NFE {counted}", rows, len(tapes)))
    return counted, torch.cat(tape.images) if tape.images else torch.empty(0)


def _add_control(name: str, run: _Run) -> None:
    """Measure one control, for all seeds."""
    settings, found, rows, measured = run.settings, run.found, [], 0
    gauges = [gauge for gauge in run.gauges if tells(name, gauge.protocol.metric)]
    splits = run.dataset.split(TRAINING), run.dataset.split(HELD_OUT)
    for seed in settings.seeds if gauges else ():
        blanks = [blank_row(found.provenance, g.protocol, CONTROL_PREFIX + name, "", None, seed) for g in gauges]
        images = partial(
            control_batches, name, *splits, settings.n, seed, settings.batch_size, settings.quantise, run.pairing
        )
        before = len(found.rows)
        rows.append(run.measure(gauges, blanks, images))
        measured += len(found.rows) > before
    if rows:
        log.info("%s", _line(f"control {name}", rows, measured))


def _line(what: str, rows: Sequence[Sequence[Row]], measured: int) -> str:
    """One line for the log: the values of all seeds, metric by metric."""
    columns = [
        ", ".join(meaning(row.metric).spell_long(row.value) for row in column) for column in zip(*rows, strict=True)
    ]
    names = [row.metric for row in rows[0]] if rows else []
    text = columns[0] if len(columns) == 1 else "; ".join(f"{n} {c}" for n, c in zip(names, columns, strict=True))
    known = len(rows) - measured
    note = "" if known == 0 else " (known before)" if measured == 0 else f" ({known} of them known before)"
    return f"{what}: {text or 'done'}{note}"
