"""Exact errors of samplers on Gaussian data against closed forms, and the exact denoiser in the words of every head."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.evaluation.law import END_POINT, measure
from diffexp.prediction.bridge import DDBM, I2SB
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.head import X0, Both, Eps, Score, V
from diffexp.prediction.langevin import PhaseEps, VelocityEps
from diffexp.prediction.oracle.gaussian import Gaussian, Voiced
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.prediction.preconditioned import EDM
from diffexp.prediction.two_head import SingleHead, TwoHead
from diffexp.process.attenuation import Constant, Linear, Quadratic
from diffexp.process.blurring import GDDIMBlurring
from diffexp.process.bridge_schedule import BridgeVP
from diffexp.process.cld import CLD
from diffexp.process.decoupled import Decoupled
from diffexp.process.ve import EDM as Levels
from diffexp.process.vp import VP
from diffexp.sampler.consistency import Consistency as Jumps
from diffexp.sampler.grid import Uniform
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler

PIXEL = (1, 1, 1)
MEAN, STD = 0.3, 0.5


def at(process, n: int = 20, end: float = 1e-3) -> torch.Tensor:
    return Uniform(end).times(process, n)


def levels(process, n: int = 20) -> tuple[list[float], list[float]]:
    times = at(process, n)
    return process.signal(times).value.tolist(), process.factor(times).value.square().tolist()


def test_the_error_of_ddim_is_a_product_of_cosines():
    """For data N(0, 1) a step multiplies by the cosine of its angle; the exact deviation is 1 throughout."""
    process = VP()
    alphas, deltas = levels(process)
    angles = [math.atan2(math.sqrt(delta), alpha) for alpha, delta in zip(alphas, deltas, strict=True)]
    left = math.prod(math.cos(a - b) for a, b in pairwise(angles))
    found = measure(Sampler("ddim", DDIM(), Uniform(1e-3)), Voiced(Gaussian(process, 0.0, 1.0), Eps()), PIXEL, 20)
    assert found.error == pytest.approx(1.0 - left, rel=1e-10)
    assert found.nfe == 20


def test_the_error_of_ddpm_follows_from_mean_and_variance():
    """V_s = k^2 V_t + c^2, k the step's gain on what is off the mean: Bayes' rule for u_s given u_t and x0 = x^."""
    process = VP()
    alphas, deltas = levels(process)
    variance, places = alphas[0] ** 2 * STD**2 + deltas[0], list(zip(alphas, deltas, strict=True))
    for (a, d), (b, e) in pairwise(places):
        beta = 1.0 - (a / b) ** 2
        whole = a * a * STD**2 + d
        data = a * STD**2 / whole
        gain = (b * beta * data + (a / b) * e) / d
        fresh = beta * e / d
        variance = gain**2 * variance + fresh
    exact = alphas[-1] ** 2 * STD**2 + deltas[-1]
    found = measure(Sampler("ddpm", Ancestral(), Uniform(1e-3)), Voiced(Gaussian(process, MEAN, STD), X0()), PIXEL, 20)
    assert found.error == pytest.approx(abs(math.sqrt(variance) - math.sqrt(exact)), rel=1e-9)


def test_blurring_is_measured_frequency_by_frequency():
    """DDIM on a frequency: the deviation is multiplied by b / a + (q - b / a s) s / (a^2 std^2 + s^2)."""
    shape = (1, 2, 2)
    process = GDDIMBlurring().on(shape)
    start, end = (torch.tensor(t, dtype=torch.float64) for t in (process.t_prior, 1e-3))
    a, b = (process.signal(t).values for t in (start, end))
    s, q = (process.factor(t).value for t in (start, end))
    first, last = (STD**2 * a**2 + s**2).sqrt(), (STD**2 * b**2 + q**2).sqrt()
    made = (b / a + (q - b / a * s) * s / first**2).abs() * first
    found = measure(Sampler("ddim", DDIM(), Uniform(1e-3)), Voiced(Gaussian(process, 0.0, STD), Eps()), shape, 1)
    assert found.error == pytest.approx(float((made - last).square().mean().sqrt()), rel=1e-9)


EVERYWHERE = [Eps(), Eps(mixed=True), Score(), X0(), V(), Both(), EDM()]
PLACES = [
    *((VP(), head, PIXEL) for head in EVERYWHERE),
    *((Levels(), head, PIXEL) for head in (Eps(), Score(), X0(), EDM())),
    *((CLD(), head, PIXEL) for head in (Eps(), PhaseEps(), PhaseEps(factor="cholesky", mixed="velocity"), X0())),
    *((GDDIMBlurring(), head, (1, 2, 3)) for head in (Eps(), X0(), Score())),
    *((Decoupled(Constant()), head, PIXEL) for head in (TwoHead(), TwoHead("v1"), SingleHead(), X0())),
    *((Decoupled(Quadratic(), "linear"), head, PIXEL) for head in (TwoHead(), TwoHead("none"), SingleHead())),
    *((BridgeVP(), head, PIXEL) for head in (DDBM(), DDBM(cov=0.1), I2SB())),
]


NAMES = [f"{process.name}-{head.name}-{k}" for k, (process, head, _) in enumerate(PLACES)]


@pytest.mark.parametrize(("process", "head", "shape"), PLACES, ids=NAMES)
def test_every_head_says_what_the_oracle_of_one_gaussian_knows(process, head, shape):
    """The mixture of one component is another way to the same means."""
    process = process.on(shape)
    voiced = Voiced(Gaussian(process, MEAN, STD), head)
    oracle = Mixture(process, [1.0], [MEAN], [STD], elementwise=shape == PIXEL, shape=shape)
    u = random.normal(0, "test/u", range(4), process.state_shape(shape)).double()
    given = Conditions(endpoint=torch.full((4, *shape), END_POINT).double()) if process.endpoint else NO_CONDITIONS
    for share in (0.05, 0.4, 0.9):
        t = torch.tensor([process.t_data + share * (process.t_prior - process.t_data)], dtype=torch.float64)
        said, known = (
            denoiser(u, denoiser.prepare(t, torch.float64, "cpu")[0], given) for denoiser in (voiced, oracle)
        )
        torch.testing.assert_close(said.data, known.data, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(said.noise, known.noise, rtol=1e-9, atol=1e-9)


def test_a_head_of_the_velocity_has_the_velocitys_score():
    process = CLD()
    u = random.normal(0, "test/u", range(3), (2, 1, 1)).double()
    t = torch.tensor([0.4], dtype=torch.float64)
    law = process.marginal(t)
    scores = []
    for head in (VelocityEps(), Eps()):
        voiced = Voiced(Gaussian(process, MEAN, STD), head)
        point = voiced.prepare(t, torch.float64, "cpu")[0]
        form = voiced.form(law)
        scores.append(form.score[0](voiced.parts(u, point)))
    torch.testing.assert_close(scores[0][:, 1], scores[1][:, 1], rtol=1e-9, atol=1e-12)


def test_a_drawn_image_is_known_by_regression():
    """E[K | u] = Cov(K, u) / Var(u) (u - E u), Cov(K, u) = kappa B; and data, noise and K explain the state."""
    process = Decoupled(Linear())
    kappa = process.attenuation.drawn_variance
    t = torch.tensor([0.3], dtype=torch.float64)
    a, b, s = (float(operator.value) for operator in (process.signal(t), process.auxiliary(t), process.factor(t)))
    u = torch.tensor([-1.0, 0.2, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    whole = a * a * STD**2 + kappa * b * b + s * s
    off = u - a * MEAN
    for head in (TwoHead(), SingleHead()):
        voiced = Voiced(Gaussian(process, MEAN, STD), head)
        point = voiced.prepare(t, torch.float64, "cpu")[0]
        said = voiced(u, point)
        drawn = voiced.form(process.marginal(t)).drawn[0](said.parts)
        torch.testing.assert_close(drawn, kappa * b / whole * off, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(said.data, MEAN + a * STD**2 / whole * off, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(a * said.data + b * drawn + s * said.noise, u, rtol=1e-9, atol=1e-12)


def test_the_end_is_where_a_consistency_function_jumps_to():
    """One jump on EDM's process: the flow maps the law at sigma onto that at t_min; several keep it up to t_min^2."""
    process, end = Levels(), 0.01
    voiced = Voiced(Gaussian(process, MEAN, STD), Consistency(EDM(), t_min=end))
    u = torch.tensor([-3.0, 0.4, 7.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    t = torch.tensor([5.0], dtype=torch.float64)
    said = voiced(u, voiced.prepare(t, torch.float64, "cpu")[0]).jump
    shrunk = math.sqrt((STD**2 + end**2) / (STD**2 + 25.0))
    torch.testing.assert_close(said, MEAN + shrunk * (u - MEAN), rtol=1e-9, atol=1e-12)
    sampler = Sampler("consistency", Jumps(), Uniform(end))
    assert measure(sampler, voiced, PIXEL, 1).error < 1e-12
    assert measure(sampler, voiced, PIXEL, 5).error < 2.0 * end**2 / STD


def test_what_does_not_fit_is_refused_before_anything_is_sampled():
    voiced = Voiced(Gaussian(CLD(), MEAN, STD), VelocityEps())
    with pytest.raises(ConfigError, match="sampler ddim needs data, noise, the prediction gives"):
        measure(Sampler("ddim", DDIM(), Uniform()), voiced, PIXEL, 10)
    with pytest.raises(ConfigError, match=r"prediction=v needs alpha\^2"):
        Voiced(Gaussian(Levels(), MEAN, STD), V())
