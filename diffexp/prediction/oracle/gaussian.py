"""Gaussian data under any linear Gaussian process: the exact law of the state, and a network that knows it.

For pixels N(m, s^2) the state is N(A m + B y, V), V = A S A^T + kappa B B^T + L L^T, where S is the covariance of the
lifted data and kappa the variance of a second image that is drawn with them (given ones are known). Bayes' rule then
gives the means of data, noise and drawn image given the state, all affine in it, with d = u - A m - B y:

    E[x0 | u] = m + S A^T V^-1 d,     E[e | u] = L^T V^-1 d,     E[K | u] = kappa B^T V^-1 d

`Voiced` says this in the words of a head, as a network would that has learned all there is to learn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser, Parts, Point, with_second
from diffexp.prediction.form import STATE
from diffexp.prediction.head import Head
from diffexp.process.base import Marginal, Process, second_image
from diffexp.process.operator import Operator


class Gaussian:
    """Pixels that are independent and N(mean, std^2), and what a process makes of them; float64.

    A second image that the process draws is taken as Gaussian with its own variance, which keeps all laws Gaussian.

    Args:
        process: any; on a bridge every end point has the same data.
        mean: m, the same for every pixel.
        std: s > 0.
    """

    def __init__(self, process: Process, mean: float, std: float) -> None:
        self.process = process
        self.mean = mean
        self.spread = process.data_covariance(std)
        self.drawn_variance = process.attenuation.drawn_variance if process.attenuation and process.drawn else 0.0

    def covariance(self, law: Marginal) -> Operator:
        """V, the covariance of the state."""
        found = law.signal @ self.spread @ law.signal.transpose() + law.factor.covariance()
        if law.auxiliary is None or not self.drawn_variance:
            return found
        return found + self.drawn_variance * law.auxiliary.covariance()

    def centre(self, law: Marginal, like: Tensor, end: Tensor | None = None) -> Tensor:
        """The mean of the states `like` (B, *), with the end points `end` on a bridge."""
        image = torch.full_like(self.process.readout(like), self.mean)
        centre = law.signal.apply(self.process.lift(image))
        return centre + law.auxiliary.apply(second_image(end)) if law.given and law.auxiliary is not None else centre

    def gains(self, law: Marginal) -> tuple[Operator, Operator, Operator | None]:
        """What d is multiplied by in the three means; zero at a bridge's end point, where d is."""
        inverse = self.covariance(law)
        if not inverse.is_zero():
            inverse = inverse.inverse()
        drawn = self.drawn_variance * (law.auxiliary @ inverse) if law.auxiliary is not None else None
        return self.spread @ law.signal.transpose() @ inverse, law.factor.transpose() @ inverse, drawn

    def grown(self, law: Marginal, end: Marginal) -> Operator:
        """What d is multiplied by along the probability flow to another time, for operators that commute."""
        here, there = self.covariance(law).factor(), self.covariance(end).factor()
        return here if here.is_zero() else there @ here.inverse()


class Voiced(NetworkDenoiser):
    """The denoiser of a network that knows the law of Gaussian data, whatever its head has it say; float64 states.

    Args:
        data: the law.
        head: the prediction.

    Raises:
        ConfigError: when the head has no meaning on the process.
    """

    def __init__(self, data: Gaussian, head: Head) -> None:
        super().__init__(nn.Identity(), head, data.process)
        self.data = data

    def extra(self, marginal: Marginal, device: torch.device | str) -> Any:
        if not isinstance(self.head, Consistency):
            return self.data.gains(marginal)
        end = self.process.marginal(torch.full_like(marginal.t, self.head.end(self.process)))
        _, *outputs = (self.head.form(marginal).data.terms[part] for part in (STATE, STATE + 1))
        return end, self.data.grown(marginal, end), outputs[0].inverse()

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        self.evaluations += len(u)
        off = u - self.data.centre(point.marginal, u, conditions.endpoint)
        said = self._jump if isinstance(self.head, Consistency) else self._regressed
        return with_second((u, *self.head.split(said(u, off, point, conditions))), point.marginal, conditions)

    def _regressed(self, u: Tensor, off: Tensor, point: Point, conditions: Conditions) -> Tensor:
        """The output that regression leads to: every head's target is linear, so its mean is that of the means."""
        data, noise, drawn = point.extra
        image = self.process.lift(torch.full_like(self.process.readout(u), self.data.mean)) + data.apply(off)
        given = () if not self.process.drawn else (drawn.apply(off),)
        target = self.head.target(point.marginal, image, noise.apply(off), u, *given)
        return self.head.answer(point.marginal, target)

    def _jump(self, u: Tensor, off: Tensor, point: Point, conditions: Conditions) -> Tensor:
        """The output with which the head's jump is the end of the flow; it has one."""
        end, grown, inverse = point.extra
        wanted = self.data.centre(end, u, conditions.endpoint) + grown.apply(off)
        none = with_second((u, torch.zeros_like(u)), point.marginal, conditions)
        return inverse.apply(wanted - point.data(none))
