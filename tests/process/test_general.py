"""The general formulas of `Process` on states of two halves and on frequencies, against dense Gaussian conditioning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffexp.process.base import FactorKind, Process
from diffexp.process.block import Block
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Operator, Scalar

SHAPE = (2, 3, 4)
SIZE = 24
PRIOR = torch.diag(torch.tensor([1.0, 0.25], dtype=torch.float64))  # the stationary covariance of `Langevin`


class Given(Process):
    """A process made of its marginal alone."""

    def drift(self, t: Tensor) -> Operator:
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Operator:
        raise NotImplementedError

    def prior_factor(self, t: Tensor | None = None) -> Operator:
        return Scalar(1.0)

    def log_snr(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        raise NotImplementedError


class Langevin(Given):
    """Critically damped Langevin of mass 1/4 with beta = 4: du = F u dt + G dw, F = [[0, 16], [-4, -16]]."""

    name = "langevin"

    def transition(self, t: Tensor, s: Tensor) -> Block:
        b = 4.0 * (t - s)
        rows = [torch.stack([1 + 2 * b, 4 * b], -1), torch.stack([-b, 1 - 2 * b], -1)]
        return (-2 * b).exp() * Block(torch.stack(rows, -2))

    def signal(self, t: Tensor) -> Operator:
        return self.transition(t, torch.zeros_like(t))

    def factor(self, t: Tensor, kind: FactorKind = "R") -> Operator:
        start = torch.diag(torch.tensor([1e-6, 0.01], dtype=torch.float64))
        moved = self.signal(t) @ Block(start - PRIOR) @ self.signal(t).transpose()
        return (moved + Block(PRIOR)).factor()


class Blurring(Given):
    """A signal that is damped faster the higher the frequency, below white noise."""

    name = "blurring"

    def signal(self, t: Tensor) -> Operator:
        rows, columns = torch.arange(3.0, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
        frequency = rows[:, None] ** 2 + columns**2
        return Diagonal(torch.exp(-t[..., None, None] * (1.0 + 0.2 * frequency)))

    def factor(self, t: Tensor, kind: FactorKind = "R") -> Operator:
        return Scalar((-torch.expm1(-2 * t)).sqrt())

    def transition(self, t: Tensor, s: Tensor) -> Operator:
        return self.signal(t) @ self.signal(s).inverse()


PROCESSES = [Langevin(), Blurring()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=[process.name for process in PROCESSES])
S = torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64)
T = torch.tensor([0.11, 0.45, 0.9], dtype=torch.float64)


def dense(operator: Operator) -> Tensor:
    """(n, SIZE, SIZE): the matrices of a batch of operators, by their columns."""
    basis = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)
    return torch.stack([operator[k].apply(basis).reshape(SIZE, SIZE).T for k in range(len(S))])


def test_langevin_is_the_linear_equation_it_says():
    """Psi = expm(F (t - s)) and d Sigma / dt = F Sigma + Sigma F^T + G G^T."""
    process, h = Langevin(), 1e-5
    drift = torch.tensor([[0.0, 16.0], [-4.0, -16.0]], dtype=torch.float64)
    added = torch.diag(torch.tensor([0.0, 8.0], dtype=torch.float64))
    torch.testing.assert_close(
        process.transition(T, S).values, torch.linalg.matrix_exp((T - S)[:, None, None] * drift), rtol=1e-12, atol=1e-13
    )
    covariances = [process.factor(T + x).covariance().values for x in (-h, 0.0, h)]
    rate = drift @ covariances[1] + covariances[1] @ drift.T + added
    torch.testing.assert_close((covariances[2] - covariances[0]) / (2 * h), rate, rtol=1e-7, atol=1e-7)


@every_process
def test_noise_between_two_times(process):
    added = dense(process.transition_factor(T, S))
    psi = dense(process.transition(T, S))
    low, high = dense(process.factor(S).covariance()), dense(process.factor(T).covariance())
    torch.testing.assert_close(added @ added.mT, high - psi @ low @ psi.mT, rtol=1e-11, atol=1e-13)
    assert float(added.diagonal(dim1=1, dim2=2).min()) > 1e-3


@every_process
def test_posterior_is_dense_gaussian_conditioning(process):
    """u_s given u_t from the joint covariance [[S_s, S_s Psi^T], [Psi S_s, S_t]]."""
    keep, fresh = (dense(part) for part in process.posterior(T, S))
    psi, factor = dense(process.transition(T, S)), dense(process.factor(T))
    low, high = dense(process.factor(S).covariance()), dense(process.factor(T).covariance())
    gain = torch.linalg.solve(high, psi @ low).mT
    torch.testing.assert_close(keep, gain @ factor, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fresh @ fresh.mT, low - gain @ psi @ low, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(keep @ keep.mT + fresh @ fresh.mT, low, rtol=1e-10, atol=1e-12)
    assert float(fresh.diagonal(dim1=1, dim2=2).min()) > 1e-3


@every_process
def test_states_are_perturbed_in_any_type(process):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    law = process.marginal(T)
    wanted = process.signal(T).apply(x0) + process.factor(T).apply(noise)
    torch.testing.assert_close(law.perturb(x0, noise), wanted, rtol=1e-13, atol=1e-13)
    low = law.cast(torch.float32, "cpu").perturb(x0.float(), noise.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), wanted, rtol=1e-5, atol=1e-5)
    one = law[1].cast(torch.float32, "cpu").perturb(x0[1:2].float(), noise[1:2].float())
    torch.testing.assert_close(one.double(), wanted[1:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        law.cast(torch.float32, "cpu").minus_factor.apply(noise.float()).double(),
        -process.factor(T).apply(noise), rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_volume_of_a_transition():
    """log det Psi = trace(F) (t - s) for every pixel: -16 for each pair of position and velocity."""
    found = Langevin().transition(T, S).log_det(SHAPE)
    torch.testing.assert_close(found, -16.0 * (T - S) * SIZE / 2, rtol=1e-10, atol=0)
    assert math.prod(SHAPE) == SIZE
