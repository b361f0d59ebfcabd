"""The sweep: samplers x budgets x seeds, and the controls, each as a distance of features from the reference's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset, Split
from diffexp.evaluation.controls import check_floor, control_batches
from diffexp.evaluation.features import check_shape
from diffexp.evaluation.generate import Conditioner, generate
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.results import CONTROL_PREFIX, Row, blank_row
from diffexp.evaluation.settings import Arm, EvaluationSettings, file_stems
from diffexp.prediction.denoiser import Denoiser

if TYPE_CHECKING:
    from diffexp.evaluation.meter import Meter

log = logging.getLogger("diffexp")

REFERENCE_SPLIT = "train"
HELD_OUT_SPLIT = "test"


@dataclass
class Evaluation:
    """What a sweep found.

    Attributes:
        provenance: where the rows come from.
        protocol: how they were measured; None without an extractor.
        rows: those that were measured now, one for each (arm, NFE, seed) and (control, seed); none without an
            extractor.
        kept: rows of the same kind that were known before.
        grids: one for each arm, by names for files.
        real: as many held-out images as a row of a grid has.
    """

    provenance: Provenance
    protocol: Protocol | None = None
    rows: list[Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    grids: dict[str, Pictures] = field(default_factory=dict)
    real: Tensor | None = None


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
            extractor does not take, more images for the floor than are held out.
    """
    if not arms:
        raise ConfigError("evaluation.arms: there is no sampler to evaluate")
    for arm in arms:
        arm.sampler.check(denoiser.gives)
        arm.feasible(settings.nfe_policy)
    if settings.extractor is not None:
        check_shape(settings.extractor, dataset.shape, dataset.name)
        settings.extractor.prepare()
        check_floor(settings.controls, settings.n, dataset.name, len(dataset.split(HELD_OUT_SPLIT)))


def protocol_of(dataset: Dataset, settings: EvaluationSettings) -> Protocol | None:
    """The protocol of the distances that `settings` measures on `dataset`; None without an extractor."""
    extractor = settings.extractor
    if extractor is None:
        return None
    extractor.prepare()
    split = dataset.split(REFERENCE_SPLIT)
    return Protocol(
        metric=extractor.metric,
        n=settings.n,
        dataset=dataset.name,
        split=REFERENCE_SPLIT,
        reference=split.fingerprint,
        reference_n=len(split),
        extractor=extractor.name,
        weights=extractor.hash,
        quantise=settings.quantise,
        resize=extractor.resize,
    )


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
        dataset: its `train` split is the reference, its `test` split the floor.
        provenance: names the rows.
        conditioner: labels or other conditions.
        on_batch: called with the number of images after each batch (progress, signals).
        known: rows of earlier evaluations, of whatever arms and protocols.
        on_row: called with the evaluation so far and its newest row, to save it.

    Raises:
        ConfigError: from `check`.
        SamplingError: when a sampler used another number of evaluations than it declared, or gave images that are not
            finite.
    """
    check(arms, denoiser, dataset, settings)
    found = Evaluation(provenance, protocol_of(dataset, settings))
    rows = {row.key: row for row in known}
    run = _Run(found, denoiser, dataset, settings, conditioner, torch.device(device), on_batch, rows, on_row)
    if settings.extractor is not None:
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
    found.real = _spread(dataset.split(HELD_OUT_SPLIT), settings.grid_images)
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
    conditioner: Conditioner | None
    device: torch.device
    on_batch: Callable[[int], None] | None
    known: Mapping[tuple[object, ...], Row]
    on_row: Callable[[Evaluation, Row], None] | None
    warm: bool = False

    @cached_property
    def meter(self) -> Meter:
        """Made for the first distance only: it takes the features of the whole reference."""
        from diffexp.evaluation.meter import Meter  # torchmetrics takes seconds to import

        split, settings = self.dataset.split(REFERENCE_SPLIT), self.settings
        return Meter.on(split, settings.extractor, settings.batch_size, self.device)

    def keep(self, row: Row) -> Row | None:
        """The known row of the same key, noted as kept; None where it has to be measured."""
        old = self.known.get(row.key)
        if old is not None:
            self.found.kept.append(old)
        return old

    def add(self, row: Row) -> None:
        """Note a new row and hand it on."""
        self.found.rows.append(row)
        if self.on_row is not None:
            self.on_row(self.found, row)

    def batches(self, arm: Arm, nfe: int | None, seed: int, n: int, tape: _Tape) -> Iterator[Tensor]:
        """The images 0 .. n-1 of a seed, recorded on the tape."""
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
            yield batch.images
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


def _drain(batches: Iterable[Tensor]) -> None:
    for _ in batches:
        pass


def _add_arm(arm: Arm, nfe: int | None, run: _Run) -> tuple[float, Tensor]:
    """Measure one sampler at one budget, for all seeds; return (NFE, first images of the first seed (maybe none))."""
    settings, rows, tapes = run.settings, [], {}
    for seed in settings.seeds if settings.extractor is not None else ():
        blank = blank_row(run.found.provenance, run.found.protocol, arm.label, arm.grid, nfe, seed)
        row = run.keep(blank)
        if row is None:
            run.warm_up(arm, nfe)
            tapes[seed] = tape = _Tape()
            value = run.meter.distance(run.batches(arm, nfe, seed, settings.n, tape), settings.n)
            row = replace(blank, nfe=tape.nfe, value=value, seconds_per_image=tape.seconds / settings.n)
            run.add(row)
        rows.append(row)
    tape = tapes.get(settings.seeds[0]) or run.first_images(arm, nfe)
    counted = rows[0].nfe if rows else tape.nfe
    log.info("%s", _line(f"{arm.name} at NFE {counted}", [row.value for row in rows], len(tapes)))
    return counted, torch.cat(tape.images) if tape.images else torch.empty(0)


def _add_control(name: str, run: _Run) -> None:
    """Measure one control, for all seeds."""
    settings, values, measured = run.settings, [], 0
    splits = run.dataset.split(REFERENCE_SPLIT), run.dataset.split(HELD_OUT_SPLIT)
    for seed in settings.seeds:
        blank = blank_row(run.found.provenance, run.found.protocol, CONTROL_PREFIX + name, "", None, seed)
        row = run.keep(blank)
        if row is None:
            batches = control_batches(name, *splits, settings.n, seed, settings.batch_size, settings.quantise)
            row = replace(blank, value=run.meter.distance(batches, settings.n))
            run.add(row)
            measured += 1
        values.append(row.value)
    log.info("%s", _line(f"control {name}", values, measured))


def _line(what: str, values: list[float], measured: int) -> str:
    text = ", ".join(f"{value:.3f}" for value in values) or "done"
    known = len(values) - measured
    note = "" if known == 0 else " (known before)" if measured == 0 else f" ({known} of them known before)"
    return f"{what}: {text}{note}"
