"""Coefficients of exponential integrators on any linear process, exact up to Gauss-Legendre quadrature (gDDIM).

For a step from s to t < s and polynomials l_j through known nodes,

    C_j = int_s^t Psi(t, tau) G G^T K_tau^-T l_j(tau) / 2 dtau                                    (gDDIM, eq. 19)

With K = R the integrand is d/dtau [Psi(t, tau) R_tau] l_j, so that by parts

    C_j = l_j(t) R_t - l_j(s) Psi(t, s) R_s - int_s^t l_j'(tau) Psi(t, tau) R_tau dtau

where nothing is inverted, and order one (l_0 = 1) needs no integral at all. The variable of integration is sqrt(tau):
R grows like it near the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffexp.core.quadrature import gauss_legendre
from diffexp.process.base import FactorKind, Process
from diffexp.process.operator import Operator
from diffexp.sampler.lagrange import basis, basis_rate, windows

_NODES = 48


def coefficients(process: Process, times: Tensor, first: int, degree: int, kind: FactorKind = "R") -> list[Operator]:
    """C_j of all n steps, newest node first: degree + 1 operators, each a batch of n; zero for unknown nodes.

    Args:
        process: the forward process.
        times: n + 1 decreasing times, float64.
        first, degree: see `lagrange.windows`.
        kind: the factor K in which the noise is expressed.
    """
    nodes, known = windows(times, first, degree)
    if kind == "R":
        return _by_parts(process, times, nodes, known)
    return _direct(process, times, nodes, known, kind)


def data_coefficients(
    process: Process, times: Tensor, first: int, degree: int, level: Callable[[Tensor], Operator]
) -> list[Operator]:
    """D_j of all n steps in the data form, u_t = R_t R_s^-1 u_s + sum_j D_j x_j; otherwise as for `coefficients`.

    The flow is d(R^-1 u) = x^ d(R^-1 A), so that D_j = R_t int_s^t l_j(tau) d(R_tau^-1 A_tau), again by parts:

        D_j = l_j(t) A_t - l_j(s) R_t R_s^-1 A_s - R_t int_s^t l_j'(tau) R_tau^-1 A_tau dtau

    It stays finite where there is no signal (A_s = 0), and the integral vanishes at the data with R_t.

    Args:
        process, times, first, degree: see `coefficients`.
        level: A, or B for the part of a second image.
    """
    nodes, known = windows(times, first, degree)
    s, t = times[:-1], times[1:]
    factor = process.factor(t)
    end, start = level(t), factor @ process.factor(s).inverse() @ level(s)
    at_end, at_start = basis(nodes, known, t), basis(nodes, known, s)
    found = [at_end[:, j] * end - at_start[:, j] * start for j in range(nodes.shape[1])]
    if nodes.shape[1] == 1:
        return found
    for tau, weight in _points(s, t):
        flow = factor @ process.factor(tau).inverse() @ level(tau)
        rates = weight[:, None] * basis_rate(nodes, known, tau)
        found = [sum_ - rates[:, j] * flow for j, sum_ in enumerate(found)]
    return found


def _by_parts(process: Process, times: Tensor, nodes: Tensor, known: Tensor) -> list[Operator]:
    s, t = times[:-1], times[1:]
    end, start = process.factor(t, "R"), process.transition(t, s) @ process.factor(s, "R")
    at_end, at_start = basis(nodes, known, t), basis(nodes, known, s)
    found = [at_end[:, j] * end - at_start[:, j] * start for j in range(nodes.shape[1])]
    if nodes.shape[1] == 1:
        return found
    for tau, weight in _points(s, t):
        flow = process.transition(t, tau) @ process.factor(tau, "R")
        rates = weight[:, None] * basis_rate(nodes, known, tau)
        found = [sum_ - rates[:, j] * flow for j, sum_ in enumerate(found)]
    return found


def _direct(process: Process, times: Tensor, nodes: Tensor, known: Tensor, kind: FactorKind) -> list[Operator]:
    s, t = times[:-1], times[1:]
    found: list[Operator] | None = None
    for tau, weight in _points(s, t):
        pull = process.diffusion(tau).covariance() @ process.factor(tau, kind).transpose().inverse()
        flow = process.transition(t, tau) @ pull
        shares = 0.5 * weight[:, None] * basis(nodes, known, tau)
        terms = [shares[:, j] * flow for j in range(nodes.shape[1])]
        found = terms if found is None else [a + b for a, b in zip(found, terms, strict=True)]
    assert found is not None
    return found


def _points(s: Tensor, t: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(tau, weight) of the integrals from s to t, one point of all steps at a time: (n,) each."""
    low, high = s.clamp_min(0.0).sqrt(), t.clamp_min(0.0).sqrt()
    if bool((s < 0.0).any()):  # times below zero (tables) have no root: integrate in time itself
        return _spread(s, t, lambda w: w, torch.ones_like)
    return _spread(low, high, torch.square, lambda w: 2.0 * w)


def _spread(
    a: Tensor, b: Tensor, time: Callable[[Tensor], Tensor], rate: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    nodes, weights = gauss_legendre(_NODES)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        w = a + (b - a) * node
        yield time(w), weight * (b - a) * rate(w)
