"""The contract of a schedule network: a noisy sample in, one number in (0, 1) out (BDDM: Lam et al. 2022, section 4).

The number is the share of the largest allowed variance that the next, smaller step of a sampling schedule takes. The
network sees the sample alone: no time, no condition, no noise level.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from diffexp.core.precision import without_autocast


class ScheduleNetwork(nn.Module, abc.ABC):
    """x (B, C, *) -> (B,): the logit of the ratio, which trainings need; `ratio` is for who asks for the share.

    It computes in the type of its weights, without autocast: the ratio comes close to 1, and 1 - ratio divides.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The logit of each sample's ratio, (B,), in the type of the weights; `x` may be of any floating type."""
        with without_autocast(x.device):
            return self._logit(x.to(next(self.parameters()).dtype))

    def ratio(self, x: Tensor) -> Tensor:
        """The ratio of each sample, in (0, 1): float64 (B,)."""
        return torch.sigmoid(self(x).double())

    @abc.abstractmethod
    def _logit(self, x: Tensor) -> Tensor:
        """(B, C, *) -> (B,), outside autocast."""
