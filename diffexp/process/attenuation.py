"""How a decoupled process carries the image to zero: u_t = x0 + H_t(phi) + sigma(t) e with H_1(phi) = -x0 (DDM).

    H_t(phi) = sum_j h_j(t) phi_j,     phi_j = m_j x0 + k_j K

with functions h_j of time that vanish at t = 0, and parameters phi that are linear in the image x0 and, for some
functions, in an image K drawn with it. A network predicts phi. A new function is one class, here or in a plugin.
"""

from __future__ import annotations

import abc
import math
from functools import cached_property

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.operator import over

_ROUNDING = 1e-9


class Attenuation(abc.ABC):
    """A function of time that takes an image to zero between t = 0 and t = 1.

    Attributes:
        name: short name.
        names: of the parameters, in the order of the network's channels.
        of_data: m_j, one number for each parameter.
        of_drawn: k_j, for a function that draws K; else None.
        bound: K is unit noise held in [-bound, bound].
    """

    name: str
    names: tuple[str, ...] = ("C",)
    of_data: tuple[float, ...]
    of_drawn: tuple[float, ...] | None = None
    bound: float = 1.0

    @abc.abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        """h_j(t), one for each parameter, by torch's functions: float64, the shape of `t` in [0, 1]."""

    def rates(self, t: Tensor) -> tuple[Tensor, ...]:
        """dh_j/dt, exact: by differentiation of `coefficients`."""
        with torch.inference_mode(False), torch.enable_grad():
            at = t.detach().clone().requires_grad_()
            values = self.coefficients(at)
            return tuple(
                torch.autograd.grad(value.sum(), at)[0] if value.requires_grad else torch.zeros_like(t)
                for value in values
            )

    @property
    def n_params(self) -> int:
        """Number of parameters, images of the data's shape."""
        return len(self.names)

    def H(self, t: Tensor, phi: Tensor) -> Tensor:
        """H_t(phi), (B, C, *).

        Args:
            t: times, float64 () or (B,) on the CPU.
            phi: (B, n_params * C, *), the parameters one behind the other.
        """
        parts = phi.chunk(self.n_params, dim=1)
        shaped = (over(h.to(phi.device, phi.dtype), phi.ndim - h.ndim) for h in self.coefficients(t))
        return sum(h * part for h, part in zip(shaped, parts, strict=True))  # type: ignore[return-value]

    def parameters(self, x0: Tensor, drawn: Tensor | None = None) -> Tensor:
        """phi of an image and, where one is drawn, of K: (B, n_params * C, *); ValueError without that K."""
        if self.of_drawn is None:
            return torch.cat([m * x0 for m in self.of_data], dim=1)
        if drawn is None:
            raise ValueError(f"attenuation {self.name} draws an image with the data: give drawn")
        return torch.cat([m * x0 + k * drawn for m, k in self.shares], dim=1)

    @cached_property
    def shares(self) -> tuple[tuple[float, float], ...]:
        """(m_j, k_j) of each parameter."""
        return tuple(zip(self.of_data, self.of_drawn or (0.0,) * self.n_params, strict=True))

    def signal(self, t: Tensor) -> Tensor:
        """What is left of the image, 1 + sum h_j m_j: the signal level of u_t."""
        return 1.0 + self._weighted(self.coefficients(t), self.of_data)

    def signal_rate(self, t: Tensor) -> Tensor:
        """The derivative of `signal`."""
        return self._weighted(self.rates(t), self.of_data)

    def drawn_signal(self, t: Tensor) -> Tensor:
        """What there is of K in u_t, sum h_j k_j; it vanishes at both ends."""
        return self._weighted(self.coefficients(t), self.of_drawn or (0.0,) * self.n_params)

    @staticmethod
    def _weighted(values: tuple[Tensor, ...], weights: tuple[float, ...]) -> Tensor:
        return sum(weight * value for value, weight in zip(values, weights, strict=True))  # type: ignore[return-value]

    @cached_property
    def drawn_variance(self) -> float:
        """The variance of unit noise that is held in [-bound, bound]; 0.516 for a bound of one."""
        b = self.bound
        density = math.exp(-0.5 * b * b) / math.sqrt(2.0 * math.pi)
        return math.erf(b / math.sqrt(2.0)) - 2.0 * b * density + b * b * math.erfc(b / math.sqrt(2.0))

    @cached_property
    def inverse(self) -> tuple[tuple[float, ...], ...]:
        """The weights of the parameters that give x0 back and, behind them, those that give K.

        Of more parameters than images, those of the smallest sum of squares.
        """
        columns = [self.of_data] if self.of_drawn is None else [self.of_data, self.of_drawn]
        matrix = torch.tensor(columns, dtype=torch.float64).T
        square = matrix.shape[0] == matrix.shape[1]
        found = torch.linalg.inv(matrix) if square else torch.linalg.pinv(matrix)
        return tuple(tuple(row) for row in found.tolist())

    def check(self) -> None:
        """Refuse a function that does not take every image to zero.

        Raises:
            ConfigError: unless u_0 = x0, x0 + H_1 = 0 for all images, and the parameters say what the image was.
        """
        where = f"process.attenuation={type(self).__name__}"
        sizes = {len(self.of_data), self.n_params, len(self.of_drawn or self.of_data)}
        if len(sizes) != 1 or len(self.coefficients(torch.tensor(0.5, dtype=torch.float64))) not in sizes:
            raise ConfigError(f"{where}: names, of_data, of_drawn and coefficients need one entry for each parameter")
        t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
        left, drawn = self.signal(t), self.drawn_signal(t)
        if not abs(float(left[-1])) <= _ROUNDING:
            raise ConfigError(f"{where}: x0 + H_1 must be 0, but 1 + sum h_j(1) m_j = {float(left[-1]):g}")
        if not abs(float(drawn[-1])) <= _ROUNDING:
            raise ConfigError(f"{where}: x0 + H_1 must be 0, but sum h_j(1) k_j = {float(drawn[-1]):g}")
        if not max(abs(float(left[0]) - 1.0), abs(float(drawn[0]))) <= _ROUNDING:
            raise ConfigError(f"{where}: H_0 must be 0, so that u_0 is the image: let every h_j(0) be 0")
        if not bool((left[:-1] > 0.0).all()):
            first = float(t[int((left > 0.0).logical_not().nonzero()[0])])
            raise ConfigError(f"{where}: nothing is left of the image at t = {first:g} already; it must last until 1")
        matrix = torch.tensor(self.shares, dtype=torch.float64)
        if int(torch.linalg.matrix_rank(matrix)) < (1 if self.of_drawn is None else 2):
            raise ConfigError(f"{where}: of_data and of_drawn do not tell image and drawn image apart")


class Constant(Attenuation):
    """H_t = C t with C = -x0: the image fades at constant speed."""

    name = "const"
    of_data = (-1.0,)

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return (t,)


class Linear(Attenuation):
    """H_t = K t^2 / 2 + C t with a drawn K and C = -x0 - K / 2: a speed that changes at a constant, random rate."""

    name = "linear"
    names = ("K", "C")
    of_data = (0.0, -1.0)
    of_drawn = (1.0, -0.5)

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return 0.5 * t.square(), t


class Quadratic(Attenuation):
    """H_t = C t^2 / 2 with C = -2 x0: the image fades the faster the later (DiffusionEdge's code)."""

    name = "quadratic"
    of_data = (-2.0,)

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return (0.5 * t.square(),)
