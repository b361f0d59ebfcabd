"""The objective of decoupled diffusion: parameters and noise, each with a weight of its own (DDM, ADM; released code).

    loss_i = w1(t) |phi^ - phi|^2 + w2(t) |n^ - n|^2 + r(t) d(x_rec, x0)

The published weights are named. Those of ADM are 1 / c_out^2 of its preconditioning, up to an epsilon that keeps w2
finite at t = 1: it is the earliest time of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.core.transfer import to_device
from diffexp.objective.base import Objective, Reduce, mask_of, output_of, reduced
from diffexp.objective.batch import perturbation
from diffexp.objective.reconstruction import Reconstruction
from diffexp.objective.times import Times
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.base import Process

Weights = Literal["none", "v1", "v2c", "v2t", "de"]
Pairing = Literal["per_sample", "official"]
Pair = tuple[Tensor, Tensor]


def _v2c(t: Tensor, eps: float) -> Pair:
    variance = t * t - t + 1.0
    return variance / t, variance / (1.0 - t + eps)


_WEIGHTS: dict[str, Callable[[Tensor, float], Pair]] = {
    "none": lambda t, eps: (torch.ones_like(t), torch.ones_like(t)),
    "v1": lambda t, eps: (1.0 / t, 1.0 / (1.0 - t + eps)),
    "v2c": _v2c,
    "v2t": lambda t, eps: (((t - 1.0) / t).square() + 1.0, (t / (1.0 - t + eps)).square() + 1.0),
    "de": lambda t, eps: ((t + 1.0) / t.sqrt(), (2.0 - t).sqrt() / (1.0 - t + eps).sqrt()),
}


@dataclass(frozen=True)
class Terms:
    """The parts of a batch's loss, each (B,): the two heads', the reconstruction's, and the weight of the latter."""

    heads: Tensor
    reconstruction: Tensor
    weight: Tensor


class DecoupledDenoising(Objective):
    """Errors of the two heads, and of the image that they imply.

    Args:
        times: the law of the training times, which must not begin at t = 0 where a weight is infinite.
        weights: (w1, w2): "none" (1, 1); "v1" (1 / t, 1 / (1 - t + eps)) of DDM; "v2c" and "v2t" of ADM for noise
            sqrt(t) and t; "de" of DiffusionEdge.
        reduce: |.|^2 is the "mean" over the pixels of an image (DDM), or their "sum" (ADM).
        l1: average the weighted squares with the weighted absolute errors, of which this is the reduction ("mean" or
            "sum"); None: squares alone.
        reconstruction: the third term; None: no such.
        pairing: "per_sample": r(t) weighs its own image. "official": as released, where a broadcast weighs every image
            with every time of the batch; `reduce` says whether that table is averaged (DDM) or summed and divided by
            the number of images (ADM: about B times as large). It depends on the batch of each device.
        label_dropout: see `Objective`.
        masked: likewise; the image counts as known outside the mask.

    Raises:
        ConfigError: for a label_dropout out of range.
    """

    def __init__(
        self,
        times: Times,
        weights: Weights = "v1",
        reduce: Reduce = "mean",
        l1: Reduce | None = None,
        reconstruction: Reconstruction | None = None,
        pairing: Pairing = "per_sample",
        label_dropout: float = 0.0,
        masked: bool = False,
    ) -> None:
        super().__init__(reduce, label_dropout, masked)
        self.times = times
        self.weights: Weights = weights
        self.l1: Reduce | None = l1
        self.reconstruction = reconstruction
        self.pairing: Pairing = pairing

    def check(self, head: Head, process: Process) -> None:
        """Raise ConfigError for a prediction without these heads, or times at which a weight is infinite."""
        self.times.check(process)
        if "attenuation" not in head.gives:
            raise ConfigError(
                f"objective: compares the heads of prediction=ddm, which {head.name} does not have: use objective=plain"
            )
        ends = torch.tensor([self.times.start(process), process.t_max], dtype=torch.float64)
        last = torch.zeros_like(ends) if self.reconstruction is None else self.reconstruction.weight(ends)
        if not bool(torch.stack([*self.pair(process, ends), last]).isfinite().all()):
            raise ConfigError(
                f"objective.times: starts at t={float(ends[0]):g}, where a weight is infinite: use e.g. "
                "objective.times.t_min=1.0e-4"
            )

    def prepare(self, shape: tuple[int, int, int]) -> None:
        if self.reconstruction is not None:
            self.reconstruction.prepare(shape)

    def networks(self) -> list[nn.Module]:
        return [] if self.reconstruction is None else self.reconstruction.networks()

    def pair(self, process: Process, t: Tensor) -> Pair:
        """(w1, w2) at times `t`, float64 of its shape."""
        return _WEIGHTS[self.weights](t, self.times.start(process))

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        """The loss of a batch, a scalar tensor; arguments as for `objective.denoising.Denoising`."""
        drawn = perturbation(denoiser.process, self.times, batch, seed, self.label_dropout)
        return self.total(self.terms(denoiser, *drawn))

    def terms(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        conditions: Conditions = NO_CONDITIONS,
        drawn: Tensor | None = None,
    ) -> Terms:
        """The parts of the loss; arguments as for `objective.denoising.Denoising.losses`."""
        process, attenuation = denoiser.process, denoiser.process.attenuation
        assert attenuation is not None
        law = process.marginal(t).cast(x0.dtype, x0.device)
        u = law.perturb(x0, noise, drawn)
        phi, own = denoiser.head.heads(law, output_of(denoiser, law, u, conditions), u)  # type: ignore[attr-defined]
        errors = phi - attenuation.parameters(x0, drawn), own - noise
        if self.masked:
            errors = errors[0] * mask_of(conditions), errors[1] * mask_of(conditions)
        heads = self._heads(errors, self._told(self.pair(process, t), x0))
        if self.reconstruction is None:
            return Terms(heads, torch.zeros_like(heads), torch.zeros_like(heads))
        found = self.reconstruction.image(attenuation, u - law.factor.apply(own), t, phi)
        if self.masked:
            found = torch.lerp(x0, found, mask_of(conditions).to(x0.dtype))
        (weight,) = self._told((self.reconstruction.weight(t),), x0)
        return Terms(heads, self.reconstruction.losses(found, x0), weight)

    @staticmethod
    def _told(weights: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
        return tuple(to_device(weight, like.device, like.dtype) for weight in weights)

    def _heads(self, errors: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> Tensor:
        """w1 |phi^ - phi|^2 + w2 |n^ - n|^2 of each image, or its average with the absolute errors: (B,)."""
        pairs = list(zip(weights, errors, strict=True))
        squares = sum(weight * reduced(error.square(), self.reduce) for weight, error in pairs)
        if self.l1 is None:
            return squares  # type: ignore[return-value]
        return 0.5 * (squares + sum(weight * reduced(error.abs(), self.l1) for weight, error in pairs))

    def weighed(self, terms: Terms) -> Tensor:
        """The reconstruction's part of the loss, a scalar tensor."""
        own, weight = terms.reconstruction, terms.weight
        if self.pairing == "per_sample":
            return (weight * own).mean()
        table = own.mean() * weight.mean()
        return table if self.reduce == "mean" else table * len(own)

    def total(self, terms: Terms) -> Tensor:
        """The loss of a batch, a scalar tensor."""
        return terms.heads.mean() + self.weighed(terms)
