"""gDDIM on scalar processes: reductions to DDIM and DDPM, orders, exactness of the coefficients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, V
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM
from diffexp.process.ve import VE
from diffexp.process.vp import VP
from diffexp.sampler.exponential import coefficients
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Power, Uniform
from diffexp.sampler.lagrange import basis, basis_rate, windows
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.stochastic import contraction
from tests.sampler.test_convergence import MEANS, STDS, WEIGHTS, Between, quantile_flow

START = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
NOISE = random.normal(0, "test/noise", range(12), (1, 1, 3, 3))


class Net(torch.nn.Module):
    def forward(self, u, time, labels=None):
        return torch.cat([0.3 * u.tanh() + 0.1, 0.2 * u.sin()], 1)[:, : self.channels]


def denoiser(process, head=None) -> NetworkDenoiser:
    net = Net()
    net.channels = (head or Eps()).out_channels(1)
    return NetworkDenoiser(net, head or Eps("log_snr"), process)


def images(stepper, source, nfe: int, grid=None) -> Tensor:
    return Sampler("s", stepper, grid or Uniform(t_end=0.05)).sample(source, FixedNoise(START, NOISE), nfe).images


@pytest.mark.parametrize("process", [VP(), Cosine(), VE(), DDPM()], ids=lambda process: process.name)
@pytest.mark.parametrize(("lam", "other"), [(0.0, DDIM()), (1.0, Ancestral())], ids=["ddim", "ddpm"])
def test_order_one_is_ddim_and_with_lambda_one_ancestral_sampling(process, lam, other):
    grid = Power(2.0, t_end=4.0 if process.name == "ddpm" else 0.01)
    for head in (Eps("log_snr"), X0("log_snr")):
        source = denoiser(process, head)
        expected = images(other, source, 7, grid)
        torch.testing.assert_close(images(GDDIM(1, lam), source, 7, grid), expected, rtol=1e-12, atol=1e-12)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize("head", [X0(), V(), Both()], ids=lambda head: head.name)
def test_multistep_does_not_mind_what_the_network_predicts(head):
    """The same answer told as eps: order 3 keeps estimates of the noise, whatever they were derived from."""
    process = Cosine(logsnr_max=8.0, logsnr_min=-8.0)
    source = denoiser(process, head)

    class AsEps(NetworkDenoiser):
        def __init__(self):
            super().__init__(torch.nn.Identity(), Eps(), process)

        def parts(self, u, point, conditions=None):
            self.evaluations += len(u)
            inner = source.prepare(point.marginal.t.reshape(1), u.dtype, "cpu")[0]
            return u, source(u, inner).noise

    found, expected = (images(GDDIM(3), given, 8) for given in (source, AsEps()))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_global_error_falls_with_the_order(order):
    """From the prior, where the estimates hardly change: the first steps' lower orders leave no trace there."""
    process = VP()
    exact = quantile_flow(process, START, 1.0, 0.1)
    source, errors = Mixture(process, WEIGHTS, MEANS, STDS), []
    for n in (80, 160, 320):
        found = images(GDDIM(order), source, n, Power(2.0, t_end=0.1))
        errors.append(float((found - exact).abs().max()))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.15)
    assert errors[-1] < {1: 3e-3, 2: 4e-5, 3: 5e-7, 4: 3e-8}[order]


@pytest.mark.parametrize(("order", "corrector", "expected"), [(1, 2, 2.0), (2, 3, 3.0), (1, 3, 2.0)])
def test_a_corrector_adds_an_order_and_costs_an_evaluation(order, corrector, expected):
    process, stepper = VP(), GDDIM(order, corrector=corrector)
    exact, errors = quantile_flow(process, START, 0.9, 0.1), []
    source = Mixture(process, WEIGHTS, MEANS, STDS)
    for n in (80, 160, 320):
        found = images(stepper, source, 2 * n, Between(0.9, 0.1))
        errors.append(float((found - exact).abs().max()))
    assert source.evaluations == 2 * (80 + 160 + 320)
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(expected, abs=0.2)


def test_coefficients_add_up_to_the_first_order_one():
    process, times = VP(), Power(2.0, t_end=1e-3).times(VP(), 9)
    whole = coefficients(process, times, 0, 0)[0].value
    s, t = times[:-1], times[1:]
    exact = process.factor(t).value - process.transition(t, s).value * process.factor(s).value
    torch.testing.assert_close(whole, exact, rtol=1e-13, atol=0)
    for first, degree in ((0, 3), (1, 3), (1, 1)):
        parts = coefficients(process, times, first, degree)
        assert [int((part.value == 0.0).sum()) for part in parts] == [max(0, j - first) for j in range(degree + 1)]
        torch.testing.assert_close(sum(part.value for part in parts), exact, rtol=1e-12, atol=1e-13)


