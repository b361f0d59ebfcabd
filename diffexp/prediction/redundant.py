"""Clipping for samplers that read redundant heads (DDM): the heads stay as they are predicted, the data do not.

`Clipped` derives the noise again from the data that it has held in range. DDM's samplers keep the predicted noise, and
the predicted parameters too unless they are reconciled; only a drawn image is held within the bound of its law. Of a
denoiser that predicts no parameters they are those of the clipped data.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, Parts, Point
from diffexp.prediction.form import STATE, Form
from diffexp.prediction.wrapper import Wrapper
from diffexp.process.base import Marginal
from diffexp.process.combination import Combination
from diffexp.process.operator import Scalar


class ClippedHeads(Wrapper):
    """A denoiser of state, clipped data, parameters and noise.

    Parameters that are the drawn image alone are held within its bound, and the data follow that before they are
    clipped; the others and the noise are the inner denoiser's own.

    Args:
        inner: the denoiser, on a decoupled process.
        low: smallest value of the data.
        high: largest value.

    Raises:
        ConfigError: for a denoiser on a process without attenuation.
    """

    def __init__(self, inner: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(inner)
        self.low = low
        self.high = high
        if self.process.attenuation is None:
            raise ConfigError(
                f"clipping of predicted parameters: process {self.process.name} has none: use process=ddm_const, or "
                "sampler=ddim"
            )
        self._attenuation = self.process.attenuation
        self._bounds = [
            abs(drawn) * self._attenuation.bound if data == 0.0 else None for data, drawn in self._attenuation.shares
        ]

    def form(self, marginal: Marginal) -> Form:
        same, count = marginal.signal.identity(), self._attenuation.n_params
        data, *parameters, noise = (Combination({STATE + 1 + j: same}) for j in range(count + 2))
        drawn = None
        if self._attenuation.of_drawn is not None:
            weights = {STATE + 2 + j: weight * same for j, weight in enumerate(self._attenuation.inverse[1]) if weight}
            drawn = Combination(weights)
        own = parameters if self.inner.form(marginal).redundant else None  # else those of the clipped data
        return Form(marginal, data, None, count + 2, drawn, own, noise)

    def prepare(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> list[Point]:
        own, inner = super().prepare(t, dtype, device), self.inner.prepare(t, dtype, device)
        form = self.inner.form(self.process.marginal(t))
        read = (form.data, *form.parameters, form.own_noise)
        weights = [Scalar(h) for h in self._attenuation.coefficients(t)]
        return [
            replace(
                point,
                extra=(
                    asked,
                    [part[k].cast(dtype, device) for part in read],
                    [weight[k].cast(dtype, device) for weight in weights],
                ),
            )
            for k, (point, asked) in enumerate(zip(own, inner, strict=True))
        ]

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        asked, read, weights = point.extra
        given = self.inner.parts(u, asked, conditions)
        data, *parameters, noise = (part(given) for part in read)
        for j, bound in enumerate(self._bounds):
            if bound is not None:
                held = parameters[j].clamp(-bound, bound)
                data = data + weights[j].apply(parameters[j] - held)
                parameters[j] = held
        return u, data.clamp(self.low, self.high), *parameters, noise
