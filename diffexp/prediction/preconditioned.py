"""Preconditioned predictions, x^ = c_skip u + c_out F(c_in u, ...): the network's input and target have unit variance.

For data of variance s^2 in u = b x0 + a y + c e, an end point y of the same variance and covariance `cov` with the data
(DDBM, Zhou et al. 2024, eq. 10 to 12; without y it is table 1 of Karras et al. 2022):

    A = (a^2 + b^2) s^2 + 2 a b cov + c^2,   c_in = A^-1/2,
    c_skip = (b s^2 + a cov) / A,            c_out = sqrt((a^2 (s^4 - cov^2) + s^2 c^2) / A)

Neither is infinite or vague at the end point, where there is no noise to be predicted.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import STATE, Form
from diffexp.prediction.head import Head
from diffexp.prediction.time_input import TimeInput
from diffexp.process.base import Marginal, Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator, Scalar, combine

_OUTPUT = STATE + 1


class Preconditioned(Head):
    """A head x^ = c_skip u + c_out F on a process of scalars; the plain objective weighs the data with 1 / c_out^2."""

    @abc.abstractmethod
    def coefficients(self, law: Marginal) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_in, c_out) at the times of a float64 marginal."""

    def input_scale(self, process: Process, t: Tensor) -> Operator | None:
        return Scalar(self.coefficients(process.marginal(t))[1])

    def form(self, marginal: Marginal) -> Form:
        skip, _, out = self.coefficients(marginal)
        return Form(marginal, data=Combination({STATE: Scalar(skip), _OUTPUT: Scalar(out)}))

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        return combine(list(zip(marginal.derived(self._to_output), (x0, u), strict=True)))

    def _to_output(self, law: Marginal) -> tuple[Operator, Operator]:
        """(1 / c_out, -c_skip / c_out)."""
        skip, _, out = self.coefficients(law)
        return Scalar(1.0 / out), Scalar(-skip / out)

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        return self.coefficients(process.marginal(t))[2] ** -2.0


class Normalised(Preconditioned):
    """The coefficients above.

    Args:
        time: see `Head`.
        sigma_data: s, the standard deviation of the data's pixels, > 0.
        cov: covariance of data and end point, below s^2 in size.

    Raises:
        ConfigError: for numbers that no data have.
    """

    def __init__(self, time: TimeInput, sigma_data: float = 0.5, cov: float = 0.0) -> None:
        super().__init__(time)
        if not sigma_data > 0.0:
            raise ConfigError(f"prediction.sigma_data={sigma_data}: must be > 0")
        if not abs(cov) < sigma_data**2:
            raise ConfigError(f"prediction.cov={cov}: must be smaller than sigma_data^2 = {sigma_data**2:g}")
        self.sigma_data = sigma_data
        self.cov = cov

    def coefficients(self, law: Marginal) -> tuple[Tensor, Tensor, Tensor]:
        variance, cov = self.sigma_data**2, self.cov
        b, c = _number(law.signal), _number(law.factor)
        a = torch.zeros_like(b) if law.auxiliary is None else _number(law.auxiliary)
        whole = (a * a + b * b) * variance + 2.0 * a * b * cov + c * c
        out = (a * a * (variance**2 - cov**2) + variance * c * c) / whole
        return (b * variance + a * cov) / whole, whole.rsqrt(), out.sqrt()


def _number(operator: Operator) -> Tensor:
    if not isinstance(operator, Scalar):
        raise TypeError(f"preconditioning is for scalars, not {type(operator).__name__}")
    return operator.value


class EDM(Normalised):
    """Karras et al. 2022, table 1, on any process of scalars.

    Args:
        time: see `Head`; "quarter_log_sigma" as published.
        sigma_data: see `Normalised`.
    """

    name = "edm"

    def __init__(self, time: TimeInput = "quarter_log_sigma", sigma_data: float = 0.5) -> None:
        super().__init__(time, sigma_data)

    def check(self, process: Process) -> None:
        super().check(process)
        law = process.marginal(torch.tensor(0.5 * (process.t_data + process.t_max), dtype=torch.float64))
        if not (isinstance(law.signal, Scalar) and isinstance(law.factor, Scalar)):
            raise ConfigError(f"prediction=edm: signal and noise of process {process.name} are no numbers: use eps")
