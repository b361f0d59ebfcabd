"""Samplers against closed forms: Gaussian data have an exact denoiser, an exact flow and exact moments."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.form import Form
from diffexp.prediction.wrapper import Clipped
from diffexp.process.combination import Combination
from diffexp.process.cosine import Cosine
from diffexp.process.vp import VP
from diffexp.sampler.grid import Power, Uniform
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise, KeyedNoise

MEAN, STD = 0.3, 0.5
STEPPERS = {"ddim": DDIM, "ddpm": Ancestral, "heun": Heun}


class DataOracle(Denoiser):
    """A denoiser that states the data; the noise follows."""

    def form(self, marginal):
        return Form(marginal, data=Combination({1: marginal.signal.identity()}))

    def parts(self, u, point, conditions=None):
        self.evaluations += len(u)
        return u, self.data(u, point.marginal)


class GaussianOracle(DataOracle):
    """The exact posterior mean for data N(MEAN, STD^2), pixel by pixel."""

    def data(self, u, marginal):
        alpha, sigma = marginal.signal.value, marginal.factor.value
        gain = STD**2 * alpha / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (u - alpha * MEAN)


def run(process, name, nfe, start, grid=None, steps=(), clip=False):
    sampler = Sampler(name, STEPPERS[name](), grid or Uniform(t_end=0.1), clip)
    return sampler.sample(GaussianOracle(process), FixedNoise(start, steps), nfe)


def exact_flow(process, start: Tensor, t_end: float) -> Tensor:
    """The probability flow of Gaussian data from t_max to t_end (PD specification, identity 8)."""
    t, s = torch.tensor([process.t_max, t_end], dtype=torch.float64)
    (at, lt), (as_, ls) = ((process.signal(x).value, process.factor(x).value) for x in (t, s))
    scale = ((as_**2 * STD**2 + ls**2) / (at**2 * STD**2 + lt**2)).sqrt()
    return as_ * MEAN + (start - at * MEAN) * scale


# Started at log-SNR -20 the first step of the cosine process is so long in sigma / alpha that its own error, of higher
# order here, hides the asymptotic one; a milder prior shows the order.
@pytest.mark.parametrize("process", [VP(beta_max=5.0), Cosine(logsnr_min=-4.0)], ids=["vp", "cosine"])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1.0), ("heun", 2.0)])
def test_global_error_falls_with_the_declared_order(process, name, order):
    start = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    exact = exact_flow(process, start, 0.1)
    budgets = (159, 319, 639) if name == "heun" else (80, 160, 320)
    errors = [float((run(process, name, nfe, start).images - exact).abs().max()) for nfe in budgets]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.1)
    assert errors[-1] > 1e-9  # not exact by accident: there is an error to fall


def test_ddim_on_standard_normal_data_is_a_product_of_cosines():
    """x^ = alpha z: every step multiplies by cos(angle step), the last one by alpha (PD specification, identity 7)."""

    class Unit(DataOracle):
        def data(self, u, marginal):
            return marginal.signal.apply(u)

    process, n = Cosine(), 7
    start = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    sampler = Sampler("ddim", DDIM(), Uniform(last="data"))
    images = sampler.sample(Unit(process), FixedNoise(start), n).images
    low, high = process.angle(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    step = (high - low) / n
    torch.testing.assert_close(images, start * math.cos(step) ** (n - 1) * math.cos(step + low), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(STEPPERS))
@pytest.mark.parametrize("process", [VP(), Cosine()], ids=["vp", "cosine"])
def test_point_mass_data_are_recovered_exactly_on_any_grid(process, name):
    class Dirac(DataOracle):
        def data(self, u, marginal):
            return torch.full_like(u, 0.7)

    start = torch.tensor([[-1.3, 0.2, 2.0]], dtype=torch.float64)
    grid = Power(p=3.0, t_end=1e-3)
    sampler = Sampler(name, STEPPERS[name](), grid)
    draws = [torch.full_like(start, 0.4)] * 9
    images = sampler.sample(Dirac(process), FixedNoise(start, draws), 5).images
    end = process.marginal(torch.tensor(1e-3, dtype=torch.float64))
    if name == "ddpm":
        assert float((images - 0.7 * end.signal.value).abs().max()) < 4 * float(end.factor.value)
    else:
        first = process.marginal(torch.tensor(1.0, dtype=torch.float64))
        noise = (start - first.signal.value * 0.7) / first.factor.value
        torch.testing.assert_close(images, end.perturb(torch.full_like(start, 0.7), noise), rtol=0, atol=1e-11)


def test_ancestral_moments_follow_the_exact_recursion():
    """Mean and variance of the sampler's output, from its own coefficients, against 40,000 samples."""
    process, nfe = VP(), 6
    sampler = Sampler("ddpm", Ancestral(), Uniform(t_end=0.1))
    times = sampler.times(process, nfe)
    mean, variance = 0.0, 1.0
    for t, s in pairwise(times):
        a, sigma2 = float(process.signal(t).value), float(process.factor(t).value) ** 2
        b, tau2 = float(process.signal(s).value), float(process.factor(s).value) ** 2
        ratio = (a / b) ** 2 * tau2 / sigma2  # SNR_t / SNR_s
        gain = STD**2 * a / (a**2 * STD**2 + sigma2)
        # Bayes' rule written out: u_s = r (b/a) u_t + (1 - r) b x^ + sqrt((1 - r) tau2) z
        slope = ratio * b / a + (1 - ratio) * b * gain
        mean = slope * mean + (1 - ratio) * b * MEAN * (1 - gain * a)
        variance = slope**2 * variance + (1 - ratio) * tau2
    noise = KeyedNoise(3, range(100), (400,), dtype=torch.float64)
    images = sampler.sample(GaussianOracle(process), noise, nfe).images
    assert float(images.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / 40_000))
    assert float(images.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 40_000))


