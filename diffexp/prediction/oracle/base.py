"""What all oracles share: they state data and noise, in float64 whatever the states are, and count like a network."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, Parts, Point, with_second
from diffexp.prediction.form import STATE, Form
from diffexp.process.base import Marginal, Process
from diffexp.process.combination import Combination


class Oracle(Denoiser):
    """A denoiser that knows the posterior means of data and noise given the state.

    Both are its outputs: deriving the noise from the data would lose its digits near the data, and the other way round.
    """

    def __init__(self, process: Process) -> None:
        if process.drawn:
            raise ConfigError(
                f"network: process {process.name} draws an image with its data, whose law no oracle knows: use "
                "process=ddm_const"
            )
        super().__init__(process)

    @abc.abstractmethod
    def ready(self, marginal: Marginal) -> Any:
        """What an estimate at this one time needs, computed before the loop from the float64 marginal."""

    @abc.abstractmethod
    def estimate(self, u: Tensor, ready: Any, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """(E[x0 | u], E[e | u]) for float64 states (B, *); float64."""

    def form(self, marginal: Marginal) -> Form:
        same = marginal.signal.identity()
        return Form(marginal, Combination({STATE + 1: same}), Combination({STATE + 2: same}), outputs=2)

    def extra(self, marginal: Marginal, device: torch.device | str) -> Any:
        if marginal.t.ndim == 0:
            return self.ready(marginal.cast(torch.float64, device))
        return _Each(self.extra(marginal[k], device) for k in range(len(marginal.t)))

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        self.evaluations += len(u)
        if isinstance(point.extra, _Each):
            single = [(slice(k, k + 1), own) for k, own in enumerate(point.extra)]
            found = [self.estimate(u[image].double(), own, conditions[image]) for image, own in single]
            data, noise = (torch.cat(values) for values in zip(*found, strict=True))
        else:
            data, noise = self.estimate(u.double(), point.extra, conditions)
        return with_second((u, data.to(u.dtype), noise.to(u.dtype)), point.marginal, conditions)


class _Each(list[Any]):
    """What the estimates of states at times of their own need: one entry for each state."""
