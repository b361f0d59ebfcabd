"""The sweep: samplers x budgets x seeds, and the controls, each measured by all gauges in one pass over its images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset, Split
from diffexp.evaluation.controls import check_floor
from diffexp.evaluation.features import check_shape
from diffexp.evaluation.gauge import gauges_of
from diffexp.evaluation.generate import Conditioner
from diffexp.evaluation.pairs import HELD_OUT, pairing_of
from diffexp.evaluation.passes import Evaluation, Pictures, Run, add_arm, add_control, check_parts
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.results import Row
from diffexp.evaluation.settings import Arm, EvaluationSettings, file_stems
from diffexp.launch.ranks import ALONE, World
from diffexp.prediction.denoiser import Denoiser


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
        if arm.tune is not None:
            arm.tune.tuning.check(settings.seeds, settings.reference)
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
    here: World = ALONE,
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
        here: this process among the ranks that evaluate together: all of them call this with the same arguments, each
            makes and measures its part of every set, and all find the same numbers. Pictures are found by rank 0.

    Raises:
        ConfigError: from `check`, or there are more ranks than images.
        SamplingError: when a sampler used another number of evaluations than it declared, or gave images that are not
            finite.
    """
    check(arms, denoiser, dataset, settings)
    check_parts(settings.n, here)
    pairing, gauges = pairing_of(dataset, settings), gauges_of(dataset, settings, device)
    found, rows = Evaluation(provenance, [gauge.protocol for gauge in gauges]), {row.key: row for row in known}
    run = Run(
        found, denoiser, dataset, settings, gauges, pairing, conditioner or pairing, torch.device(device), on_batch,
        rows, on_row, here,
    )  # fmt: skip
    for name in settings.controls:
        add_control(name, run)
    for stem, arm in file_stems(arms).items():
        pictures = Pictures(f"{arm.label} on {arm.grid}")
        for nfe in arm.feasible(settings.nfe_policy):
            counted, images = add_arm(arm, nfe, run)
            if len(images):
                pictures.rows[counted] = images
        if pictures.rows:
            found.grids[stem] = pictures
    if pairing is None:
        found.real = spread(dataset.split(HELD_OUT), settings.grid_images)
    else:
        first = range(settings.grid_images)
        found.real, found.sources = pairing.targets(first), pairing.sources(first)
    return found


def spread(split: Split, count: int) -> Tensor:
    """Images spread over the split: folders list theirs class by class."""
    return split.images(torch.linspace(0, len(split) - 1, min(count, len(split))).long())
