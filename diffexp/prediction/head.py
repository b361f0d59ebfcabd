"""What the network's output means: noise (eps), data (x0) or velocity (v = alpha e - sigma x0), Salimans & Ho 2022.

With consistent targets the squared errors of one output are tied: E = SNR X, V = (1 + SNR) X, where X, E, V are the
errors in data, noise and velocity (section 4 and eq. 9 of that paper). `data_weight` is that factor.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.result import Prediction
from diffexp.prediction.time_input import TimeInput, time_input
from diffexp.process.base import Marginal, Process
from diffexp.process.operator import combine


class Head(abc.ABC):
    """One meaning of the network's output.

    Args:
        time: what the network is told about time, see `time_input`.

    Attributes:
        name: short name, as in the config group.
        gives: the quantities of `Prediction` that can be had from it.
    """

    name: str
    gives: frozenset[str] = frozenset({"data", "noise"})

    def __init__(self, time: TimeInput = "999t") -> None:
        self.time = time

    def out_channels(self, channels: int) -> int:
        """Output channels of the network for a state of `channels` channels."""
        return channels

    def check(self, process: Process) -> None:  # noqa: B027 - most heads fit every process
        """Raise ConfigError when this head has no meaning on `process`."""

    def time_input(self, process: Process, t: Tensor) -> Tensor:
        """The network's time input at times `t`: float64, the shape of `t`."""
        return time_input(self.time, process, t)

    @abc.abstractmethod
    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """What the network should say for u = A x0 + B y + L noise, (B, *); y is `conditions.endpoint`."""

    @abc.abstractmethod
    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        """Squared error of this head divided by the squared error of the data it implies: float64, shape of `t`."""

    @abc.abstractmethod
    def predict(
        self, u: Tensor, marginal: Marginal, output: Tensor, conditions: Conditions = NO_CONDITIONS
    ) -> Prediction:
        """The prediction in a network output (B, *) at state `u`."""


class Eps(Head):
    """The network predicts the unit noise e of u = A x0 + L e (Ho et al. 2020)."""

    name = "eps"

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        return noise

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return process.log_snr(t).exp()

    def predict(
        self, u: Tensor, marginal: Marginal, output: Tensor, conditions: Conditions = NO_CONDITIONS
    ) -> Prediction:
        return Prediction(u, marginal, noise=lambda: output, y=conditions.endpoint)


class X0(Head):
    """The network predicts the data."""

    name = "x0"

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        return x0

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def predict(
        self, u: Tensor, marginal: Marginal, output: Tensor, conditions: Conditions = NO_CONDITIONS
    ) -> Prediction:
        return Prediction(u, marginal, data=lambda: output, y=conditions.endpoint)


class V(Head):
    """The network predicts v = alpha e - sigma x0, which stays meaningful at both ends of the process.

    For alpha^2 + sigma^2 = 1: x0 = alpha u - sigma v and e = sigma u + alpha v (Salimans & Ho 2022, appendix D).
    """

    name = "v"

    def check(self, process: Process) -> None:
        if not process.variance_preserving:
            raise ConfigError(f"prediction=v needs alpha^2 + sigma^2 = 1, unlike {process.name}: use eps or x0")

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        return combine([(marginal.signal, noise), (marginal.minus_factor, x0)])

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return 1.0 + process.log_snr(t).exp()

    def predict(
        self, u: Tensor, marginal: Marginal, output: Tensor, conditions: Conditions = NO_CONDITIONS
    ) -> Prediction:
        return Prediction(
            u,
            marginal,
            data=lambda: combine([(marginal.signal, u), (marginal.minus_factor, output)]),
            noise=lambda: combine([(marginal.factor, u), (marginal.signal, output)]),
        )
