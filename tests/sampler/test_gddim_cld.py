"""gDDIM on critically damped Langevin diffusion: moments for any lambda, data at one point, refusals, cost."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.langevin import PhaseEps, VelocityEps
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cld import CLD
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Power
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.rk4 import RK4
from diffexp.sampler.stochastic import contraction
from tests.sampler.affine import moments

LAMBDAS = [0.0, 0.3, 0.5, 1.0, 2.0]
COARSE = Explicit([1.0, 0.3], t_end=1e-3)
STEEP = CLD(m_inv=3.0, beta0=0.1, beta1=6.9, gamma=0.2, eps=1e-5)


class Settled(CLD):
    """Sampling starts from the law of data at zero instead of the prior."""

    def prior_factor(self, t: Tensor | None = None):
        return self.factor(torch.tensor(self.t_max, dtype=torch.float64), "cholesky")


@pytest.mark.parametrize("lam", LAMBDAS)
def test_moments_of_data_at_one_point_are_exact_in_any_steps(lam):
    """The estimate is constant, so that every step goes from one marginal to the next (gDDIM, theorem 1)."""
    for process in (Settled(), Settled(m_inv=3.0, beta0=0.1, beta1=6.9)):
        mean, spread = moments(GDDIM(1, lam), COARSE, Mixture(process, [1.0], [0.0], [0.0]), 2)
        end = torch.tensor(1e-3, dtype=torch.float64)
        assert mean.tolist() == [0.0, 0.0]
        torch.testing.assert_close(spread, process.factor(end).covariance().values, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("lam", LAMBDAS[:-1])
def test_moments_of_gaussian_data_converge_to_the_data_s_own(lam):
    """Every lambda is another way to the same law; of order one."""
    process, end = CLD(), torch.tensor(0.05, dtype=torch.float64)
    law = process.marginal(end)
    known = law.signal.values @ process.data_covariance(0.5).values @ law.signal.values.mT
    exact, errors = known + law.factor.covariance().values, []
    for n in (40, 80, 160):
        mean, spread = moments(GDDIM(1, lam), Power(2.0, t_end=0.05), Mixture(process, [1.0], [0.3], [0.5]), n)
        errors.append(float((spread - exact).abs().max()))
        assert float((mean - 0.3 * law.signal.values[:, 0]).abs().max()) < 0.2 / n + 1e-3
    assert errors[-1] < 0.6 * errors[-2] < 0.36 * errors[-3]
    assert errors[-1] < 0.02


@pytest.mark.parametrize("process", [CLD(), STEEP], ids=["published", "steep"])
@pytest.mark.parametrize("ends", [(0.81, 0.72, 0.65), (0.0107, 0.005, 0.001)], ids=["early", "last"])
def test_the_contraction_is_continuous_where_it_is_known_and_a_flow(process, ends):
    """Y of lambda = 1 is Bayes' rule; two steps make one for any lambda. Steps as in a grid of ten."""
    s, m, t = torch.tensor(ends, dtype=torch.float64)[:, None]
    known, close = (contraction(process, s, t, lam).values for lam in (1.0, 1.0 + 1e-12))
    torch.testing.assert_close(close, known, rtol=0.0, atol=2e-11)
    for lam in (0.3, 0.5, 1.7):
        whole = contraction(process, s, t, lam).values
        two = contraction(process, m, t, lam).values @ contraction(process, s, m, lam).values
        torch.testing.assert_close(two, whole, rtol=0.0, atol=2e-11)
        assert 0.01 < float(whole.abs().max()) <= 1.0


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("process", [CLD(), STEEP], ids=["published", "steep"])
def test_data_at_one_point_are_recovered_on_a_grid_of_two_steps(process, order):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=generator)
    times, x0, states = torch.tensor([1.0, 1e-3], dtype=torch.float64), 0.37, []
    oracle = Mixture(process, [1.0], [x0], [0.0])
    Sampler("s", GDDIM(order), COARSE).sample(oracle, FixedNoise(start), 2, on_step=lambda k, u: states.append(u))
    first, last = (process.marginal(t) for t in times)
    data = process.lift(torch.full_like(start[:, :1], x0))
    noise = first.factor.inverse().apply(process.prior_factor().apply(start) - first.signal.apply(data))
    torch.testing.assert_close(states[-1], last.perturb(data, noise), rtol=0.0, atol=1e-6)


def test_the_3_8_rule_is_of_order_four_and_agrees_with_gddim():
    process = CLD()
    start = torch.linspace(-2.0, 2.0, 18, dtype=torch.float64).reshape(1, 2, 3, 3)
    oracle, grid = Mixture(process, [0.3, 0.7], [-0.6, 0.5], [0.3, 0.3]), Power(2.0, t_end=0.1)

    def images(stepper, n: int) -> Tensor:
        sampler = Sampler("s", stepper, grid)
        return sampler.sample(oracle, FixedNoise(start), sampler.evaluations(n)).images

    exact = images(GDDIM(4), 500)
    errors = [float((images(RK4(), n) - exact).abs().max()) for n in (15, 30, 60)]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([4.0, 4.0], abs=0.35)
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("stepper", [GDDIM(1), GDDIM(3), GDDIM(1, lam=1.0)], ids=["first", "third", "lambda"])
def test_a_network_of_the_velocity_alone_is_refused(stepper):
    for eps_rule in ("transported", "added"):
        net = NetworkDenoiser(torch.nn.Identity(), VelocityEps(), CLD(eps_rule=eps_rule))
        with pytest.raises(ConfigError, match=r"sampler gddim needs noise, the prediction gives \['score'\]"):
            Sampler("gddim", stepper, Power(2.0, t_end=1e-3)).sample(net, FixedNoise(torch.zeros(1, 2, 2, 2)), 10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GDDIM(1, lam=-0.5), r"sampler\.stepper\.lam=-0\.5: must be 0 \(deterministic\) or larger"),
        (lambda: Sampler("gddim", GDDIM(4), Power()).steps(3), "nfe=3 is not reachable with sampler gddim: choose 4"),
        (
            lambda: Sampler("gddim", GDDIM(3), Power(2.0, 1e-3, "denoise_em")).steps(3),
            "nfe=3 is not reachable with sampler gddim: choose 4",
        ),
    ],
    ids=["lambda", "order", "order beside a denoising step"],
)
def test_what_cannot_be_is_refused_in_one_line(make, said):
    with pytest.raises(ConfigError, match=said) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_all_coefficients_of_fifty_evaluations_of_order_three_take_two_seconds_at_most():
    """A new process, so that its angles are not known yet; the processor's time, as the machine may be shared."""
    began = time.process_time()
    process = CLD()
    sampler = Sampler("gddim", GDDIM(3), Power(2.0, 1e-3, "denoise_em"))
    plan = sampler.plan(process, 50)
    rows = GDDIM(3).bind(plan, PhaseEps().form(process.marginal(sampler.times(process, 50)[:-1])))
    assert time.process_time() - began < 2.0
    assert len(rows) == 49


def test_plans_belong_to_their_process_and_grid():
    """Two processes that differ in one number, and two grids, under one sampler."""
    sampler = Sampler("gddim", GDDIM(2), Power(2.0, t_end=1e-3))
    first = sampler.plan(CLD(), 8).predictor[0].values
    other = sampler.plan(CLD(gamma=0.05), 8).predictor[0].values
    assert (first - other).abs().max() > 1e-4
    sampler.grid = Power(1.0, t_end=1e-3)
    assert (sampler.plan(CLD(), 8).predictor[0].values - first).abs().max() > 1e-2
