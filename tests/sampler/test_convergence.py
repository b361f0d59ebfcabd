"""Orders of convergence on a mixture of Gaussians, whose flow is known; moments and settings of stochastic steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cosine import Cosine
from diffexp.process.vp import VP
from diffexp.sampler.euler import Euler, EulerMaruyama
from diffexp.sampler.grid import Grid, Uniform
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise, KeyedNoise

WEIGHTS, MEANS, STDS = [0.3, 0.7], [-0.6, 0.5], [0.15, 0.2]


class Between(Grid):
    """Uniform from one time to another."""

    name = "between"

    def __init__(self, start: float, end: float) -> None:
        super().__init__(end)
        self.start = start

    def times(self, process, n):
        return torch.linspace(self.start, self.t_end, n + 1, dtype=torch.float64)

    _times = None


Between.__abstractmethods__ = frozenset()


def levels(process, time: float) -> tuple[float, float]:
    """(alpha, sigma)."""
    t = torch.tensor(time, dtype=torch.float64)
    return float(process.signal(t).value), float(process.factor(t).value)


def quantile_flow(process, u: Tensor, t: float, s: float) -> Tensor:
    """The probability flow in one dimension keeps each point's quantile: F_s(u_s) = F_t(u_t), solved by bisection."""
    w, m, d = (torch.tensor(values, dtype=torch.float64) for values in (WEIGHTS, MEANS, STDS))

    def below(x: Tensor, time: float) -> Tensor:
        alpha, sigma = levels(process, time)
        return (w * torch.special.ndtr((x[..., None] - alpha * m) / (alpha**2 * d**2 + sigma**2).sqrt())).sum(-1)

    level = below(u, t)
    low, high = torch.full_like(u, -20.0), torch.full_like(u, 20.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        less = below(middle, s) < level
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return 0.5 * (low + high)


@pytest.mark.parametrize(("stepper", "order", "slack"), [(DDIM, 1.0, 0.15), (Euler, 1.0, 0.15), (Heun, 2.0, 0.2)])
def test_global_error_on_a_mixture_falls_with_the_declared_order(stepper, order, slack):
    """VP with linear beta, t from 0.9 to 0.1, n = 40, 80, 160, 320 steps."""
    process = VP()
    start = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    exact = quantile_flow(process, start, 0.9, 0.1)
    sampler = Sampler(stepper.__name__, stepper(), Between(0.9, 0.1))
    oracle, errors = Mixture(process, WEIGHTS, MEANS, STDS), []
    for n in (40, 80, 160, 320):
        images = sampler.sample(oracle, FixedNoise(start), sampler.evaluations(n)).images
        errors.append(float((images - exact).abs().max()))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order] * 3, abs=slack)
    assert 1e-9 < errors[-1] < 0.1


def exact_moments(process, t_end: float) -> tuple[float, float]:
    """Mean and variance of the mixture's marginal."""
    w, m, d = (torch.tensor(values, dtype=torch.float64) for values in (WEIGHTS, MEANS, STDS))
    alpha, sigma = levels(process, t_end)
    mean = float((w * m).sum())
    return alpha * mean, alpha**2 * float((w * (d**2 + m**2)).sum() - mean**2) + sigma**2


@pytest.mark.parametrize(
    "stepper",
    [Ancestral(), Ancestral("large"), Ancestral("medium", 0.4), DDIM(eta=0.5), DDIM(eta=1.0), EulerMaruyama()],
    ids=["small", "large", "medium", "eta0.5", "eta1", "em"],
)
def test_stochastic_samplers_reach_mean_and_covariance_of_the_mixture(stepper):
    """200 steps, 40,000 pixels in pairs: mean, variance and the covariance of neighbours, which is zero."""
    process = VP()
    sampler = Sampler("s", stepper, Uniform(t_end=0.1))
    noise = KeyedNoise(3, range(100), (1, 20, 20), dtype=torch.float64)
    images = sampler.sample(Mixture(process, WEIGHTS, MEANS, STDS), noise, 200).images
    mean, variance = exact_moments(process, 0.1)
    n = images.numel()
    assert float(images.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n) + 2e-3)
    # "large" adds (1 - SNR_t / SNR_s) (sigma_t^2 - sigma_s^2) a step too much: a bias of order 1 / n
    assert float(images.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 0.02)
    pairs = (images[..., ::2] - mean) * (images[..., 1::2] - mean)
    assert float(pairs.mean()) == pytest.approx(0.0, abs=4 * variance / math.sqrt(n / 2))


@pytest.mark.parametrize("process", [VP(), Cosine()], ids=lambda process: process.name)
def test_eta_divides_the_variance_between_kept_and_fresh_noise(process):
    times = torch.tensor([0.9, 0.6, 0.2, 0.05], dtype=torch.float64)
    t, s = times[:-1], times[1:]
    level = process.factor(s).value ** 2
    posterior = process.posterior_factor(t, s).value
    for eta in (0.0, 0.3, 1.0):
        found = DDIM(eta).coefficients(process, t, s)
        fresh = torch.zeros(3).double() if found.fresh is None else found.fresh.value
        torch.testing.assert_close(fresh, eta * posterior, rtol=1e-14, atol=0)
        torch.testing.assert_close(found.noise.value**2 + fresh**2, level, rtol=1e-12, atol=0)
    one, ancestral = DDIM(1.0).coefficients(process, t, s), Ancestral().coefficients(process, t, s)
    torch.testing.assert_close(one.noise.value, ancestral.noise.value, rtol=1e-13, atol=0)
    none, tiny = DDIM().coefficients(process, t, s), DDIM(1e-12).coefficients(process, t, s)
    torch.testing.assert_close(none.noise.value, tiny.noise.value, rtol=1e-13, atol=0)


def test_named_variances_are_the_papers():
    process, t, s = VP(), torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    small, large, medium = (
        float(Ancestral(*args).coefficients(process, t, s).fresh.value) ** 2
        for args in (("small",), ("large",), ("medium", 0.3))
    )
    ratio = 1.0 - float((process.log_snr(t) - process.log_snr(s)).exp())
    assert small == pytest.approx(ratio * float(process.factor(s).value) ** 2, rel=1e-13)
    assert large == pytest.approx(ratio * float(process.factor(t).value) ** 2, rel=1e-13)
    assert medium == pytest.approx(small**0.7 * large**0.3, rel=1e-13)


@pytest.mark.parametrize("variance", [("small",), ("large",), ("medium", 0.5)])
def test_the_step_onto_clean_data_draws_nothing(variance):
    process, times = VP(), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    found = Ancestral(*variance).coefficients(process, times[:-1], times[1:])
    assert [found.fresh[k].is_zero() for k in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DDIM(1.5), "eta=1.5"),
        (lambda: Ancestral("medium"), "needs sampler.stepper.interpolation"),
        (lambda: Ancestral("large", 0.5), "has no use for"),
        (lambda: Ancestral("medium", 1.5), "between 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
