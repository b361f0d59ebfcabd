"""The denoising objective: perturb the data at a random time and regress the head's target.

    loss = mean over images of  w(t) mean over pixels of (F(u_t, t) - target)^2,   u_t = A_t x0 + L_t e

(Ho et al. 2020, eq. 14 for eps with the plain weight; Salimans & Ho 2022, section 4 for the others; gDDIM, eq. 5.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.core.transfer import to_device
from diffexp.objective.weighting import Weighting
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.process.base import Process


class Denoising:
    """Mean squared error of the network's output with a time-dependent weight; times uniform in [t_min, t_max].

    Args:
        weighting: the weight w(t).
        t_min: smallest training time, >= 0 (1e-5 in the score-based papers).

    Raises:
        ConfigError: for a negative t_min.
    """

    def __init__(self, weighting: Weighting, t_min: float = 1e-5) -> None:
        if t_min < 0.0:
            raise ConfigError(f"objective.t_min={t_min}: must be >= 0")
        self.weighting = weighting
        self.t_min = t_min

    def check(self, process: Process) -> None:
        """Raise ConfigError when no time is left to train on."""
        if not self.t_min < process.t_max:
            raise ConfigError(f"objective.t_min={self.t_min}: must be below the time of the prior, {process.t_max}")

    def times(self, process: Process, seed: int, positions: Tensor) -> Tensor:
        """One time for each image, keyed by its position in the data order: float64 (B,) on the CPU."""
        return self.t_min + (process.t_max - self.t_min) * random.uniform(seed, "train/time", positions)

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        """The loss of a batch, a scalar tensor.

        Args:
            denoiser: the network under training.
            batch: "image" (B, C, H, W) in [-1, 1], "position" (B,) on the CPU, and "label" (B,) with classes.
            seed: keys times and noise, together with the positions.
        """
        image, position = batch["image"], batch["position"]
        process = denoiser.process
        x0 = process.lift(image)
        t = self.times(process, seed, position)
        noise = to_device(random.normal(seed, "train/noise", position, x0.shape[1:]), x0.device, x0.dtype)
        point = denoiser.prepare(t, x0.dtype, x0.device)
        weight = to_device(self.weighting.weight(denoiser.head, process, t), x0.device, x0.dtype)
        conditions = Conditions(labels=batch.get("label"))
        output = denoiser.output(point.marginal.perturb(x0, noise), point, conditions)
        error = (output - denoiser.head.target(point.marginal, x0, noise, conditions)).square().flatten(1).mean(1)
        return torch.mean(weight * error)
