"""What every linear Gaussian forward process states about itself.

    u_t = A_t x0 + B_t y + L_t e,   e ~ N(0, I);        du = F_t u dt + G_t dw

`t` is forward time, 0 = data. Times are float64 tensors on the CPU, of shape () or (n,), and operators carry the same
batch shape. Implementations are plain classes: nothing here learns.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.operator import Operator, Scalar, combine

if TYPE_CHECKING:
    from diffexp.process.attenuation import Attenuation

FactorKind = Literal["cholesky", "R"]


@dataclass(frozen=True)
class Marginal:
    """The law of u_t given the data, at a batch of times: u_t = signal x0 + auxiliary y + factor e.

    Attributes:
        t: times, float64 () or (n,).
        signal: A_t.
        auxiliary: B_t, or None for a process without a second image.
        factor: L_t, the factor in which the noise is expressed.
        process: whose law it is, for who needs more of it.
        exact: the float64 marginal that this one was cast from; operators are derived there and cast afterwards.
        place: (type, device) of the states, for a marginal that was cast.
    """

    t: Tensor
    signal: Operator
    auxiliary: Operator | None
    factor: Operator
    process: Process | None = None
    exact: Marginal | None = None
    place: tuple[torch.dtype, torch.device | str] | None = None

    def __getitem__(self, index: int) -> Marginal:
        auxiliary = None if self.auxiliary is None else self.auxiliary[index]
        return Marginal(self.t[index], self.signal[index], auxiliary, self.factor[index], self.process)

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Marginal:
        """The same marginal with operators ready for states of this type and device; `t` stays float64."""
        auxiliary = None if self.auxiliary is None else self.auxiliary.cast(dtype, device)
        signal, factor = self.signal.cast(dtype, device), self.factor.cast(dtype, device)
        return Marginal(self.t, signal, auxiliary, factor, self.process, exact=self, place=(dtype, device))

    def derived(self, derive: Callable[[Marginal], tuple[Operator, ...]]) -> tuple[Operator, ...]:
        """Operators made of this marginal's own, in float64 whatever the states are, and cast as it was."""
        if self.exact is None or self.place is None:
            return derive(self)
        return tuple(operator.cast(*self.place) for operator in derive(self.exact))

    @property
    def given(self) -> bool:
        """Whether a second image is given with each state, and not drawn with the data."""
        return self.auxiliary is not None and not (self.process is not None and self.process.drawn)

    @cached_property
    def minus_factor(self) -> Operator:
        """-L_t."""
        return self.derived(lambda law: (-1.0 * law.factor,))[0]

    def perturb(self, x0: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """u_t for given (lifted) data, unit noise and, on a process that has one, second image, each (B, *)."""
        terms = [(self.signal, x0), (self.factor, noise)]
        if self.auxiliary is not None:
            terms.append((self.auxiliary, second_image(y)))
        return combine(terms)


def second_image(y: Tensor | None) -> Tensor:
    """`y` itself; ValueError when the process has a second image and none was given."""
    if y is None:
        raise ValueError("this process has a second image: give y (conditions.endpoint, or what is drawn)")
    return y


class Process(abc.ABC):
    """A linear Gaussian forward process.

    Attributes:
        name: short name, as in the config group.
        variance_preserving: alpha^2 + sigma^2 = 1 at every time.
        t_max: the last time.
        t_data: time at which the marginal is closest to the data (usually 0).
        num_steps: length of the table, for a process that is one; else None.
        endpoint: the second image is given with each state (a bridge's end point), and sampling starts from it.
        drawn: the second image is drawn with the data in training, and predicted in sampling.
        attenuation: how the image goes to zero, on a decoupled process; None on others.
    """

    name: str
    variance_preserving: bool = False
    t_max: float = 1.0
    t_data: float = 0.0
    num_steps: int | None = None
    endpoint: bool = False
    drawn: bool = False
    attenuation: Attenuation | None = None

    @property
    def t_min(self) -> float:
        """The earliest time that training and sampling see unless they are told otherwise: t_data, where it can be."""
        return self.t_data

    @property
    def t_prior(self) -> float:
        """Time of the prior, where sampling starts: t_max, unless the training sees later times than sampling does."""
        return self.t_max

    def on(self, image_shape: Sequence[int]) -> Process:
        """The process on images of this shape (C, H, W): itself, unless its operators depend on the size."""
        return self

    @abc.abstractmethod
    def signal(self, t: Tensor) -> Operator:
        """A_t: the mean of u_t is A_t x0 (+ B_t y)."""

    def auxiliary(self, t: Tensor) -> Operator | None:
        """B_t, or None when the process has no second image."""
        return None

    @abc.abstractmethod
    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Operator:
        """A factor of the covariance of u_t given the data.

        Args:
            t: times.
            kind: "R" solves dR/dt = (F + G G^T Sigma^-1 / 2) R (gDDIM, eq. 17); "cholesky" is lower triangular. They
                differ by a rotation, and not at all for isotropic noise. None: the process's own, R where it has one.
        """

    @abc.abstractmethod
    def transition(self, t: Tensor, s: Tensor) -> Operator:
        """Psi(t, s), the noise-free propagation from time s to time t: A_t = Psi(t, s) A_s."""

    @abc.abstractmethod
    def drift(self, t: Tensor) -> Operator:
        """F_t, per unit of time."""

    @abc.abstractmethod
    def diffusion(self, t: Tensor) -> Operator:
        """G_t, per square root of a unit of time."""

    def noise_rate(self, t: Tensor) -> Tensor:
        """g(t)^2, where noise enters with one strength g: float64, the shape of `t`; ConfigError elsewhere."""
        try:
            return (2.0 * self.diffusion(t).log_det((1,))).exp()
        except ValueError as error:
            raise ConfigError(
                f"process {self.name} has noise of several strengths: use objective=plain in place of diffusion or "
                "likelihood"
            ) from error

    def start(self, noise: Callable[[], Tensor], y: Tensor | None) -> Tensor:
        """What sampling starts from, still to be multiplied by `prior_factor`, (B, *).

        Args:
            noise: draws unit noise.
            y: the given second image, if any.
        """
        return noise()

    @abc.abstractmethod
    def prior_factor(self, t: Tensor | None = None) -> Operator:
        """The factor of the law from which sampling starts, N(0, K K^T) around zero signal.

        Args:
            t: the grid's first time, (); None is t_prior.
        """

    def stationary_factor(self) -> Operator | None:
        """K of the law N(0, K K^T) that the process leaves as it is, F K K^T + K K^T F^T + G G^T = 0; None: no such."""
        return None

    @abc.abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), for the weights and time inputs of isotropic processes."""

    @abc.abstractmethod
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`: float64, the shape of the argument.

        Values beyond the process's ends give the nearest end, t_data or t_max.
        """

    def time_of(self, alpha: Tensor) -> Tensor:
        """The time whose signal-to-noise ratio is alpha^2 / (1 - alpha^2): float64, the shape of `alpha` in [0, 1].

        On a variance-preserving process this is the time at which the signal level is alpha; on others, levels found
        for such a process keep their meaning. alpha = 1 gives t_data, and levels beyond the ends give the nearest end.
        """
        alpha = torch.as_tensor(alpha, dtype=torch.float64)
        return self.time_of_log_snr(2.0 * alpha.log() - ((1.0 - alpha) * (1.0 + alpha)).log())

    def index(self, t: Tensor) -> Tensor:
        """The (fractional) index into the process's table at times `t`; ConfigError without a table."""
        raise ConfigError(f"prediction.time=index: process {self.name} has no table; use 999t or log_snr")

    def marginal(self, t: Tensor, kind: FactorKind | None = None) -> Marginal:
        """The law of u_t given the data at times `t`."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return Marginal(t, self.signal(t), self.auxiliary(t), self.factor(t, kind), self)

    def data_covariance(self, std: float) -> Operator:
        """The covariance of lifted data whose pixels have this standard deviation, at one time."""
        return Scalar(std**2)

    def lift(self, x0: Tensor) -> Tensor:
        """The data as a state; identity unless the state has more channels than the image."""
        return x0

    def lift_drawn(self, x0: Tensor, normal: Callable[[], Tensor]) -> Tensor:
        """The data as a state of training, for processes that draw a part of it: `normal()` is unit noise like x0."""
        return self.lift(x0)

    def draw(self, normal: Callable[[], Tensor]) -> Tensor | None:
        """The second image of a training that draws it, see `drawn`; else None: `normal()` is unit noise like x0."""
        return None

    def readout(self, u: Tensor) -> Tensor:
        """The image in a state; identity unless the state has more channels than the image."""
        return u

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one state for one image shape (C, H, W)."""
        return tuple(image_shape)

    def transition_factor(self, t: Tensor, s: Tensor) -> Operator:
        """Q, a factor of the noise that the process adds from time s to time t > s: u_t = Psi(t, s) u_s + Q z.

        Q Q^T = Sigma_t - Psi Sigma_s Psi^T; processes with a form free of cancellation override this.
        """
        moved = self.transition(t, s) @ self.factor(s)
        return (self.factor(t).covariance() - moved.covariance()).factor()

    def posterior(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> tuple[Operator, Operator]:
        """The law of u_s given u_t and the data, for s < t, with u_t = A_t x0 + L_t e.

        Returns:
            (K, C): u_s = A_s x0 + K e + C z with fresh unit noise z; K = Sigma_s Psi^T L_t^-T with Psi = Psi(t, s), and
            C C^T = Sigma_s - K K^T (Bayes' rule for Gaussians; for VP it is DDPM's eq. 7).
        """
        sigma_s = self.factor(s, kind).covariance()
        mean = sigma_s @ self.transition(t, s).transpose() @ self.factor(t, kind).transpose().inverse()
        return mean, self.posterior_factor(t, s, kind)

    def posterior_factor(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> Operator:
        """C of `posterior`; processes with a form free of cancellation override this."""
        sigma_s = self.factor(s, kind).covariance()
        mean = sigma_s @ self.transition(t, s).transpose() @ self.factor(t, kind).transpose().inverse()
        return (sigma_s - mean.covariance()).factor()
