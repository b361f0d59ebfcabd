"""The distance of a stream of images from a reference split, in an extractor's features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core.errors import SamplingError
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
