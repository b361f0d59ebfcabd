"""What a network says on critically damped Langevin processes: both noises, or the velocity's alone.

Only the velocity's score enters the dynamics, so CLD-SGM's network has C output channels (Dockhorn et al. 2022). gDDIM
needs the noise in the factor R, which mixes position and velocity: 2 C channels (Zhang, Tao & Chen 2023).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import STATE, Form
from diffexp.prediction.head import Head, normal_data
from diffexp.prediction.time_input import TimeInput
from diffexp.process.base import FactorKind, Marginal, Process
from diffexp.process.block import Block
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator

Mixed = Literal["velocity", "normal"]

_OUTPUT = STATE + 1


class PhaseEps(Head):
    """The network predicts the noise of position and velocity, eps_K with score = -K^-T eps_K, K K^T = Sigma_t.

    Args:
        time: see `Head`.
        factor: K: "R", gDDIM's, or "cholesky", L_t. The two noises differ by a rotation, so the loss is the same.
        mixed: the network predicts what is left after "velocity", the velocity's own noise, e^ = F + K^-1 [0; v]
            (gDDIM's code), or after "normal", the noise that the state implies for standard normal data, e^ = F +
            K^T V^-1 u with V the state's covariance; None: the noise itself.
    """

    name = "eps"

    def __init__(self, time: TimeInput = "999t", factor: FactorKind = "R", mixed: Mixed | None = None) -> None:
        super().__init__(time)
        self.factor: FactorKind = factor
        self.mixed: Mixed | None = mixed

    def check(self, process: Process) -> None:
        super().check(process)
        _check(process, self.name)

    def form(self, marginal: Marginal) -> Form:
        turn, known = self._operators(marginal)
        noise = Combination({_OUTPUT: turn.inverse()})
        return Form(marginal, noise=noise + Combination({STATE: known}) if self.mixed else noise)

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        turn, known = marginal.derived(self._operators)
        wanted = noise - known.apply(u) if self.mixed else noise
        return turn.apply(wanted)

    def _operators(self, law: Marginal) -> tuple[Operator, Operator]:
        """(K^-1 R, what is known of the noise in R as an operator on the state), where R is the factor of the law."""
        wanted = law.factor if self.factor == "R" else law.factor.covariance().factor()
        turn = law.factor.identity() if self.factor == "R" else wanted.inverse() @ law.factor
        if self.mixed == "normal":
            return turn, normal_data(law)[0]
        return turn, law.factor.inverse() @ _velocity(torch.ones_like(law.t))

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return process.log_snr(t)  # refused: there is no such ratio


def _velocity(values: Tensor) -> Block:
    """diag(0, value)."""
    zero = torch.zeros_like(values)
    return Block(torch.stack([torch.stack([zero, zero], -1), torch.stack([zero, values], -1)], -2))


class VelocityEps(Head):
    """The network predicts the velocity's noise in L_t: score_v = -F / L_vv, or mixed -v / Sigma_vv - F / L_vv.

    Its predictions give the score, of which only the velocity's part is meant: all that the dynamics need. Data and the
    noise in R cannot be had from it.

    Args:
        time: see `Head`; CLD-SGM feeds t itself.
        mixed: the network predicts what is left after the score of a velocity without data (CLD-SGM's mixed score).
    """

    name = "velocity"
    gives = frozenset({"score"})

    def __init__(self, time: TimeInput = "t", mixed: bool = True) -> None:
        super().__init__(time)
        self.mixed = mixed

    def out_channels(self, channels: int) -> int:
        return channels // 2

    def split(self, output: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([torch.zeros_like(output), output], dim=1),)

    def check(self, process: Process) -> None:
        super().check(process)
        _check(process, self.name)

    def form(self, marginal: Marginal) -> Form:
        turn, share = self._operators(marginal)
        noise = Combination({_OUTPUT: turn.inverse()})
        return Form(marginal, noise=noise + Combination({STATE: turn.inverse() @ share}) if self.mixed else noise)

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        turn, share = marginal.derived(self._operators)
        wanted = turn.apply(noise)
        if self.mixed:
            wanted = wanted - share.apply(u)
        return wanted.chunk(2, dim=1)[1]

    def _operators(self, law: Marginal) -> tuple[Operator, Operator]:
        """(L^-1 K with K the law's factor, [0; L_vv v / Sigma_vv])."""
        lower = law.factor.covariance().factor()
        corner = lower.values[..., 1, 1]  # type: ignore[attr-defined]
        return lower.inverse() @ law.factor, _velocity(corner / law.process.resting_variance(law.t))  # type: ignore[union-attr]

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return process.log_snr(t)  # refused: there is no such ratio

    def noise_weight(self, process: Process, t: Tensor) -> Tensor:
        """Of the velocity's noise, which the output is."""
        return torch.ones_like(t)

    def score_weight(self, process: Process, t: Tensor) -> Tensor:
        """Of the velocity's score: 1 / L_vv^2."""
        return process.factor(t, "cholesky").values[..., 1, 1] ** -2.0  # type: ignore[attr-defined]


def _check(process: Process, name: str) -> None:
    if not hasattr(process, "resting_variance"):
        raise ConfigError(f"prediction={name} of a Langevin process needs a velocity, unlike {process.name}: use eps")
