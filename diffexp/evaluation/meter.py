"""The Frechet distance of a stream of images from a reference split, in an extractor's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.dataset.split import Split
from diffexp.evaluation.features import Extractor
from diffexp.evaluation.frechet import FrechetMoments, Gaussian, frechet_distance


@dataclass(frozen=True)
class Meter:
    """Measures the distance of a set of images from the reference."""

    extractor: Extractor
    reference: Gaussian
    shift: Tensor
    device: torch.device

    @classmethod
    def on(cls, split: Split, extractor: Extractor, batch_size: int, device: torch.device) -> Meter:
        """The meter whose reference is all of `split`; reads `batch_size` images at a time."""
        extractor.to(device)
        parts = torch.arange(len(split)).split(batch_size)
        shift = extractor(split.images(parts[0]).to(device)).double().mean(0)
        reference = _moments((split.images(part) for part in parts), extractor, shift, device)
        return cls(extractor, reference, shift, device)

    def begin(self) -> MeterTally:
        """A new set of images."""
        return MeterTally(self)


class MeterTally:
    """The features of a set of images, added up."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._moments = FrechetMoments(meter.extractor.dim, meter.shift).to(meter.device)
        self.count = 0

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Take in uint8 images (B, C, H, W)."""
        self._moments.update(self._meter.extractor(images.to(self._meter.device)))
        self.count += len(images)

    def value(self) -> float:
        """The Frechet distance from the reference."""
        found, reference = self._moments.compute(), self._meter.reference
        return frechet_distance(found.mean, found.covariance, reference.mean, reference.covariance)


def _moments(batches: Iterable[Tensor], extractor: Extractor, shift: Tensor, device: torch.device) -> Gaussian:
    moments = FrechetMoments(extractor.dim, shift).to(device)
    for images in batches:
        moments.update(extractor(images.to(device)))
    return moments.compute()
