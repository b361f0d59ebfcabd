"""Terms of the variational bound (Ho et al. 2020, eq. 5; Kingma et al. 2021): likelihood in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffexp.process.base import Process
from diffexp.process.variance import Variance, reverse_factor


def step_bits(
    process: Process,
    t: Tensor,
    s: Tensor,
    x0: Tensor,
    data: Tensor,
    variance: Variance = "small",
    interpolation: float | None = None,
) -> Tensor:
    """KL(q(u_s | u_t, x0) || p(u_s | u_t)) of one reverse step, for isotropic processes.

    Both laws are Gaussian and share u_t, so their means differ by (A_s - K L_t^-1 A_t)(x0 - x^). q has the posterior's
    own variance, p the named one.

    Args:
        process: the forward process.
        t, s: times with s < t, float64 (B,) on the CPU.
        x0: the data, (B, *).
        data: x^, what a denoiser says about them at time t, (B, *).
        variance, interpolation: of p, see `process.variance`.

    Returns:
        the mean over all dimensions, in bits, float64 (B,).
    """
    keep, own = process.posterior(t, s)
    model = reverse_factor(process, t, s, variance, interpolation)
    gain = process.signal(s) - keep @ process.factor(t).inverse() @ process.signal(t)
    log_ratio = 2.0 * (own.log_det((1,)) - model.log_det((1,)))  # log(variance of q / variance of p)
    shift = (model.inverse() @ gain).apply((x0 - data).double()).square().flatten(1).mean(1)
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + shift) / math.log(2.0)
