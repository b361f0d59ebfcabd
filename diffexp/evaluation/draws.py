"""Which images make the splits and subsets of metrics that are means over such: they belong to the protocol."""

from __future__ import annotations

from torch import Tensor

from diffexp.evaluation.inception_score import published_splits
from diffexp.evaluation.kernel_distance import draw_subsets, subset_plan


class Draws:
    """diffexp's own: keyed random numbers, the same for every seed and arm."""

    def splits(self, n: int) -> Tensor:
        """The split of each of n images, int64 (n,)."""
        return published_splits(n)

    def subsets(self, n: int, reference_n: int) -> tuple[Tensor, Tensor]:
        """Subsets of n images and of the reference, each int64 (S, size)."""
        plan = subset_plan(n, reference_n)
        return draw_subsets("images", n, *plan), draw_subsets("reference", reference_n, *plan)
