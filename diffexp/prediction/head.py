"""What the network's output means: noise (eps), data (x0), velocity (v), score, or data and noise at once (both).

With consistent targets the squared errors of one output are tied: E = SNR X, V = (1 + SNR) X, where X, E, V are the
errors in data, noise and velocity (Salimans & Ho 2022, section 4 and eq. 9). `data_weight` is that factor.
"""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import STATE, Form
from diffexp.prediction.time_input import TimeInput, time_input
from diffexp.process.base import Marginal, Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator, combine

_OUTPUT = STATE + 1


class Head(abc.ABC):
    """One meaning of the network's output.

    Args:
        time: what the network is told about time, see `time_input`.

    Attributes:
        name: short name, as in the config group.
        gives: the quantities of `Prediction` that can be had from it.
        outputs: how many images of the state's shape the network puts out.
        shows: the condition that the network sees as further channels behind the state; None: no other image.
    """

    name: str
    gives: frozenset[str] = frozenset({"data", "noise", "score"})
    outputs: int = 1
    shows: Literal["endpoint", "image"] | None = None

    def __init__(self, time: TimeInput = "999t") -> None:
        self.time = time

    def on(self, process: Process) -> Head:
        """The head for this process: itself, unless the number of its outputs depends on it; ConfigError as `check`."""
        return self

    def out_channels(self, channels: int) -> int:
        """Output channels of the network for a state of `channels` channels."""
        return self.outputs * channels

    def condition_channels(self, channels: int) -> int:
        """Input channels of the network beside those of a state of `channels` channels."""
        return channels if self.shows else 0

    def split(self, output: Tensor) -> tuple[Tensor, ...]:
        """The network output (B, outputs * C, *) as `outputs` images (B, C, *)."""
        return (output,) if self.outputs == 1 else output.chunk(self.outputs, dim=1)

    def check(self, process: Process) -> None:
        """Raise ConfigError when this head has no meaning on `process`."""
        if process.endpoint and self.shows != "endpoint":
            raise ConfigError(
                f"prediction={self.name}: its network is not shown the end point of process {process.name}: use ddbm"
            )
        if process.drawn and "attenuation" not in self.gives:
            raise ConfigError(
                f"prediction={self.name}: process {process.name} draws an image with its data, which has to be "
                "predicted too: use ddm or ddm_single, or process=ddm_const"
            )
        with torch.device("cpu"):  # also where networks are built without memory
            first = torch.tensor([process.t_prior], dtype=torch.float64)
            self._check_start(process, first)

    def _check_start(self, process: Process, first: Tensor) -> None:
        """Raise ConfigError for what has no meaning at the prior, (1,), where there may be no signal."""
        if not bool(self.time_input(process, first).isfinite().all()):
            raise ConfigError(
                f"prediction.time={self.time}: is infinite at t = {process.t_prior:g} on process {process.name}, which "
                "has no signal there: use 999t"
            )

    def time_input(self, process: Process, t: Tensor) -> Tensor:
        """The network's time input at times `t`: float64, the shape of `t`."""
        return time_input(self.time, process, t)

    def input_scale(self, process: Process, t: Tensor) -> Operator | None:
        """What the state is multiplied by before the network sees it (c_in), float64; None: nothing."""
        return None

    @abc.abstractmethod
    def form(self, marginal: Marginal) -> Form:
        """Data and noise as combinations of the state and the outputs; float64."""

    @abc.abstractmethod
    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor, drawn: Tensor | None = None) -> Tensor:
        """What the network should say for u = A x0 + B y + L noise: (B, outputs * C, *).

        `drawn` is y on a process that draws it; heads that do not predict it need not take it.
        """

    def error(self, marginal: Marginal, output: Tensor, target: Tensor) -> Tensor:
        """The error that the objective squares, (B, C, *); of one output, output - target."""
        return output - target

    def answer(self, marginal: Marginal, target: Tensor) -> Tensor:
        """The output whose `error` is zero, (B, outputs * C, *); of one output, the target."""
        return target

    @abc.abstractmethod
    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        """Squared `error` divided by the squared error of the data it implies: float64, the shape of `t`."""

    def noise_weight(self, process: Process, t: Tensor) -> Tensor:
        """The squared error of the noise divided by the squared `error` that it implies."""
        return process.log_snr(t).exp() / self.data_weight(process, t)

    def score_weight(self, process: Process, t: Tensor) -> Tensor:
        """The squared error of the score divided by the squared `error` that it implies."""
        return self.noise_weight(process, t) * (-2.0 * process.factor(t).log_det((1,))).exp()


class _OfNoise(Head):
    """A head that says what the noise is, from which the data follow where there is a signal."""

    def _check_start(self, process: Process, first: Tensor) -> None:
        if process.signal(first).is_zero():
            raise ConfigError(
                f"prediction={self.name}: says nothing of the data at t = {process.t_prior:g}, where process "
                f"{process.name} has no signal: use x0, or process.t_prior=0.999"
            )
        super()._check_start(process, first)


