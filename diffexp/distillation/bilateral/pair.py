"""Two noise levels, tau steps of the training's table apart: what the step loss is computed at.

BDDM's released code draws t from tau .. T - tau - 1 and looks at the step from index t + tau to index t. On a process
in continuous time the same is done with T even times, t_k = t_data + (k + 1) (t_max - t_data) / T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process

TIMES = 1000
"""The number of times on a process that has no table."""


@dataclass(frozen=True)
class Pair:
    """One pair of levels for each sample, float64 (B,) on the CPU.

    Attributes:
        t: the cleaner level's time.
        alpha: its signal level.
        delta: its variance, 1 - alpha^2, with digits of its own.
        beta_next: the variance of the step from it to the noisier level.
    """

    t: Tensor
    alpha: Tensor
    delta: Tensor
    beta_next: Tensor

    @property
    def limit(self) -> Tensor:
        """min(beta_next, delta) / delta in (0, 1]: the largest share of delta that the next step may take."""
        return (self.beta_next / self.delta).clamp_max(1.0)


def bounded(ratio: Tensor, beta_next: Tensor, delta: Tensor) -> Tensor:
    """The next step's beta, min(beta_next, delta) ratio (Lam et al. 2022, section 4); all of one shape."""
    return torch.minimum(beta_next, delta) * ratio


def pair(process: Process, t: Tensor, later: Tensor) -> Pair:
    """The pair of the times t < later, float64 (B,), on a process whose operators are numbers.

    Processes that do not preserve variance have the levels of the variance-preserving one of equal log-SNR.
    """
    log_snr = process.log_snr(t)
    log_square = F.logsigmoid(log_snr)
    beta_next = -torch.expm1(F.logsigmoid(process.log_snr(later)) - log_square)
    return Pair(t, (0.5 * log_square).exp(), torch.sigmoid(-log_snr), beta_next)


def check_tau(process: Process, tau: int, times: int = TIMES) -> int:
    """T, the length of the process's table, or `times` where it has none.

    Raises:
        ConfigError: unless 1 <= tau and 2 tau < T: no index has tau others on both sides.
    """
    length = process.num_steps or times
    if not 1 <= tau <= (length - 1) // 2:
        raise ConfigError(f"distillation.tau={tau}: must lie between 1 and {(length - 1) // 2}, as T = {length}")
    return length


def pairs(process: Process, tau: int, share: Tensor, times: int = TIMES) -> Pair:
    """Pairs at random indices from tau .. T - tau - 1.

    Args:
        process: its operators are numbers.
        tau: how far apart the levels are.
        share: uniform numbers in [0, 1), float64 (B,), that choose the indices.
        times: T on a process without a table.

    Raises:
        ConfigError: for a tau that does not fit.
    """
    length = check_tau(process, tau, times)
    index = tau + (share * (length - 2 * tau)).floor()
    step = (process.t_max - process.t_data) / length
    first, second = (process.t_data + (k + 1.0) * step for k in (index, index + tau))
    return pair(process, first, second.clamp_max(process.t_max))
