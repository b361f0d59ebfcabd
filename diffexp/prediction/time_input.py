"""What a network is told about time: a function of (process, t), computed in float64."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffexp.process.base import Process

TimeInput = Literal["t", "999t", "log_snr", "angle"]


def time_input(kind: TimeInput, process: Process, t: Tensor) -> Tensor:
    """The number that the network's time embedding receives.

    Args:
        kind: "t" as it is; "999t" (score_sde, gDDIM: a Fourier embedding takes the logarithm of it itself); "log_snr";
            "angle": 1000 arctan(exp(-logsnr / 2)) / (pi / 2), in (0, 1000) (Salimans & Ho 2022, "inv_cos").
        process: the forward process.
        t: times, float64 () or (B,).

    Returns:
        float64, the shape of `t`.
    """
    if kind == "t":
        return t
    if kind == "999t":
        return 999.0 * t
    log_snr = process.log_snr(t).clamp(-20.0, 20.0) if kind == "angle" else process.log_snr(t)
    if kind == "log_snr":
        return log_snr
    return 1000.0 * torch.arctan(torch.exp(-0.5 * log_snr)) / (0.5 * math.pi)
