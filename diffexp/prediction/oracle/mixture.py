"""The exact denoiser for a mixture of Gaussians, under any linear Gaussian process.

For x0 ~ sum_k w_k N(m_k, s_k^2 I) the state has the law sum_k w_k N(A m_k, V_k), V_k = A S_k A^T + L L^T, where S_k is
s_k^2 I, or the covariance of the lifted data on a process that joins a velocity to them, so that

    E[e | u] = sum_k r_k L^T V_k^-1 d_k,   E[x0 | u] = sum_k r_k (m_k + S_k A^T V_k^-1 d_k),   d_k = u - A m_k,

with the responsibilities r_k ~ w_k det(V_k)^-1/2 exp(-d_k^T V_k^-1 d_k / 2) (Bayes' rule). On a bridge the mixture is
that of the data given the end point y, with means m_k + q_k y, and d_k = u - B y - A (m_k + q_k y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.base import Oracle
from diffexp.process.base import Marginal, Process, second_image
from diffexp.process.operator import Operator


@dataclass(frozen=True)
class _Component:
    """One component at one time: A, B, V^-1, L^T V^-1, S A^T V^-1 and log w - log det(V) / 2."""

    signal: Operator
    second: Operator | None
    precision: Operator
    noise: Operator
    data: Operator
    log_weight: float


class Mixture(Oracle):
    """The posterior means for a mixture of isotropic Gaussians.

    Args:
        process: the forward process.
        weights: w_k > 0, normalised here.
        means: m_k, as numbers (K,), the same for all pixels, or as images (K, C, H, W).
        stds: s_k >= 0, (K,).
        elementwise: every pixel draws its component by itself; else one component makes the whole image. Processes
            whose operators couple the pixels (blurring) know only the second.
        shape: (C, H, W) of the images, for a mixture of whole images whose means are numbers.
        slopes: q_k, (K,), on a bridge; None: the data do not depend on the end point.

    Raises:
        ConfigError: for numbers that describe no mixture.
    """

    def __init__(
        self,
        process: Process,
        weights: Sequence[float] | Tensor,
        means: Sequence[float] | Tensor,
        stds: Sequence[float] | Tensor,
        elementwise: bool = True,
        shape: Sequence[int] | None = None,
        slopes: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(process)
        self.weights, self.means, self.stds, self.slopes = (
            torch.as_tensor(values, dtype=torch.float64)
            for values in (weights, means, stds, [0.0] * len(weights) if slopes is None else slopes)
        )
        sizes = {len(values) for values in (self.weights, self.means, self.stds, self.slopes)}
        if len(sizes) != 1 or 0 in sizes:
            raise ConfigError("network: weights, means, slopes and stds of a mixture need the same length, at least 1")
        if bool(self.slopes.any()) and not process.endpoint:
            raise ConfigError(f"network.slopes: process {process.name} has no end point on which means could depend")
        if not bool((self.weights > 0.0).all()) or not bool((self.stds >= 0.0).all()):
            raise ConfigError("network: a mixture needs weights > 0 and stds >= 0")
        self.elementwise = elementwise
        shape = tuple(self.means.shape[1:]) or tuple(shape or ())
        if not elementwise and not shape:
            raise ConfigError("network: a mixture of whole images needs their shape, or means that are images")
        self._site = (1, 1, 1) if elementwise else shape

    def ready(self, marginal: Marginal) -> list[_Component]:
        state, shares = self.process.state_shape(self._site), (self.weights / self.weights.sum()).log()
        return [
            _component(marginal, self.process.data_covariance(float(std)), float(share), state)
            for std, share in zip(self.stds, shares, strict=True)
        ]

    def estimate(self, u: Tensor, ready: list[_Component], conditions: Conditions) -> tuple[Tensor, Tensor]:
        scores, datas, noises = [], [], []
        end = second_image(conditions.endpoint).double() if self.process.endpoint else None
        for component, mean, slope in zip(ready, self.means.to(u.device), self.slopes.tolist(), strict=True):
            image = mean.expand(self._image_shape(u)) if mean.ndim == 0 else mean
            centre = self.process.lift(image[None]) if end is None else image + slope * end
            off = u - component.signal.apply(centre)
            if component.second is not None and end is not None:
                off = off - component.second.apply(end)
            scores.append(component.log_weight - 0.5 * self._summed(off * component.precision.apply(off)))
            datas.append(centre + component.data.apply(off))
            noises.append(component.noise.apply(off))
        share = torch.softmax(torch.stack(scores), dim=0)
        return tuple(torch.sum(share * torch.stack(values), dim=0) for values in (datas, noises))  # type: ignore[return-value]

    def _image_shape(self, u: Tensor) -> tuple[int, ...]:
        return (u.shape[1] // self._copies, *u.shape[2:])

    @property
    def _copies(self) -> int:
        """How many images of the data's shape a state holds (position and velocity: 2)."""
        return self.process.state_shape((1, 1, 1))[0]

    def _summed(self, squares: Tensor) -> Tensor:
        """Summed over what one component makes, and spread over the state again."""
        if not self.elementwise:
            return squares.sum(dim=tuple(range(1, squares.ndim)), keepdim=True)
        if self._copies == 1:
            return squares
        parts = squares.unflatten(1, (self._copies, -1))
        return parts.sum(1, keepdim=True).expand_as(parts).flatten(1, 2)


def _component(law: Marginal, spread: Operator, log_share: float, state: tuple[int, ...]) -> _Component:
    """The operators of one component, composed in float64."""
    if law.signal.is_zero() and law.factor.is_zero():  # the end point itself: the state says nothing of the data
        zero = law.signal
        return _Component(zero, law.auxiliary, zero, zero, zero, log_share)
    back = spread @ law.signal.transpose()
    variance = law.signal @ back + law.factor.covariance()
    precision = variance.inverse()
    return _Component(
        signal=law.signal,
        second=law.auxiliary,
        precision=precision,
        noise=law.factor.transpose() @ precision,
        data=back @ precision,
        log_weight=log_share - 0.5 * float(variance.log_det(state)),
    )