@pytest.mark.parametrize("name", list(STEPPERS))
@pytest.mark.parametrize("last", ["state", "data"])
def test_declared_evaluations_are_the_counted_ones_for_every_budget(name, last):
    sampler = Sampler(name, STEPPERS[name](), Power(t_end=1e-3, last=last))
    for nfe in range(1, 51):
        oracle = GaussianOracle(VP())
        noise = KeyedNoise(0, [0, 1, 2], (1, 2, 2))
        if name == "heun" and nfe % 2 == 0:
            with pytest.raises(ConfigError, match=f"choose {nfe - 1} or {nfe + 1}"):
                sampler.sample(oracle, noise, nfe)
        else:
            assert sampler.sample(oracle, noise, nfe).nfe == nfe
            assert oracle.evaluations == 3 * nfe


def test_nearest_budget_is_the_largest_that_fits():
    heun = Sampler("heun", Heun(), Uniform())
    assert [heun.nearest_nfe(nfe) for nfe in (1, 2, 10, 50)] == [1, 1, 9, 49]
    with pytest.raises(ConfigError, match="nfe=10 is not reachable with sampler heun: choose 9 or 11"):
        heun.steps(10)
    with pytest.raises(ConfigError, match="choose 1"):
        heun.steps(0)


def test_a_sampler_that_miscounts_is_caught():
    class Double(GaussianOracle):
        def parts(self, u, point, conditions=None):
            super().parts(u, point)
            return super().parts(u, point)

    with pytest.raises(SamplingError, match="declared 4 evaluations an image, used 8"):
        Sampler("ddim", DDIM(), Uniform(t_end=0.1)).sample(Double(VP()), KeyedNoise(0, [0], (1, 2, 2)), 4)


def test_a_sampler_refuses_a_prediction_that_lacks_what_it_needs():
    oracle = GaussianOracle(VP())
    oracle.gives = frozenset({"noise"})
    with pytest.raises(ConfigError, match="sampler ddim needs data"):
        Sampler("ddim", DDIM(), Uniform()).sample(oracle, KeyedNoise(0, [0], (1, 2, 2)), 4)


def test_last_data_hands_over_the_estimate_of_the_last_evaluation():
    start = torch.tensor([[0.5]], dtype=torch.float64)
    process = VP()
    for name in ("ddim", "heun"):
        sampler = Sampler(name, STEPPERS[name](), Uniform(t_end=0.2, last="data"))
        result = sampler.sample(GaussianOracle(process), FixedNoise(start), 1)
        one = process.marginal(torch.tensor(1.0, dtype=torch.float64))
        alpha, sigma = one.signal.value, one.factor.value
        expected = MEAN + STD**2 * alpha / (alpha**2 * STD**2 + sigma**2) * (start - alpha * MEAN)
        torch.testing.assert_close(result.images, expected, rtol=1e-13, atol=0)


def test_clipping_derives_the_noise_again():
    class Far(DataOracle):
        def data(self, u, marginal):
            return torch.full_like(u, 3.0)

    process = VP()
    u = torch.tensor([[2.0]], dtype=torch.float64)
    clipped = Clipped(Far(process))
    (point,) = clipped.prepare(torch.tensor([0.5], dtype=torch.float64), torch.float64, "cpu")
    prediction = clipped(u, point)
    assert float(prediction.data) == 1.0
    marginal = process.marginal(torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(marginal.perturb(prediction.data, prediction.noise), u, rtol=1e-13, atol=0)
    assert clipped.evaluations == 1


def test_images_do_not_depend_on_the_batch():
    sampler = Sampler("ddpm", Ancestral(), Power(t_end=1e-3))

    def images(size: int) -> Tensor:
        parts = [
            sampler.sample(GaussianOracle(VP()), KeyedNoise(1, range(i, min(i + size, 20)), (1, 4, 4)), 10).images
            for i in range(0, 20, size)
        ]
        return torch.cat(parts)

    assert torch.equal(images(7), images(20))
    assert float(images(20).std()) > 0.1


def test_grids_end_where_they_say_and_are_the_published_ones():
    process = VP()
    times = Power(p=2.0, t_end=1e-3).times(process, 4)
    expected = [(1.0 + (math.sqrt(1e-3) - 1.0) * k / 4) ** 2 for k in range(5)]
    assert times.tolist() == pytest.approx(expected, abs=1e-15)
    assert times[0] == 1.0
    assert times[-1] == 1e-3
    assert Uniform().times(process, 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ConfigError, match=r"grid.t_end=1.5"):
        Uniform(t_end=1.5).times(process, 4)
    with pytest.raises(ConfigError, match=r"grid.p=0"):
        Power(p=0.0)


def test_no_noise_is_drawn_where_its_coefficient_vanishes():
    """The last ancestral step onto the data has no noise: three steps draw twice."""
    drawn = []

    class Source(FixedNoise):
        def step(self, k):
            drawn.append(k)
            return torch.ones(1, 1)

    sampler = Sampler("ddpm", Ancestral(), Uniform())
    sampler.sample(GaussianOracle(VP()), Source(torch.ones(1, 1, dtype=torch.float64)), 3)
    assert drawn == [0, 1]
