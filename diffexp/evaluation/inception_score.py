"""The score of class probabilities: how sure the classifier is of each image, and how evenly classes are met.

    exp( mean_i KL( p(. | x_i) || mean_j p(. | x_j) ) )                                     (Salimans et al. 2016)

Called Inception Score with Inception's published weights. As published it is the mean over ten splits of the images;
which image is in which is a fixed random choice, so that images that come class by class do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from diffexp.core import random
from diffexp.core.errors import DiffexpError
from diffexp.evaluation.metric import SPLITS

_SEED = 0  # a constant: which images make a split belongs to the protocol


def assign_splits(order: Tensor, splits: int = SPLITS) -> Tensor:
    """The split of each image, int64 (n,), when images in `order` (n,) are cut into `splits` of n / splits each."""
    n = len(order)
    found = torch.empty(n, dtype=torch.int64)
    for split in range(splits):
        found[order[split * n // splits : (split + 1) * n // splits]] = split
    return found


def published_splits(n: int) -> Tensor:
    """Ten splits of n images in a fixed random order."""
    return assign_splits(random.permutation(_SEED, "is/splits", n))


class ScoreSums(Metric):
    """Sums of class probabilities in float64, from which the score of each split follows; they add up over processes.

    Args:
        num_classes: C.
        assignment: (n,) which split each image is in.
        together: see `FrechetMoments`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, num_classes: int, assignment: Tensor, together: bool = False) -> None:
        super().__init__(sync_on_compute=together)
        self.register_buffer("assignment", assignment.cpu(), persistent=False)
        splits = int(assignment.max()) + 1
        self.add_state("total", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("negentropy", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("first", torch.zeros(splits, num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, indices: Sequence[int]) -> None:
        """Add class scores before the softmax (B, C), any floating type, of the images `indices`."""
        logs = logits.detach().to(self.first.device, torch.float64).log_softmax(1)
        places = torch.as_tensor(indices, dtype=torch.int64, device=self.assignment.device)
        split = self.assignment[places].to(logs.device)
        chances = logs.exp()
        self.total.index_add_(0, split, torch.ones_like(split, dtype=torch.float64))
        self.negentropy.index_add_(0, split, (chances * logs).sum(1))
        self.first.index_add_(0, split, chances)

    def compute(self) -> Tensor:
        """The score of each split, float64 (S,); DiffexpError where a split has no images or a sum is not finite."""
        if not bool(torch.isfinite(self.first).all()) or not bool((self.total > 0).all()):
            raise DiffexpError("a split of the class scores has no images, or scores that are not finite")
        mean = self.first / self.total[:, None]
        return (self.negentropy / self.total - torch.special.xlogy(mean, mean).sum(1)).exp()
