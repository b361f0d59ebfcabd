"""The sweep: samplers x budgets x seeds, and the controls, each as a distance of features from the reference's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.dataset.split import Dataset, Split
from diffexp.evaluation.controls import check_floor, control_batches
from diffexp.evaluation.features import Extractor, check_shape
from diffexp.evaluation.frechet import FrechetMoments, Gaussian, frechet_distance
from diffexp.evaluation.generate import Conditioner, generate
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.results import CONTROL_PREFIX, Row
from diffexp.evaluation.settings import Arm, EvaluationSettings
from diffexp.prediction.denoiser import Denoiser

log = logging.getLogger("diffexp")

REFERENCE_SPLIT = "train"
HELD_OUT_SPLIT = "test"


@dataclass
class Evaluation:
    """What a sweep found.

    Attributes:
        rows: one for each (arm, NFE, seed) and (control, seed); empty without an extractor.
        protocol: how they were measured; None without an extractor.
        provenance: where they come from.
        grids: sampler -> counted NFE -> the first images of the first seed, uint8 (k, C, H, W).
        real: as many held-out images.
    """

    provenance: Provenance
    protocol: Protocol | None = None
    rows: list[Row] = field(default_factory=list)
    grids: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    real: Tensor | None = None


@dataclass(frozen=True)
class _Meter:
    """Measures the distance of a set of images from the reference."""

    extractor: Extractor
    reference: Gaussian
    shift: Tensor
    device: torch.device

    @classmethod
    def on(cls, split: Split, extractor: Extractor, batch_size: int, device: torch.device) -> _Meter:
        extractor.to(device)
        parts = torch.arange(len(split)).split(batch_size)
        shift = extractor(split.images(parts[0]).to(device)).double().mean(0)
        reference = _moments((split.images(part) for part in parts), extractor, shift, device)
        return cls(extractor, reference, shift, device)

    def distance(self, batches: Iterable[Tensor], n: int) -> float:
        """Frechet distance of the n images in uint8 `batches`; SamplingError when they are not n."""
        found = _moments(batches, self.extractor, self.shift, self.device)
        if found.count != n:
            raise SamplingError(f"the distance was to be over {n} images, {found.count} came")
        return frechet_distance(found.mean, found.covariance, self.reference.mean, self.reference.covariance)


def _moments(batches: Iterable[Tensor], extractor: Extractor, shift: Tensor, device: torch.device) -> Gaussian:
    moments = FrechetMoments(extractor.dim, shift).to(device)
    for images in batches:
        moments.update(extractor(images.to(device)))
    return moments.compute()


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
) -> Evaluation:
    """Evaluate all arms at all budgets and seeds, and the controls; one pass over the images of each, nothing written.

    Args:
        denoiser: the model, in evaluation mode, on `device`.
        dataset: its `train` split is the reference, its `test` split the floor.
        provenance: names the rows.
        conditioner: labels or other conditions.
        on_batch: called with the number of images after each batch (progress, signals).

    Raises:
        ConfigError: from `check`.
        SamplingError: when a sampler used another number of evaluations than it declared.
    """
    check(arms, denoiser, dataset, settings)
    run = _Run(denoiser, dataset, settings, conditioner, torch.device(device), on_batch)
    found = Evaluation(provenance, protocol_of(dataset, settings))
    meter = None
    if settings.extractor is not None:
        meter = _Meter.on(dataset.split(REFERENCE_SPLIT), settings.extractor, settings.batch_size, run.device)
        for name in settings.controls:
            _add_control(found, name, run, meter)
    run.warm_up(arms[0])
    for arm in arms:
        for nfe in arm.feasible(settings.nfe_policy):
            _add_arm(found, arm, nfe, run, meter)
    found.real = _spread(dataset.split(HELD_OUT_SPLIT), settings.grid_images)
    return found


def _spread(split: Split, count: int) -> Tensor:
    """Images spread over the split: folders list theirs class by class."""
    return split.images(torch.linspace(0, len(split) - 1, min(count, len(split))).long())


@dataclass
class _Tape:
    """What is kept while images stream by: the first ones, and the seconds of each batch."""

    images: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class _Run:
    """What all arms of one evaluation share."""

    denoiser: Denoiser
    dataset: Dataset
    settings: EvaluationSettings
    conditioner: Conditioner | None
    device: torch.device
    on_batch: Callable[[int], None] | None

    def batches(self, arm: Arm, nfe: int, seed: int, n: int, tape: _Tape) -> Iterator[Tensor]:
        """The images 0 .. n-1 of a seed, recorded on the tape."""
        settings, missing = self.settings, self.settings.grid_images
        for batch in generate(
            arm.sampler, self.denoiser, self.dataset.shape, range(n), seed, nfe,
            settings.batch_size, settings.quantise, self.conditioner, self.device,
        ):  # fmt: skip
            tape.seconds += batch.seconds
            if missing > 0:
                tape.images.append(batch.images[:missing].cpu())
                missing -= len(batch.images)
            yield batch.images
            if self.on_batch is not None:
                self.on_batch(len(batch.images))

    def warm_up(self, arm: Arm) -> None:
        """One batch that is not timed: first calls load kernels and tune convolutions."""
        nfe = min(arm.feasible(self.settings.nfe_policy))
        _drain(self.batches(arm, nfe, self.settings.seeds[0], min(self.settings.batch_size, self.settings.n), _Tape()))


def _drain(batches: Iterable[Tensor]) -> None:
    for _ in batches:
        pass


def _add_arm(found: Evaluation, arm: Arm, nfe: int, run: _Run, meter: _Meter | None) -> None:
    """Generate and measure one sampler at one budget, for all seeds."""
    values = []
    for seed in run.settings.seeds:
        tape = _Tape()
        batches = run.batches(arm, nfe, seed, run.settings.n, tape)
        if meter is None:
            _drain(batches)
        else:
            values.append(meter.distance(batches, run.settings.n))
            seconds = tape.seconds / run.settings.n
            found.rows.append(_row(found, arm.name, arm.sampler.grid.name, nfe, values[-1], seed, seconds))
        if tape.images and seed == run.settings.seeds[0]:
            found.grids.setdefault(arm.name, {})[nfe] = torch.cat(tape.images)
    log.info("%s", _line(f"{arm.name} at NFE {nfe}", values))


def _add_control(found: Evaluation, name: str, run: _Run, meter: _Meter) -> None:
    """Measure one control, for all seeds."""
    settings = run.settings
    train, held_out = run.dataset.split(REFERENCE_SPLIT), run.dataset.split(HELD_OUT_SPLIT)
    values = []
    for seed in settings.seeds:
        batches = control_batches(name, train, held_out, settings.n, seed, settings.batch_size, settings.quantise)
        values.append(meter.distance(batches, settings.n))
        found.rows.append(_row(found, CONTROL_PREFIX + name, "", None, values[-1], seed, None))
    log.info("%s", _line(f"control {name}", values))


def _line(what: str, values: list[float]) -> str:
    return f"{what}: " + (", ".join(f"{value:.3f}" for value in values) if values else "done")


def _row(
    found: Evaluation, sampler: str, grid: str, nfe: int | None, value: float, seed: int, seconds: float | None
) -> Row:
    names, protocol = found.provenance, found.protocol
    return Row(
        experiment=names.experiment,
        process=names.process,
        prediction=names.prediction,
        network=names.network,
        sampler=sampler,
        grid=grid,
        nfe=nfe,
        metric=protocol.metric,
        value=value,
        n=protocol.n,
        seed=seed,
        protocol=protocol.hash,
        checkpoint=names.checkpoint,
        seconds_per_image=seconds,
    )
