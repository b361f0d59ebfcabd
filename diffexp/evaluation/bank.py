"""Features of a set of images, kept: for the metrics that compare images with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from diffexp.core.errors import DiffexpError


class FeatureBank(Metric):
    """Features in the order of their images' indices, whatever order, batches and processes they came in.

    Memory grows with the number of images: 400 MB for 50,000 of 2048 float32 features.

    Args:
        together: see `FrechetMoments`; every rank gets all features.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(self, together: bool = False) -> None:
        super().__init__(sync_on_compute=together)
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("indices", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Take in features (B, d), which keep their type, of the images `indices`."""
        self.features.append(features.detach().to(self.device))
        self.indices.append(torch.as_tensor(indices, dtype=torch.int64, device=self.device))

    def compute(self) -> Tensor:
        """All features (n, d); DiffexpError where an image came twice, or a feature is not finite."""
        indices, features = dim_zero_cat(self.indices), dim_zero_cat(self.features)
        ordered, order = indices.sort()
        if bool((ordered[1:] == ordered[:-1]).any()):
            raise DiffexpError("an image was measured twice: its index came more than once")
        if not bool(torch.isfinite(features).all()):
            raise DiffexpError(f"the features of {len(features)} images hold values that are not finite")
        return features[order]
