"""Metrics of a stream of images against a reference split, in an extractor's features: one pass feeds them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from diffexp.dataset.split import Split
from diffexp.evaluation.bank import FeatureBank
from diffexp.evaluation.draws import Draws
from diffexp.evaluation.features import Extractor, num_classes_of
from diffexp.evaluation.frechet import FrechetMoments, Gaussian, frechet_distance
from diffexp.evaluation.inception_score import ScoreSums
from diffexp.evaluation.kernel_distance import KernelDistance
from diffexp.evaluation.manifold import NEIGHBOURS, Manifold
from diffexp.evaluation.metric import FRECHET
from diffexp.evaluation.reference import Reference, features_key
from diffexp.evaluation.store import NOTHING_KEPT, ReferenceStore

_KERNEL, _SCORE = "kid", "is"


@dataclass(frozen=True, eq=False)
class Meter:
    """Measures sets of images against a reference; made by `on`.

    Attributes:
        extractor: on the device.
        metrics: what it can measure: `FRECHET`, or of `metric.SET_METRICS`.
        n: images of a set; 0 where no metric needs to know.
        reference: the Gaussian of the reference's features.
        bank: the reference's features, where a metric needs them.
        draws: which images make the splits and subsets.
    """

    extractor: Extractor
    metrics: tuple[str, ...]
    n: int
    reference: Gaussian
    device: torch.device
    bank: Tensor | None = None
    draws: Draws = field(default_factory=Draws)

    @classmethod
    def on(
        cls,
        split: Split,
        extractor: Extractor,
        batch_size: int,
        device: torch.device,
        metrics: Sequence[str] = (FRECHET,),
        n: int = 0,
        store: ReferenceStore = NOTHING_KEPT,
    ) -> Meter:
        """The meter whose reference is all of `split`; at most one pass over it, `batch_size` images at a time.

        Args:
            metrics: `FRECHET` and any of `metric.SET_METRICS`; ``"is"`` needs an extractor with classes.
            n: how many images the sets will have; needed for all but `FRECHET`.
            store: keeps what is computed of the split.
        """
        extractor.to(device)
        key = features_key(split, extractor)
        parts = torch.arange(len(split)).split(batch_size)

        def features() -> Iterator[Tensor]:
            return (extractor(split.images(part).to(device)) for part in parts)

        bank = None
        if _keeps(metrics):
            bank = store.obtain("features", key, lambda: {"features": _bank_of(features(), parts, device)})["features"]
            bank = bank.to(device)
        batches = features() if bank is None else iter(bank.split(batch_size))
        found = store.obtain("moments", key, lambda: _moments_of(batches, device))
        return cls(extractor, tuple(metrics), n, Gaussian(found["mean"], found["covariance"], len(split)), device, bank)

    @classmethod
    def of(
        cls,
        reference: Reference,
        extractor: Extractor,
        batch_size: int,
        device: torch.device,
        metrics: Sequence[str] = (FRECHET,),
        n: int = 0,
    ) -> Meter:
        """The meter of a reference: of all its images, or of its published moments; arguments as for `on`."""
        if reference.moments is not None:
            return cls(extractor.to(device), tuple(metrics), n, reference.moments, device)
        return cls.on(reference.images, extractor, batch_size, device, metrics, n, reference.store)

    def begin(self, metrics: Sequence[str] | None = None, together: bool = False) -> MeterTally:
        """A new set of images, of which these metrics are wanted; None: all.

        Args:
            together: every rank takes in a part of the set, and all of them ask for the same values in one order.
        """
        return MeterTally(self, self.metrics if metrics is None else metrics, together)

    @cached_property
    def subsets(self) -> tuple[Tensor, Tensor]:
        """Of the images and of the reference, for the kernel distance."""
        return self.draws.subsets(self.n, len(self.bank))

    @cached_property
    def kernel(self) -> KernelDistance:
        """The kernel distance from the reference."""
        return KernelDistance(self.bank, self.subsets[1])

    @cached_property
    def manifold(self) -> Manifold:
        """The reference's balls."""
        return Manifold(self.bank)


class MeterTally:
    """One set of images, measured batch by batch: sums, and features only for metrics that compare single images."""

    def __init__(self, meter: Meter, metrics: Sequence[str], together: bool = False) -> None:
        self._meter, self.count = meter, 0
        extractor, device = meter.extractor, meter.device
        self._moments = None
        if FRECHET in metrics:
            self._moments = FrechetMoments(extractor.dim, meter.reference.mean, together).to(device)
        self._bank = FeatureBank(together).to(device) if _keeps(metrics) else None
        self._scores = None
        if _SCORE in metrics:
            self._scores = ScoreSums(num_classes_of(extractor), meter.draws.splits(meter.n), together).to(device)

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Take in uint8 images (B, C, H, W) and their places in the set."""
        images = images.to(self._meter.device)
        if self._scores is None:
            features = self._meter.extractor(images)
        else:
            features, logits = self._meter.extractor.classify(images)
            self._scores.update(logits, indices)
        if self._moments is not None:
            self._moments.update(features)
        if self._bank is not None:
            self._bank.update(features, indices)
        self.count += len(images)

    def value(self, metric: str = FRECHET) -> float:
        """A metric of all images so far: one of those that the tally was begun for."""
        ways: dict[str, Callable[[], float]] = {FRECHET: self._distance, _KERNEL: self._kernel, _SCORE: self._score}
        return ways[metric]() if metric in ways else self._balls[metric]

    def _distance(self) -> float:
        found, reference = self._moments.compute(), self._meter.reference
        return frechet_distance(found.mean, found.covariance, reference.mean, reference.covariance)

    def _score(self) -> float:
        return float(self._scores.compute().mean())

    def _kernel(self) -> float:
        return self._meter.kernel(self._features, self._meter.subsets[0])

    @cached_property
    def _features(self) -> Tensor:
        return self._bank.compute()

    @cached_property
    def _balls(self) -> dict[str, float]:
        return self._meter.manifold(self._features)


def _moments_of(batches: Iterator[Tensor], device: torch.device) -> dict[str, Tensor]:
    """Mean and covariance of features that come in batches (B, d); the mean of the first one is the shift."""
    first = next(batches)
    moments = FrechetMoments(first.shape[1], first.double().mean(0)).to(device)
    moments.update(first)
    for features in batches:
        moments.update(features)
    found = moments.compute()
    return {"mean": found.mean, "covariance": found.covariance}


def _bank_of(batches: Iterator[Tensor], parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """The features (n, d) of all batches, which hold the images of `parts`."""
    bank = FeatureBank().to(device)
    for features, part in zip(batches, parts, strict=True):
        bank.update(features, part)
    return bank.compute()


def _keeps(metrics: Sequence[str]) -> bool:
    """Whether a metric needs the features of single images."""
    return any(name == _KERNEL or name in NEIGHBOURS for name in metrics)
