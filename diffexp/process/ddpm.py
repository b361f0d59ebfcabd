"""Discrete schedules of DDPM (Ho et al. 2020, section 4) and improved DDPM (Nichol & Dhariwal 2021, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.table import Table

_OFFSET = 0.008


class DDPM(Table):
    """Linear betas from `beta_first` to `beta_last`, both included.

    Args:
        num_steps: T, the length of the table, >= 2.
        beta_first: beta of index 0.
        beta_last: beta of index T - 1.

    Raises:
        ConfigError: unless T >= 2 and 0 < beta_first <= beta_last < 1.
    """

    name = "ddpm"

    def __init__(self, num_steps: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> None:
        _check_length(num_steps)
        if not 0.0 < beta_first <= beta_last < 1.0:
            raise ConfigError(f"process: needs 0 < beta_first <= beta_last < 1, got {beta_first} and {beta_last}")
        super().__init__(torch.linspace(beta_first, beta_last, num_steps, dtype=torch.float64))


class IDDPM(Table):
    """beta_i = min(1 - f(i + 1) / f(i), beta_limit) with f(i) = cos^2((i / T + 0.008) / 1.008 * pi / 2).

    Args:
        num_steps: T, the length of the table, >= 2.
        beta_limit: the largest beta, reached at the end of the table only.

    Raises:
        ConfigError: unless T >= 2 and 0 < beta_limit < 1.
    """

    name = "iddpm"

    def __init__(self, num_steps: int = 1000, beta_limit: float = 0.999) -> None:
        _check_length(num_steps)
        if not 0.0 < beta_limit < 1.0:
            raise ConfigError(f"process.beta_limit={beta_limit}: must lie between 0 and 1")
        super().__init__(_cosine_betas(num_steps).clamp_max(beta_limit))


def _check_length(num_steps: int) -> None:
    if num_steps < 2:
        raise ConfigError(f"process.num_steps={num_steps}: must be at least 2")


def _cosine_betas(n: int) -> Tensor:
    """1 - cos^2(b) / cos^2(a) = sin(b - a) sin(b + a) / cos^2(a), which does not cancel; a and b as a share of T."""
    turn = 0.5 * math.pi / (1.0 + _OFFSET)
    a = (torch.arange(n, dtype=torch.float64) / n + _OFFSET) * turn
    step = turn / n
    return math.sin(step) * torch.sin(2.0 * a + step) / torch.cos(a) ** 2
