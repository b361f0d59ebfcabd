"""Denoisers around a denoiser: guidance towards a label, data held in the range of images, or known in a part."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, Parts, Point, with_second
from diffexp.prediction.form import STATE, Form
from diffexp.process.base import Marginal
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator

NO_LABEL = -1
"""The label that stands for "none"."""


class Wrapper(Denoiser):
    """A denoiser that asks another one, which does the counting."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner
        self.process = inner.process
        self.gives = inner.gives
        self.cost = inner.cost

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Those of the inner denoiser."""
        return self.inner.evaluations

    def time_input(self, t: Tensor) -> Tensor | None:
        return self.inner.time_input(t)

    def input_scale(self, t: Tensor) -> Operator | None:
        return self.inner.input_scale(t)

    def form(self, marginal: Marginal) -> Form:
        return self.inner.form(marginal)

    def extra(self, marginal: Marginal, device: torch.device | str) -> Any:
        return self.inner.extra(marginal, device)


class Guided(Wrapper):
    """Classifier-free guidance (Ho & Salimans 2022): F = F(none) + scale (F(label) - F(none)), two evaluations a call.

    Because data, noise and score are linear in the outputs at one state, it does not matter which of them is guided.

    Args:
        inner: a denoiser that gives "unconditional".
        scale: 1 is the conditional model itself, 0 the unconditional one, > 1 leads towards the label.
    """

    def __init__(self, inner: Denoiser, scale: float) -> None:
        super().__init__(inner)
        self.scale = scale
        self.cost = 2 * inner.cost

    def at(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> Point:
        return replace(super().at(t, dtype, device), extra=self.inner.at(torch.cat([t, t]), dtype, device))

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        asking = point.extra if isinstance(point.extra, Point) else point
        asked = self.inner.parts(torch.cat([u, u]), asking, _with_and_without(conditions))
        outputs = []
        for output in asked[STATE + 1 :]:
            given, none = output.chunk(2)
            outputs.append(torch.lerp(none, given, self.scale))
        return (u, *outputs)


def _with_and_without(conditions: Conditions) -> Conditions:
    """The conditions of a batch twice: as they are, and without labels."""
    if conditions.labels is None:
        raise ValueError("guidance needs labels")
    none = torch.full_like(conditions.labels, NO_LABEL)
    doubled = conditions.map(lambda value: torch.cat([value, value]))
    return replace(doubled, labels=torch.cat([conditions.labels, none]))


class Changed(Wrapper):
    """A denoiser whose data are changed when they are there, and the noise derived again from them.

    Keeping the old noise beside changed data would describe no state at all (Salimans & Ho 2022, released code).
    """

    @abc.abstractmethod
    def change(self, data: Tensor, conditions: Conditions) -> Tensor:
        """The new data, (B, *)."""

    def change_drawn(self, drawn: Tensor) -> Tensor:
        """The new second image, (B, *), of a process that draws one."""
        return drawn

    def form(self, marginal: Marginal) -> Form:
        same = marginal.signal.identity()
        data = Combination({STATE + 1: same})
        if not self.process.drawn:
            return Form(marginal, data=data)
        return Form(marginal, data=data, outputs=2, drawn=Combination({STATE + 2: same}))

    def prepare(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> list[Point]:
        own, inner = super().prepare(t, dtype, device), self.inner.prepare(t, dtype, device)
        drawn = self._drawn(t)
        read = [None if drawn is None else drawn[k].cast(dtype, device) for k in range(len(t))]
        return [replace(point, extra=pair) for point, pair in zip(own, zip(inner, read, strict=True), strict=True)]

    def at(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> Point:
        drawn = self._drawn(t)
        read = None if drawn is None else drawn.cast(dtype, device)
        return replace(super().at(t, dtype, device), extra=(self.inner.at(t, dtype, device), read))

    def _drawn(self, t: Tensor) -> Combination | None:
        """The second image of the inner parts, on a process that draws one."""
        return self.inner.form(self.process.marginal(t)).drawn if self.process.drawn else None

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        asked, drawn = point.extra
        said = self.inner(u, asked, conditions)
        data = self.change(said.data, conditions)
        if drawn is not None:
            return u, data, self.change_drawn(drawn(said.parts))
        return with_second((u, data), point.marginal, conditions)


class Clipped(Changed):
    """Data held in [low, high], and a drawn image within the bound of its law.

    Args:
        inner: the denoiser.
        low: smallest value of the data.
        high: largest value.
    """

    def __init__(self, inner: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(inner)
        self.low = low
        self.high = high

    def change(self, data: Tensor, conditions: Conditions) -> Tensor:
        return data.clamp(self.low, self.high)

    def change_drawn(self, drawn: Tensor) -> Tensor:
        bound = self.process.attenuation.bound  # type: ignore[union-attr] # a process that draws has one
        return drawn.clamp(-bound, bound)


class Composited(Changed):
    """Data that are the end point's own outside the mask: x^ <- mask x^ + (1 - mask) y (DBIM's inpainting)."""

    def change(self, data: Tensor, conditions: Conditions) -> Tensor:
        if conditions.mask is None or conditions.endpoint is None:
            raise ValueError("compositing needs a mask and an end point (conditions.mask, conditions.endpoint)")
        return torch.lerp(conditions.endpoint, data, conditions.mask)
