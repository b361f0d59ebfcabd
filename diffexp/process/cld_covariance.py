"""Covariances of critically damped Langevin diffusion, for one pixel's position x and velocity v.

With b = B(t) - B(s), c = sqrt(m_inv) and y = c b (both eigenvalues of the drift are -c beta)

    Psi = e^-y [[1 + y, m_inv b], [-b, 1 - y]]
    N = [[g, 2 y b e^-2y], [2 y b e^-2y, (g + 4 y e^-2y) / m_inv]],   g = P(3, 2 y)

are the propagation and the noise added meanwhile, P being the regularised lower incomplete gamma function. Near b = 0,
where N_xx ~ 4 y^3 / 3, polynomials times exponentials would have no digits left. For the same reason the determinant is
carried along instead of being taken from the entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.process.block import Block


@dataclass(frozen=True)
class Flow:
    """Psi = [[xx, xv], [vx, vv]] with its determinant; float64 tensors of one shape."""

    xx: Tensor
    xv: Tensor
    vx: Tensor
    vv: Tensor
    det: Tensor

    def matrix(self) -> Block:
        return block(self.xx, self.xv, self.vx, self.vv)

    def carry(self, xx: float, vv: float) -> Covariance:
        """Psi diag(xx, vv) Psi^T."""
        x, v = (xx * self.xx, xx * self.vx), (vv * self.xv, vv * self.vv)
        return Covariance(
            x[0] * self.xx + v[0] * self.xv,
            x[0] * self.vx + v[0] * self.vv,
            x[1] * self.vx + v[1] * self.vv,
            xx * vv * self.det**2,
        )


@dataclass(frozen=True)
class Covariance:
    """A symmetric non-negative 2x2 matrix with its determinant; float64 tensors of one shape."""

    xx: Tensor
    xv: Tensor
    vv: Tensor
    det: Tensor

    def __add__(self, other: Covariance) -> Covariance:
        mixed = self.xx * other.vv + self.vv * other.xx - 2.0 * self.xv * other.xv
        det = self.det + mixed + other.det
        return Covariance(self.xx + other.xx, self.xv + other.xv, self.vv + other.vv, det)

    def __rmul__(self, number: Tensor) -> Covariance:
        return Covariance(number * self.xx, number * self.xv, number * self.vv, number**2 * self.det)

    def widened(self, eps: float) -> Covariance:
        """self + eps I."""
        det = self.det + eps * (self.xx + self.vv) + eps**2
        return Covariance(self.xx + eps, self.xv, self.vv + eps, det)

    def under(self, flow: Flow) -> Covariance:
        """Psi self Psi^T."""
        a, b, c, d = flow.xx, flow.xv, flow.vx, flow.vv
        return Covariance(
            a**2 * self.xx + 2.0 * a * b * self.xv + b**2 * self.vv,
            a * c * self.xx + (a * d + b * c) * self.xv + b * d * self.vv,
            c**2 * self.xx + 2.0 * c * d * self.xv + d**2 * self.vv,
            flow.det**2 * self.det,
        )

    def matrix(self) -> Block:
        return block(self.xx, self.xv, self.xv, self.vv)

    def factor(self) -> Block:
        """The lower triangular L with L L^T = self; where xx = 0, which has xv = 0 beside it, that of vv alone."""
        some = self.xx > 0.0
        scale = torch.where(some, self.xx, 1.0)
        side = torch.where(some, self.xv * scale.rsqrt(), 0.0)
        low = torch.where(some, self.det / scale, self.vv).sqrt()
        return block(self.xx.sqrt(), torch.zeros_like(side), side, low)


def block(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Block:
    """[[a, b], [c, d]] at each time."""
    return Block(torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2))


def propagation(b: Tensor, m_inv: float) -> Flow:
    """Psi over b, which may be negative: then it goes back in time."""
    y = m_inv**0.5 * b
    fall = (-y).exp()
    return Flow(fall * (1.0 + y), fall * m_inv * b, -fall * b, fall * (1.0 - y), fall**2)


def added_noise(b: Tensor, m_inv: float) -> Covariance:
    """N over b >= 0."""
    y = m_inv**0.5 * b
    g = torch.special.gammainc(torch.full_like(y, 3.0), 2.0 * y)
    rise = 2.0 * y * (-2.0 * y).exp()
    xv, vv = rise * b, (g + 2.0 * rise) / m_inv
    return Covariance(g, xv, vv, g * vv - xv**2)


def parallel(first: Covariance, second: Covariance, total: Tensor) -> Covariance:
    """(first^-1 + second^-1)^-1, where `total` is the determinant of first + second."""
    # The adjugate of a sum of 2x2 matrices is the sum of theirs, so that no inverse and no difference is taken.
    found = (second.det / total) * first + (first.det / total) * second
    return Covariance(found.xx, found.xv, found.vv, first.det * second.det / total)
