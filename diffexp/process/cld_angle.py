"""The angle between gDDIM's factor R and the Cholesky factor L of critically damped Langevin diffusion.

Both are factors of Sigma, so R = L Rot(theta). Of dR/dt = (F + G G^T Sigma^-1 / 2) R only the upper right entry says
something about theta, as L and dL/dt are lower triangular:

    dtheta/db = -m_inv sqrt(det Sigma) / Sigma_xx,   theta = 0 at b = 0

(db = beta dt). What is left is one integral, here in w = sqrt(y), y = sqrt(m_inv) b.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.core.quadrature import gauss_legendre
from diffexp.process.block import Block
from diffexp.process.cld_covariance import Covariance, block

_NODES = 12
_HALVINGS = 120
"""Panels below y = 1. The integrand's singularities are at least 45 degrees off the axis, at distances that go with
powers of the start covariance; panels in a fixed ratio are far from all of them compared to their own length, however
small that covariance is, and 12 nodes give each to rounding."""


class Angle:
    """theta as a function of y.

    Args:
        covariance: Sigma at b, for a float64 tensor of any shape.
        m_inv: inverse mass.
        y_max: up to where the panels go.
    """

    def __init__(self, covariance: Callable[[Tensor], Covariance], m_inv: float, y_max: float) -> None:
        self._covariance = covariance
        self._speed = math.sqrt(m_inv)
        low = torch.tensor(2.0, dtype=torch.float64) ** torch.arange(-_HALVINGS, 1)
        high = torch.arange(2, math.ceil(y_max) + 1, dtype=torch.float64)
        self._edges = torch.cat([torch.zeros(1, dtype=torch.float64), low, high])
        panels = self._integral(self._edges[:-1], self._edges[1:])
        self._sums = torch.cat([torch.zeros_like(panels[:1]), panels.cumsum(0)])

    def __call__(self, y: Tensor) -> Tensor:
        """theta <= 0, radians, the shape of y >= 0."""
        panel = (torch.searchsorted(self._edges, y.contiguous(), right=True) - 1).clamp(0, len(self._edges) - 1)
        return self._sums[panel] + self._integral(self._edges[panel], y)

    def _integral(self, low: Tensor, high: Tensor) -> Tensor:
        nodes, weights = gauss_legendre(_NODES)
        start = low.sqrt()
        length = high.sqrt() - start
        w = torch.addcmul(start[..., None], length[..., None], nodes)
        sigma = self._covariance(w.square() / self._speed)
        rate = (w * sigma.det.sqrt() / sigma.xx) @ weights
        return torch.where(length > 0.0, -2.0 * self._speed * length * rate, 0.0)


def rotation(angle: Tensor) -> Block:
    """[[cos, -sin], [sin, cos]] at each time."""
    return block(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
