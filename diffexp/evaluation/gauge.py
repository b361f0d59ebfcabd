"""What is measured of a stream of images, all in one pass: a distance of the set, and scores of the single images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from typing import Protocol as Interface

import torch
from torch import Tensor

from diffexp.core.errors import SamplingError
from diffexp.dataset.split import Dataset
from diffexp.evaluation.pairs import Pairing, pairing_of
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.score import SCORES, Score
from diffexp.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from diffexp.evaluation.meter import Meter

Batches = Iterable[tuple[Tensor, Sequence[int]]]
"""(uint8 images (B, C, H, W), their indices)."""


class Tally(Interface):
    """A measurement under way. Sums over images: shards of one set could be added."""

    count: int

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Take in a batch."""

    def value(self) -> float:
        """The number of all batches."""


class Gauge(Interface):
    """One number of a set of images.

    Attributes:
        protocol: what the number means.
    """

    protocol: Protocol

    def begin(self) -> Tally:
        """A new measurement; the first one may read a whole reference."""


def gauges_of(dataset: Dataset, settings: EvaluationSettings, device: torch.device | str = "cpu") -> list[Gauge]:
    """All that an evaluation measures: the distance first. Reads the data set and weights, computes nothing.

    Raises:
        ConfigError: see `pairing_of` and `Score.check`.
    """
    pairing, device = pairing_of(dataset, settings), torch.device(device)
    gauges: list[Gauge] = []
    if settings.extractor is not None:
        gauges.append(_Distance(_distance_protocol(dataset, settings, pairing), dataset, settings, device))
    for name in settings.metrics if pairing is not None else ():
        score = SCORES[name]()
        score.check(tuple(dataset.shape))
        gauges.append(_Comparison(_score_protocol(score, dataset, settings, pairing), score, pairing, device))
    return gauges


def measure(gauges: Sequence[Gauge], batches: Batches, n: int) -> list[float]:
    """The numbers of n images, in one pass over them; SamplingError when they are not n."""
    tallies = [gauge.begin() for gauge in gauges]
    for images, indices in batches:
        for tally in tallies:
            tally.add(images, indices)
    for tally in tallies:
        if tally.count != n:
            raise SamplingError(f"the measurement was to be over {n} images, {tally.count} came")
    return [tally.value() for tally in tallies]


@dataclass(frozen=True)
class _Distance:
    """The Frechet distance from all images of the reference split."""

    protocol: Protocol
    dataset: Dataset
    settings: EvaluationSettings
    device: torch.device

    @cached_property
    def _meter(self) -> Meter:
        """Made for the first distance only: it takes the features of the whole reference."""
        from diffexp.evaluation.meter import Meter  # torchmetrics takes seconds to import

        split, settings = self.dataset.split(self.settings.reference), self.settings
        return Meter.on(split, settings.extractor, settings.batch_size, self.device)

    def begin(self) -> Tally:
        return self._meter.begin()


@dataclass(frozen=True)
class _Comparison:
    """The mean score of images against their targets."""

    protocol: Protocol
    score: Score
    pairing: Pairing
    device: torch.device

    def begin(self) -> Tally:
        return _Mean(self.score.on(self.device), self.pairing)


class _Mean:
    def __init__(self, score: Score, pairing: Pairing) -> None:
        self._score, self._pairing = score, pairing
        self._total, self.count = 0.0, 0

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        targets = self._pairing.targets(indices).to(images.device)
        self._total += float(self._score(images, targets).sum())
        self.count += len(images)

    def value(self) -> float:
        return self._total / self.count


def _distance_protocol(dataset: Dataset, settings: EvaluationSettings, pairing: Pairing | None) -> Protocol:
    extractor, split = settings.extractor.prepare(), dataset.split(settings.reference)
    return Protocol(
        metric=extractor.metric,
        n=settings.n,
        dataset=dataset.name,
        split=settings.reference,
        reference=split.fingerprint,
        reference_n=len(split),
        extractor=extractor.name,
        weights=extractor.hash,
        quantise=settings.quantise,
        resize=extractor.resize,
        pairs=None if pairing is None else f"{pairing.name} {pairing.split.fingerprint}",
    )


def _score_protocol(score: Score, dataset: Dataset, settings: EvaluationSettings, pairing: Pairing) -> Protocol:
    return Protocol(
        metric=score.metric,
        n=settings.n,
        dataset=dataset.name,
        split=pairing.name,
        reference=pairing.split.fingerprint,
        reference_n=len(pairing),
        extractor=score.kind,
        weights=score.weights,
        quantise=settings.quantise,
        resize=score.resize,
        pairs=f"{pairing.name} {pairing.split.fingerprint}",
    )
