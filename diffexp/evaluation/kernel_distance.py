"""The kernel distance of two sets of features: the unbiased squared MMD of a cubic kernel.

    k(x, y) = (x.y / d + 1)^3                                                    (Binkowski et al. 2018, section 4)

Called KID in Inception's features. As published it is the mean over 100 random subsets of 1,000 images of each set. It
is unbiased at any n, so that a perfect model scores 0 on average, and single values may be negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core import random

SUBSETS, SUBSET_SIZE = 100, 1000
_SEED = 0  # a constant: which images make a subset belongs to the protocol, and pairs the arms of an evaluation


def subset_plan(n: int, reference_n: int) -> tuple[int, int]:
    """(number, size) of the subsets: 100 of 1,000, of all images of the smaller set where they are fewer."""
    size = min(SUBSET_SIZE, n, reference_n)
    return (1 if size == n == reference_n else SUBSETS), size


def draw_subsets(which: str, n: int, count: int, size: int) -> Tensor:
    """Random subsets of 0 .. n-1 without replacement: int64 (count, size), the same in every run.

    Args:
        which: name of the set, so that two sets are drawn from independently.
    """
    return torch.stack([random.permutation(_SEED, f"kid/{which}", n, index)[:size] for index in range(count)])


class KernelDistance:
    """The kernel distance from a reference.

    Args:
        reference: features (m, d) of any floating type.
        subsets: its subsets, int64 (S, size).
    """

    def __init__(self, reference: Tensor, subsets: Tensor) -> None:
        self._reference, self._subsets = reference, subsets
        self._own: list[Tensor] | None = None  # the reference's share does not change: computed once

    def __call__(self, features: Tensor, subsets: Tensor) -> float:
        """The mean over pairs of subsets.

        Args:
            features: (n, d) on the reference's device.
            subsets: int64 (S, size), one for each of the reference's.
        """
        if self._own is None:
            self._own = [_within(_rows(self._reference, rows)) for rows in self._subsets]
        values = []
        for rows, others, own in zip(subsets, self._subsets, self._own, strict=True):
            x, y = _rows(features, rows), _rows(self._reference, others)
            values.append(_within(x) + own - 2.0 * _kernel(x, y).mean())
        return float(torch.stack(values).mean())


def _rows(features: Tensor, rows: Tensor) -> Tensor:
    return features[rows.to(features.device)].double()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _within(x: Tensor) -> Tensor:
    """The mean of k(x_i, x_j) over all i != j."""
    kernel = _kernel(x, x)
    return (kernel.sum() - kernel.diagonal().sum()) / (len(x) * (len(x) - 1))
