"""What a network is told about time: a function of (process, t), computed in float64."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffexp.process.base import Process

TimeInput = Literal[
    "t",
    "999t",
    "log_t",
    "index",
    "log_snr",
    "angle",
    "log_snr_linear",
    "log_snr_sigmoid",
    "250log_t",
    "quarter_log_sigma",
]

SIGNED: frozenset[TimeInput] = frozenset(
    {"log_t", "index", "log_snr", "log_snr_linear", "250log_t", "quarter_log_sigma"}
)
"""Those that may be 0 or less: there is no logarithm of them."""

_TINY = 1e-44  # keeps the logarithm of time 0 finite (DDBM's code)


def time_input(kind: TimeInput, process: Process, t: Tensor) -> Tensor:
    """The number that the network's time embedding receives.

    Args:
        kind: "t" as it is; "999t" (score_sde, gDDIM: a Fourier embedding takes the logarithm of it itself); "index":
            the (fractional) index into the process's table, 0 .. T - 1; "log_snr". Three maps of the log-SNR to
            (0, 1000) are those of Salimans & Ho 2022 (released code): "angle": 1000 arctan(exp(-l / 2)) / (pi / 2) with
            l clipped to +-20 ("inv_cos"); "log_snr_linear": 1000 (l + 10) / 20; "log_snr_sigmoid": 1000 sigmoid(l).
            "log_t" is that of DDM's code, "250log_t" that of DDBM's (Zhou et al. 2024), "quarter_log_sigma" that of
            Karras et al. 2022: log(sigma / alpha) / 4.
        process: the forward process.
        t: times, float64 () or (B,).

    Returns:
        float64, the shape of `t`.

    Raises:
        ConfigError: "index" on a process without a table.
    """
    if kind == "t":
        return t
    if kind == "999t":
        return 999.0 * t
    if kind == "index":
        return process.index(t)
    if kind in ("log_t", "250log_t"):
        return (250.0 if kind == "250log_t" else 1.0) * (t + _TINY).log()
    log_snr = process.log_snr(t)
    if kind == "quarter_log_sigma":
        return -0.125 * log_snr
    if kind == "log_snr":
        return log_snr
    if kind == "log_snr_linear":
        return 50.0 * (log_snr + 10.0)
    if kind == "log_snr_sigmoid":
        return 1000.0 * torch.sigmoid(log_snr)
    return 1000.0 * torch.arctan(torch.exp(-0.5 * log_snr.clamp(-20.0, 20.0))) / (0.5 * math.pi)
