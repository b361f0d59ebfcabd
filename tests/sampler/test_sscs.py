"""The symmetric splitting of the reverse process: its parts, exact moments, order, and what it keeps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.blurring import GDDIMBlurring
from diffexp.process.cld import CLD
from diffexp.process.cosine import Cosine
from diffexp.process.ve import VE
from diffexp.process.vp import VP
from diffexp.sampler.euler import EulerMaruyama
from diffexp.sampler.grid import QuadraticStriding, Uniform
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.sscs import SSCS
from tests.sampler.affine import moments

FLIP = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
MEAN, STD = 0.3, 0.5
END = 0.01
QUADRATIC = QuadraticStriding(t_end=END)


def matrix(operator) -> Tensor:
    """An operator at one time as a matrix."""
    return operator.value.reshape(1, 1) if hasattr(operator, "value") else operator.values


def gaussian(process) -> Mixture:
    return Mixture(process, [1.0], [MEAN], [STD])


@pytest.mark.parametrize("process", [CLD(), CLD(m_inv=3.0, beta0=0.1, beta1=6.9)], ids=["constant", "linear"])
@pytest.mark.parametrize("h", [1.0, 1e-2, 1e-7])
def test_a_half_is_the_forward_process_with_its_velocity_turned_round(process, h):
    """That is what a Langevin process at rest looks like backwards; its noise keeps 13 digits in the shortest steps."""
    times = torch.tensor([1.0, 1.0 - h], dtype=torch.float64)
    plan = SSCS().plan(process, times, "state")
    middle = times.mean()
    for (mean, noise), t, s in ((plan.first, times[0], middle), (plan.second, middle, times[1])):
        forward = process.transition_factor(t, s).values
        expected = torch.linalg.cholesky(FLIP @ forward @ forward.mT @ FLIP)
        turned = FLIP @ process.transition(t, s).values @ FLIP
        torch.testing.assert_close(mean[0].values, turned, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(noise[0].values, expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("process", [VP(), Cosine()], ids=lambda process: process.name)
def test_a_half_is_the_forward_process_itself_on_scalar_ones(process):
    """Also where the signal is gone."""
    times = torch.linspace(1.0, 0.1, 8, dtype=torch.float64)
    plan, middle = SSCS().plan(process, times, "state"), 0.5 * (times[:-1] + times[1:])
    for (mean, noise), t, s in ((plan.first, times[:-1], middle), (plan.second, middle, times[1:])):
        torch.testing.assert_close(mean.value, process.transition(t, s).value, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(noise.value, process.transition_factor(t, s).value, rtol=1e-13, atol=0.0)


def dense_half(process, law: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a half, by a matrix exponential: rates are linear in t, so that the middle is exact."""
    middle = 0.5 * (t + s)
    drift, noise = matrix(process.drift(middle)), matrix(process.diffusion(middle).covariance())
    mean = torch.linalg.matrix_exp((s - t) * (drift + noise @ law.inverse()))
    return mean, law - mean @ law @ mean.T


