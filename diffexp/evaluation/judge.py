"""Who chooses among schedules: metrics of the images that they give, on seeds and a reference that no report looks at.

What is chosen by a number looks better in that number than it is, so the same noise and the same reference would
flatter every learned schedule. The judge has seeds of its own, and the split that the report does not compare with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, nearest
from diffexp.dataset.split import Dataset
from diffexp.distillation.bilateral.scheduling import sampler
from diffexp.distillation.bilateral.settings import DISTANCE, SearchSettings
from diffexp.evaluation.features import check_shape
from diffexp.evaluation.gauge import Gauge, gauges_of, measure
from diffexp.evaluation.generate import Conditioner, generate
from diffexp.evaluation.metric import FRECHET, SET_METRICS, meaning
from diffexp.evaluation.settings import EvaluationSettings
from diffexp.prediction.denoiser import Denoiser

OFFERED = (DISTANCE, *SET_METRICS)
"""The metrics that a search can choose by."""


def check_judge(search: SearchSettings, report: EvaluationSettings, dataset: Dataset) -> None:
    """Refuse a judge that cannot judge, or that would share images with the report; reads the extractor's weights.

    Raises:
        ConfigError: seeds or reference are the report's; a metric that is not there, or features without which it has
            no meaning. DiffexpError when their weights are missing.
    """
    shared = sorted(set(search.seeds) & set(report.seeds))
    if shared:
        free = max(report.seeds) + 1
        raise ConfigError(
            f"search.seeds={search.seeds}: {', '.join(map(str, shared))} of evaluation.seeds, with which the report is "
            f"made: what is chosen and what is reported need different noise; e.g. search.seeds=[{max(free, 100)}]"
        )
    if search.reference == report.reference:
        other = "test" if report.reference == "train" else "train"
        raise ConfigError(
            f"search.reference={search.reference}: the report compares with this split (evaluation.reference): choose "
            f"{other}"
        )
    for name in search.metrics:
        if name not in OFFERED:
            raise ConfigError(f"search.metrics: no metric '{name}' to judge by; {nearest(name, OFFERED)}")
    if report.extractor is None:
        raise ConfigError(
            f"search.metrics: {', '.join(search.metrics)} needs features, and evaluation.extractor is null: use e.g. "
            "evaluation=default"
        )
    check_shape(report.extractor, dataset.shape, dataset.name)
    report.extractor.prepare()
    judges(search, report, dataset)


def judges(
    search: SearchSettings, report: EvaluationSettings, dataset: Dataset, device: torch.device | str = "cpu"
) -> list[Gauge]:
    """What a judge measures, one for each of `search.metrics`; features and bytes are the report's.

    Raises:
        ConfigError: for a metric that these features or so few images do not allow.
    """
    names = [FRECHET if name == DISTANCE else name for name in search.metrics]
    settings = EvaluationSettings(
        n=search.n,
        seeds=search.seeds,
        batch_size=report.batch_size,
        extractor=report.extractor,
        quantise=report.quantise,
        grid_images=0,
        reference=search.reference,
        metrics=[name for name in names if name != FRECHET],
        references=report.references,
    )
    found = {gauge.metric: gauge for gauge in gauges_of(dataset, settings, device)}
    return [found[name] for name in names]


class Judge:
    """Scores of schedules, higher is better: by the same n images of the same seeds for each.

    Args:
        gauges: see `judges`.
        denoiser: in evaluation mode, on `device`; it counts.
        shape: (C, H, W) of an image.
        search: how many images, which seeds, whose steps.
        report: batch size and bytes.
        conditioner: labels of the images, where the model has them.
        device: where states are.
        on_batch: called with the number of images after each batch.
    """

    def __init__(
        self,
        gauges: list[Gauge],
        denoiser: Denoiser,
        shape: tuple[int, int, int],
        search: SearchSettings,
        report: EvaluationSettings,
        conditioner: Conditioner | None = None,
        device: torch.device | str = "cpu",
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.gauges = gauges
        self._denoiser = denoiser
        self._shape = shape
        self._search = search
        self._report = report
        self._conditioner = conditioner
        self._device = device
        self._on_batch = on_batch or (lambda images: None)

    @property
    def metrics(self) -> list[str]:
        """Names of the scores, in their order."""
        return [gauge.protocol.metric for gauge in self.gauges]

    def __call__(self, betas: Tensor) -> tuple[float, ...]:
        """One score for each metric, its mean over the seeds; a distance counts negative."""
        values = [measure(self.gauges, self._images(betas, seed), self._search.n) for seed in self._search.seeds]
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        return tuple(mean if meaning(name).higher else -mean for name, mean in zip(self.metrics, means, strict=True))

    def _images(self, betas: Tensor, seed: int):
        """Batches of images of one seed, with their indices."""
        for batch in generate(
            sampler(betas, self._search.sampler, self._search.clip), self._denoiser, self._shape,
            range(self._search.n), seed, len(betas), self._report.batch_size, self._report.quantise,
            self._conditioner, self._device,
        ):  # fmt: skip
            yield batch.images, batch.indices
            self._on_batch(len(batch.images))
