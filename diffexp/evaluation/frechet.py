"""The Frechet distance between Gaussian fits of two sets of features, in float64.

    d^2 = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2          (Dowson and Landau 1982; Heusel et al.
    2017)

Sums are kept instead of features, so that the memory does not grow with n and shards add up; covariances are unbiased
(n - 1). The trace term is the symmetric form, real by construction. For any factors S = F F^T it is the sum of the
singular values of F1^T F2: Cholesky factors and symmetric eigenvalues where both covariances are regular,
eigenvectors and singular values where one is not (fewer images than features, dead features).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from diffexp.core.errors import DiffexpError


class Gaussian(NamedTuple):
    """Moments of a set of features: mean (d,), unbiased covariance (d, d), both float64, and the number of images."""

    mean: Tensor
    covariance: Tensor
    count: int


class FrechetMoments(Metric):
    """Mean and covariance of features, accumulated as float64 sums that add up over batches, shards and processes.

    Args:
        dim: number of features d.
        shift: (d,) a fixed vector near the mean, subtracted before the sums are formed so that a large mean does not
            cancel the digits of a small covariance. It must be the same in all shards. None: zeros.
        together: of several ranks each has a part, and `compute` adds them up: all of them have to call it.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(self, dim: int, shift: Tensor | None = None, together: bool = False) -> None:
        super().__init__(sync_on_compute=together)
        reference = torch.zeros(dim) if shift is None else shift.detach()
        self.register_buffer("shift", reference.to("cpu", torch.float64).clone(), persistent=False)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("first", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("second", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (B, d); any floating type."""
        centred = features.detach().to(self.first.device, torch.float64) - self.shift
        self.total += len(centred)
        self.first += centred.sum(0)
        self.second += centred.T @ centred

    def compute(self) -> Gaussian:
        """Return the moments. Raises DiffexpError with fewer than two images, or where a feature was not finite."""
        count = round(self.total.item())
        if count < 2:
            raise DiffexpError(f"a covariance needs at least 2 images, got {count}")
        if not bool(torch.isfinite(self.first).all()):
            raise DiffexpError(f"the features of {count} images hold values that are not finite")
        mean = self.first / count
        covariance = (self.second - torch.outer(self.first, mean)) / (count - 1)
        return Gaussian(self.shift + mean, (covariance + covariance.T) / 2, count)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians, the quantity that is called FID for Inception features.

    Args:
        mean1, mean2: (d,).
        covariance1, covariance2: (d, d) symmetric and positive semi-definite; singular ones and zero are allowed.

    Returns:
        the distance, >= 0. Rounding can leave about 1e-8 of the larger trace where the exact value is 0.
    """
    device = mean1.device
    mean1, covariance1, mean2, covariance2 = (
        value.to(device, torch.float64) for value in (mean1, covariance1, mean2, covariance2)
    )
    offset = (mean1 - mean2).square().sum()
    overlap = _root_trace(covariance1, covariance2)
    return max(float(offset + covariance1.trace() + covariance2.trace() - 2 * overlap), 0.0)


def _root_trace(covariance1: Tensor, covariance2: Tensor) -> Tensor:
    """tr (S1^1/2 S2 S1^1/2)^1/2, the sum of the singular values of F1^T F2."""
    factor1, regular1 = _factor(covariance1)
    factor2, regular2 = _factor(covariance2)
    if regular1 and regular2:  # cheaper than singular values; the root loses digits only where an eigenvalue is near 0
        return torch.linalg.eigvalsh(_congruence(factor1, covariance2)).clamp(min=0).sqrt().sum()
    return torch.linalg.svdvals(factor1.T @ factor2).sum()


def _congruence(lower: Tensor, covariance: Tensor) -> Tensor:
    """L^T S L for a triangular L; only its lower triangle counts."""
    if lower.device.type != "cpu":
        return lower.T @ covariance @ lower
    from scipy.linalg.lapack import dsygst  # of a third of the operations of two products

    found, _ = dsygst(covariance.numpy(), lower.numpy(), itype=2, lower=1)
    return torch.from_numpy(found)


def _factor(covariance: Tensor) -> tuple[Tensor, bool]:
    """F with F F^T = S, and whether S is regular. Eigenvalues that rounding made negative count as zero."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not bool(failed):
        return lower, True
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt(), False
