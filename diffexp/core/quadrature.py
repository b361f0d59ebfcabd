"""Gauss-Legendre quadrature in float64."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=16)
def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of n points on [0, 1], float64 (n,) each; exact for polynomials of degree 2 n - 1.

    They are shared: do not write into them.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 * (nodes + 1.0)), torch.from_numpy(0.5 * weights)