def dense_moments(process, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a pixel after the splitting's steps, for Gaussian data."""
    law = matrix(process.stationary_factor().covariance())
    mean, spread = torch.zeros(len(law), dtype=torch.float64), law
    for t, s in pairwise(times):
        signal, noise = matrix(process.signal(t)), matrix(process.diffusion(t).covariance())
        known = signal @ matrix(process.data_covariance(STD)) @ signal.T + matrix(process.factor(t).covariance())
        pull = (t - s) * noise @ known.inverse()
        kick = torch.eye(len(law), dtype=torch.float64) + (t - s) * noise @ law.inverse() - pull
        (first, fresh), (second, fresh_) = (
            dense_half(process, law, *ends) for ends in ((t, 0.5 * (t + s)), (0.5 * (t + s), s))
        )
        mean = second @ (kick @ first @ mean + pull @ signal[:, 0] * MEAN)
        spread = second @ kick @ (first @ spread @ first.T + fresh) @ kick.T @ second.T + fresh_
    return mean, spread


LINEAR = CLD(m_inv=2.0, beta0=0.1, beta1=6.9)


@pytest.mark.parametrize("process", [CLD(), LINEAR, VP()], ids=["cld", "linear", "vp"])
def test_moments_are_those_of_the_two_parts(process):
    for grid in (Uniform(t_end=END), QUADRATIC):
        mean, spread = moments(SSCS(), grid, gaussian(process), 7)
        expected = dense_moments(process, grid.times(process, 7))
        torch.testing.assert_close(mean, expected[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(spread, expected[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("process", [CLD(), CLD(beta0=0.1, beta1=6.9), VP()], ids=["cld", "linear", "vp"])
def test_moments_converge_with_order_one(process):
    found = {n: _flat(SSCS(), process, n) for n in (100, 200, 400)}
    error = {n: float((found[n] - found[2 * n]).abs().max()) for n in (100, 200)}
    assert math.log2(error[100] / error[200]) == pytest.approx(1.0, abs=0.15)
    limit = 2.0 * found[400] - found[200]
    euler = moments(EulerMaruyama(), QUADRATIC, gaussian(process), 400)
    assert (torch.cat([euler[0], euler[1].flatten()]) - limit).abs().max() < 0.01  # another way to the same law


def _flat(stepper, process, n: int) -> Tensor:
    mean, spread = moments(stepper, QUADRATIC, gaussian(process), n)
    return torch.cat([mean, spread.flatten()])


@pytest.mark.parametrize(("process", "law"), [(CLD(gamma=1.0, eps=0.0), [1.0, 0.25]), (VP(), [1.0])], ids=["cld", "vp"])
@pytest.mark.parametrize("n", [1, 5])
def test_data_at_rest_stay_as_they_are_in_steps_of_any_size(process, law, n):
    """Where the score is that of the stationary law nothing is left to be learned, and no step is too long."""
    mean, spread = moments(SSCS(), Uniform(t_end=END), Mixture(process, [1.0], [0.0], [1.0]), n)
    assert mean.tolist() == [0.0] * len(law)
    torch.testing.assert_close(spread, torch.diag(torch.tensor(law, dtype=torch.float64)), rtol=1e-12, atol=1e-13)
    coarse = moments(EulerMaruyama(), Uniform(t_end=END), Mixture(process, [1.0], [0.0], [1.0]), n)[1]
    assert (coarse - spread).abs().max() > 0.05


def test_the_first_half_again_is_the_same_for_a_constant_beta_only():
    own, first = (SSCS(second_half=which) for which in ("own", "first"))
    steady, growing = gaussian(CLD()), gaussian(CLD(beta0=0.1, beta1=6.9))
    same = [moments(stepper, QUADRATIC, steady, 10)[1] for stepper in (own, first)]
    torch.testing.assert_close(*same, rtol=1e-11, atol=1e-13)
    other = [moments(stepper, QUADRATIC, growing, 10)[1] for stepper in (own, first)]
    assert (other[0] - other[1]).abs().max() > 1e-3


def test_every_step_draws_twice_and_evaluates_once():
    """Draws are numbered through; the image itself stays the same in any company."""
    process, asked = CLD(), []

    class Listed(FixedNoise):
        def step(self, k: int) -> Tensor:
            asked.append(k)
            return super().step(k)

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 3, 2, 2, 2, dtype=torch.float64, generator=generator)
    oracle, sampler = gaussian(process), Sampler("sscs", SSCS(), Uniform(t_end=END, last="denoise_em"))
    together = sampler.sample(oracle, Listed(z[0], z[1:]), 5).images
    assert asked == list(range(8))
    assert oracle.evaluations == 15
    alone = sampler.sample(oracle, FixedNoise(z[0, 1:2], z[1:, 1:2]), 5).images
    torch.testing.assert_close(alone, together[1:2], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("process", [VE(), GDDIMBlurring().on((1, 4, 4))], ids=lambda process: process.name)
def test_a_process_that_keeps_no_law_is_refused(process):
    with pytest.raises(ConfigError, match=f"sscs splits around a law that the process keeps, and {process.name} has"):
        SSCS().plan(process, torch.linspace(0.9, 0.1, 4, dtype=torch.float64), "state")


@pytest.mark.parametrize("process", [CLD(beta0=0.1, beta1=6.9), VP(), Cosine()], ids=lambda process: process.name)
def test_what_a_process_keeps_is_stationary(process):
    """F S + S F^T + G G^T = 0."""
    law = process.stationary_factor().covariance()
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64):
        drift, noise = matrix(process.drift(t) @ law), matrix(process.diffusion(t).covariance())
        torch.testing.assert_close(drift + drift.T, -noise, rtol=1e-12, atol=1e-14)
