"""How far the image that two heads imply is from the true one: the third term of DDM's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.network.metric import Metric
from diffexp.objective.base import Reduce, reduced
from diffexp.process.attenuation import Attenuation

Source = Literal["both_heads", "image_head"]
TimeWeight = Literal["square", "linear", "log"]

_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda t: (1.0 - t).square(),
    "linear": lambda t: 1.0 - t,
    "log": lambda t: -0.5 * t.log(),
}


class Reconstruction:
    """r(t) (|x_rec - x0| + LPIPS(x_rec, x0)), either distance by itself or both.

    Args:
        source: x_rec is u - H_t(phi^) - sigma n^ ("both_heads"), or -H_1(phi^), which is -C for a constant function
            ("image_head": ADM's code with noise sqrt(t)).
        mae: |.| is the "mean" over pixels or their "sum"; None leaves it out.
        perceptual: a learned distance; None leaves it out.
        time_weight: r is (1 - t)^2 ("square": DDM's code on images), 1 - t ("linear": on latents) or -log(t) / 2
            ("log": ADM's code).

    Raises:
        ConfigError: when nothing is compared.
    """

    def __init__(
        self,
        source: Source = "both_heads",
        mae: Reduce | None = "mean",
        perceptual: Metric | None = None,
        time_weight: TimeWeight = "square",
    ) -> None:
        if mae is None and perceptual is None:
            raise ConfigError(
                "objective.reconstruction: compares nothing: use objective.reconstruction.mae=mean, or "
                "objective.reconstruction=null"
            )
        self.source: Source = source
        self.mae: Reduce | None = mae
        self.perceptual = perceptual
        self.time_weight: TimeWeight = time_weight

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Read what the learned distance of images (C, H, W) needs; ConfigError when it is missing."""
        if self.perceptual is not None:
            instead = "an objective without one (ddm_v1, ddm_v2)"
            self.perceptual.prepare(shape, "objective.reconstruction.perceptual", instead)

    def networks(self) -> list[nn.Module]:
        """The frozen networks of the learned distance."""
        return [] if self.perceptual is None else self.perceptual.networks()

    def weight(self, t: Tensor) -> Tensor:
        """r(t): float64, the shape of `t` in (0, 1]."""
        return _WEIGHTS[self.time_weight](t)

    def image(self, attenuation: Attenuation, rest: Tensor, t: Tensor, phi: Tensor) -> Tensor:
        """x_rec, (B, C, *).

        Args:
            attenuation: the process's.
            rest: u - sigma n^, (B, C, *).
            t: times, float64 (B,) on the CPU.
            phi: the image head's parameters, (B, n_params * C, *).
        """
        if self.source == "both_heads":
            return rest - attenuation.H(t, phi)
        return -attenuation.H(torch.ones((), dtype=torch.float64), phi)

    def losses(self, found: Tensor, x0: Tensor) -> Tensor:
        """The distance of each image, without its weight: (B, C, H, W) to (B,)."""
        total = torch.zeros(len(x0), dtype=x0.dtype, device=x0.device)
        if self.mae is not None:
            total = total + reduced((found - x0).abs(), self.mae)
        if self.perceptual is not None:
            total = total + self.perceptual(found, x0)
        return total
