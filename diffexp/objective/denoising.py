"""The denoising objective: perturb the data at a random time and regress the head's target.

    loss = mean over images of  w(t) mean over pixels of (F(u_t, t) - target)^2,   u_t = A_t x0 + L_t e

(Ho et al. 2020, eq. 14 for eps with the plain weight; Salimans & Ho 2022, section 4 for the others; gDDIM, eq. 5.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.core.transfer import to_device
from diffexp.objective.times import Times
from diffexp.objective.weighting import Weighting
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import NetworkDenoiser, told
from diffexp.prediction.head import Head
from diffexp.prediction.wrapper import NO_LABEL
from diffexp.process.base import Process


class Denoising:
    """Squared error of the network's output with a time-dependent weight.

    Args:
        weighting: the weight w(t).
        times: the law of the training times.
        reduce: "mean" over the pixels of an image, or their "sum" (CLD-SGM, likelihood training); images are averaged.
        label_dropout: probability with which an image is shown without its label, in [0, 1): classifier-free guidance
            needs it (0.1 to 0.2 in Ho & Salimans 2022).

    Raises:
        ConfigError: for a label_dropout out of range.
    """

    def __init__(
        self,
        weighting: Weighting,
        times: Times,
        reduce: Literal["mean", "sum"] = "mean",
        label_dropout: float = 0.0,
    ) -> None:
        if not 0.0 <= label_dropout < 1.0:
            raise ConfigError(f"objective.label_dropout={label_dropout}: a probability in [0, 1) is needed")
        self.weighting = weighting
        self.times = times
        self.reduce = reduce
        self.label_dropout = label_dropout

    def check(self, head: Head, process: Process) -> None:
        """Raise ConfigError when no time is left to train on, or the weight has no meaning for them."""
        self.times.check(process)
        self.weighting.check(head, process)

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        """The loss of a batch, a scalar tensor.

        Args:
            denoiser: the network under training.
            batch: "image" (B, C, H, W) in [-1, 1], "position" (B,) on the CPU, and "label" (B,) with classes.
            seed: keys times, noise and dropped labels, together with the positions.
        """
        position = batch["position"]
        image = batch["image"]

        def velocity() -> Tensor:
            drawn = random.normal(seed, "train/velocity", position, image.shape[1:])
            return to_device(drawn, image.device, image.dtype)

        x0 = denoiser.process.lift_drawn(image, velocity)
        noise = to_device(random.normal(seed, "train/noise", position, x0.shape[1:]), x0.device, x0.dtype)
        t = self.times.draw(denoiser.process, seed, position)
        conditions = Conditions(labels=self._labels(batch.get("label"), seed, position))
        return self.losses(denoiser, x0, noise, t, conditions).mean()

    def losses(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        conditions: Conditions = NO_CONDITIONS,
    ) -> Tensor:
        """The weighted loss of each image, (B,).

        Args:
            denoiser: the network under training.
            x0: the (lifted) data, (B, *).
            noise: unit noise e, (B, *).
            t: times, float64 (B,) on the CPU.
            conditions: of this batch.
        """
        process, head = denoiser.process, denoiser.head
        law = process.marginal(t).cast(x0.dtype, x0.device)
        u = law.perturb(x0, noise, conditions.endpoint)
        output = denoiser.output(u, told(denoiser.time_input(t), x0.dtype, x0.device), conditions)
        error = head.error(law, output, head.target(law, x0, noise, u)).square().flatten(1)
        weight = to_device(self.weighting.weight(head, process, t), x0.device, x0.dtype)
        return weight * (error.mean(1) if self.reduce == "mean" else error.sum(1))

    def _labels(self, labels: Tensor | None, seed: int, position: Tensor) -> Tensor | None:
        """The labels, some of them taken away."""
        if labels is None or self.label_dropout == 0.0:
            return labels
        kept = random.uniform(seed, "train/label", position) >= self.label_dropout
        return torch.where(to_device(kept, labels.device, torch.bool), labels, NO_LABEL)
