"""Lagrange polynomials on the real (not equidistant) nodes of a multistep method."""

from __future__ import annotations

import torch
from torch import Tensor


def windows(times: Tensor, first: int, degree: int) -> tuple[Tensor, Tensor]:
    """The nodes of every step i = 0 .. n - 1, newest first: times[i + first], times[i + first - 1], ...

    Args:
        times: n + 1 decreasing times, float64.
        first: 0 for a predictor (the newest node is where the step starts), 1 for a corrector (where it ends).
        degree: of the polynomial, once enough nodes are known.

    Returns:
        (nodes, known), each (n, degree + 1); the first steps know fewer nodes, and what stands for the others is false
        in `known`.
    """
    n = len(times) - 1
    index = torch.arange(n)[:, None] + first - torch.arange(degree + 1)
    return times[index.clamp_min(0)], index >= 0


def basis(nodes: Tensor, known: Tensor, t: Tensor) -> Tensor:
    """l_j(t) of every step: float64 (n, degree + 1), zero for unknown nodes.

    Args:
        nodes, known: see `windows`.
        t: one time for each step, (n,).
    """
    return _products(nodes, known, t)[0]


def basis_rate(nodes: Tensor, known: Tensor, t: Tensor) -> Tensor:
    """dl_j/dt at one time for each step: as for `basis`."""
    return _products(nodes, known, t)[1]


def _products(nodes: Tensor, known: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(l_j, l_j') by the product rule, one factor (t - t_m) / (t_j - t_m) after the other."""
    value, rate = known.to(torch.float64), torch.zeros_like(nodes)
    for m in range(nodes.shape[1]):
        gap = nodes - nodes[:, m : m + 1]
        takes_part = known & known[:, m : m + 1] & (gap != 0.0)
        gap = torch.where(takes_part, gap, 1.0)
        factor = torch.where(takes_part, (t[:, None] - nodes[:, m : m + 1]) / gap, 1.0)
        slope = torch.where(takes_part, 1.0 / gap, 0.0)
        value, rate = value * factor, rate * factor + value * slope
    return value, rate