def test_both_ways_to_the_coefficients_agree():
    """By parts (factor R) and directly (any factor): on scalar processes the factors are the same."""
    process, times = VP(), Power(2.0, t_end=1e-3).times(VP(), 9)
    ways = (coefficients(process, times, 0, 2, kind) for kind in ("R", "cholesky"))
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one.value, other.value, rtol=1e-9, atol=1e-11)


def test_lagrange_polynomials_reproduce_polynomials_and_their_slopes():
    times = torch.tensor([1.0, 0.7, 0.45, 0.2, 0.15], dtype=torch.float64)
    for first in (0, 1):
        nodes, known = windows(times, first, 2)
        t = torch.tensor([0.8, 0.5, 0.3, 0.16], dtype=torch.float64)
        for step in range(4):
            degree = int(known[step].sum()) - 1
            for power in range(degree + 1):
                values = nodes[step] ** power
                found = float((basis(nodes, known, t)[step] * values).sum())
                slope = float((basis_rate(nodes, known, t)[step] * values).sum())
                assert found == pytest.approx(float(t[step]) ** power, rel=1e-12)
                assert slope == pytest.approx(power * float(t[step]) ** max(power - 1, 0), abs=1e-11)
        assert known.sum(1).tolist() == [min(i + first, 2) + 1 for i in range(4)]


@pytest.mark.parametrize("lam", [0.3, 1.7])
def test_the_contraction_is_the_closed_form_of_scalar_processes(lam):
    """Y = (SNR_s / SNR_t)^(lambda^2 / 2): the integral of G^2 / sigma^2 is the change of log-SNR."""
    process, times = VP(), Power(2.0, t_end=1e-3).times(VP(), 9)
    s, t = times[:-1], times[1:]
    exact = (0.5 * lam**2 * (process.log_snr(s) - process.log_snr(t))).exp()
    torch.testing.assert_close(contraction(process, s, t, lam).value, exact, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_moments_of_point_mass_data_are_exact_for_any_lambda(lam):
    """For data at one point the estimate is constant, so mean and variance of the step are those of the marginal."""
    process, times = VP(), torch.tensor([0.9, 0.4, 0.05], dtype=torch.float64)
    plan = GDDIM(1, lam).plan(process, times, "state")
    s, t = times[:-1], times[1:]
    level_s, level_t = process.factor(s).value, process.factor(t).value
    kept = plan.transition.value * level_s + plan.predictor[0].value
    fresh = torch.zeros(2, dtype=torch.float64) if plan.fresh is None else plan.fresh.value
    torch.testing.assert_close(kept**2 + fresh**2, level_t**2, rtol=1e-9, atol=0)
    assert bool((fresh > 0.0).all()) == (lam > 0.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GDDIM(0), "order=0: must be between 1 and 4"),
        (lambda: GDDIM(5), "order=5"),
        (lambda: GDDIM(1, lam=-0.1), "lam=-0.1: must be 0"),
        (lambda: GDDIM(2, lam=0.5), "lam=0.5: the stochastic step has order=1"),
        (lambda: GDDIM(1, corrector=1), "corrector=1: must be between 2 and 4"),
        (lambda: Sampler("gddim", GDDIM(3), Uniform(t_end=0.1)).steps(2), "nfe=2 is not reachable .*: choose 3"),
        (lambda: GDDIM(3).plan(VP(), torch.linspace(1.0, 0.1, 3), "state"), "order=3: needs 3 steps"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    "stepper",
    [DDIM(), GDDIM(2), GDDIM(1, lam=0.5), GDDIM(2, corrector=2)],
    ids=["ddim", "order", "lambda", "corrector"],
)
def test_the_denoising_step_is_the_mean_of_an_euler_step_and_counts(stepper):
    process, end = VP(), 0.05
    source = denoiser(process)
    plain = Sampler("s", stepper, Uniform(t_end=end))
    noisy = Sampler("s", stepper, Uniform(t_end=end, last="denoise_em"))
    assert noisy.evaluations(4) == plain.evaluations(4) + 1
    u = plain.sample(source, FixedNoise(START, NOISE), plain.evaluations(4)).images
    found = noisy.sample(source, FixedNoise(START, NOISE), noisy.evaluations(4)).images
    (point,) = source.prepare(torch.tensor([end], dtype=torch.float64), torch.float64, "cpu")
    beta, sigma = 0.1 + 19.9 * end, float(process.factor(torch.tensor(end, dtype=torch.float64)).value)
    score = -source(u, point).noise / sigma
    torch.testing.assert_close(found, u + end * (0.5 * beta * u + beta * score), rtol=1e-12, atol=1e-12)
    with pytest.raises(ConfigError, match=r"denoise_em: needs grid\.t_end"):
        Sampler("s", DDIM(), Uniform(last="denoise_em")).sample(source, FixedNoise(START, NOISE), 4)