class Eps(_OfNoise):
    """The network predicts the unit noise e of u = A x0 + B y + L e (Ho et al. 2020).

    Args:
        time: see `Head`.
        mixed: the network predicts what is left after the noise of standard normal data,
            e^ = F + L^T (A A^T + L L^T)^-1 u (the mixed score of Vahdat et al. 2021 and CLD-SGM).
    """

    name = "eps"

    def __init__(self, time: TimeInput = "999t", mixed: bool = False) -> None:
        super().__init__(time)
        self.mixed = mixed

    def form(self, marginal: Marginal) -> Form:
        output = Combination({_OUTPUT: marginal.signal.identity()})
        if not self.mixed:
            return Form(marginal, noise=output)
        gain, share = normal_data(marginal)
        inverse = marginal.signal.inverse()
        data = Combination({STATE: share, _OUTPUT: -1.0 * (inverse @ marginal.factor)})
        return Form(marginal, data=data, noise=output + Combination({STATE: gain}))

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        return noise - marginal.derived(normal_data)[0].apply(u) if self.mixed else noise

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return process.log_snr(t).exp()


def normal_data(law: Marginal) -> tuple[Operator, Operator]:
    """(L^T V^-1, S A^T V^-1), V = A S A^T + L L^T: noise and data that a state implies for standard normal data.

    S is the covariance of such data as states: the identity, unless the process joins a velocity to them.
    """
    back = law.process.data_covariance(1.0) @ law.signal.transpose()  # type: ignore[union-attr]
    inverse = (law.signal @ back + law.factor.covariance()).inverse()
    return law.factor.transpose() @ inverse, back @ inverse


class Score(_OfNoise):
    """The network predicts the score, grad log p(u_t) = -L^-T e."""

    name = "score"

    def form(self, marginal: Marginal) -> Form:
        return Form(marginal, noise=Combination({_OUTPUT: -1.0 * marginal.factor.transpose()}))

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        return marginal.derived(_to_score)[0].apply(noise)

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return (process.log_snr(t) - 2.0 * process.factor(t).log_det((1,))).exp()


def _to_score(law: Marginal) -> tuple[Operator]:
    """(-L^-T,)."""
    return (-1.0 * law.factor.transpose().inverse(),)


class X0(Head):
    """The network predicts the data."""

    name = "x0"

    def form(self, marginal: Marginal) -> Form:
        return Form(marginal, data=Combination({_OUTPUT: marginal.signal.identity()}))

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        return x0

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class _Preserving(Head):
    """A head whose algebra needs alpha^2 + sigma^2 = 1."""

    def check(self, process: Process) -> None:
        super().check(process)
        if not process.variance_preserving:
            raise ConfigError(f"prediction={self.name} needs alpha^2 + sigma^2 = 1, unlike {process.name}: use eps")


class V(_Preserving):
    """The network predicts v = alpha e - sigma x0, which stays meaningful at both ends of the process.

    For alpha^2 + sigma^2 = 1: x0 = alpha u - sigma v and e = sigma u + alpha v (Salimans & Ho 2022, appendix D).
    """

    name = "v"

    def form(self, marginal: Marginal) -> Form:
        signal, factor = marginal.signal, marginal.factor
        data = Combination({STATE: signal, _OUTPUT: -1.0 * factor})
        return Form(marginal, data=data, noise=Combination({STATE: factor, _OUTPUT: signal}))

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        return combine([(marginal.signal, noise), (marginal.minus_factor, x0)])

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return 1.0 + process.log_snr(t).exp()


class Both(_Preserving):
    """The network predicts data and noise, merged by their reliability (Salimans & Ho 2022, section 4).

    The first half of the channels is Fx, the second Fe: x^ = sigma^2 Fx + alpha (u - sigma Fe), where alpha^2 / alpha
    is cancelled by hand: 1 / alpha reaches 2e4. The noise follows from the merged data; the objective squares the error
    of the merged data, sigma^2 (Fx - x0) - alpha sigma (Fe - e).
    """

    name = "both"
    outputs = 2

    def form(self, marginal: Marginal) -> Form:
        signal, factor = marginal.signal, marginal.factor
        cross = -1.0 * (signal @ factor)
        data = Combination({STATE: signal, _OUTPUT: factor @ factor, _OUTPUT + 1: cross})
        noise = Combination({STATE: factor, _OUTPUT: cross, _OUTPUT + 1: signal @ signal})
        return Form(marginal, data=data, noise=noise, outputs=2)

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        return torch.cat([x0, noise], dim=1)

    def error(self, marginal: Marginal, output: Tensor, target: Tensor) -> Tensor:
        data, noise = (output - target).chunk(2, dim=1)
        return combine(list(zip(marginal.derived(_merge), (data, noise), strict=True)))

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)


def _merge(law: Marginal) -> tuple[Operator, Operator]:
    """(sigma^2, -alpha sigma)."""
    return law.factor @ law.factor, -1.0 * (law.signal @ law.factor)
