"""BDDM's step loss on Gaussian data with the exact denoiser: the divergence, its minimum, its bound, its levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.distillation.bilateral.loss import CODE, EXACT, Moments, StepLoss, step_loss
from diffexp.distillation.bilateral.pair import Pair, check_tau, pair, pairs
from diffexp.distillation.bilateral.score import Score, check_process
from diffexp.network.schedule.base import ScheduleNetwork
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.attenuation import Linear
from diffexp.process.blurring import GDDIMBlurring
from diffexp.process.bridge_schedule import BridgeVP
from diffexp.process.cld import CLD
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM
from diffexp.process.decoupled import Decoupled
from diffexp.process.table import Table
from diffexp.process.ve import VE
from diffexp.process.vp import VP

SHAPE = (1, 8, 8)
D = math.prod(SHAPE)
LINEAR = DDPM(200)


class Constant(ScheduleNetwork):
    """One trainable logit for every sample."""

    def __init__(self, logit: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(logit, dtype=torch.float64))

    def _logit(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x))


def gaussian(process, std: float) -> Score:
    """The exact denoiser for white data of this deviation."""
    return Score(Mixture(process, [1.0], [0.0], [std]))


def error(alpha: Tensor, delta: Tensor, std: float) -> Tensor:
    """E|e - e^|^2 / D of the exact denoiser."""
    return (alpha * std) ** 2 / ((alpha * std) ** 2 + delta)


def expected(alpha: Tensor, delta: Tensor, std: float, x0: Tensor | float) -> Moments:
    """The moments' expectations over the noise for a number x0: e^ = sqrt(delta) x / v, v = (alpha s)^2 + delta."""
    v = (alpha * std) ** 2 + delta
    share, mean = delta / v, delta.sqrt() * alpha * x0 / v
    return Moments((1.0 - share) ** 2 + mean**2, share * (1.0 - share) - mean**2, share**2 + mean**2, count=1)


def root(e2: float, log_coef: float) -> float:
    """r in (0, 1) with e2 r (1 + 1 / (1 - r)^2) = 2 log_coef, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        r = 0.5 * (low + high)
        low, high = (low, r) if e2 * r * (1.0 + 1.0 / (1.0 - r) ** 2) > 2.0 * log_coef else (r, high)
    return low


def samples(n: int = 4) -> tuple[Tensor, Tensor]:
    return tuple(random.normal(0, f"test/{stream}", range(n), SHAPE) for stream in ("x0", "noise"))


def test_the_divergence_is_that_of_the_two_gaussians():
    """p is DDPM's step of variance b from x_t with the estimate, q the law of its end given the data."""
    x0, noise = samples()
    t = torch.tensor([20.0, 66.0, 100.0, 150.0], dtype=torch.float64)
    levels, score = pair(LINEAR, t, t + 40.0), gaussian(LINEAR, 0.3)
    alpha, delta = (value.reshape(-1, 1, 1, 1) for value in (levels.alpha, levels.delta))
    x = alpha * x0 + delta.sqrt() * noise
    estimate, logit = score.noise(x, t), torch.tensor([-2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    b = (levels.limit * levels.delta * torch.sigmoid(logit)).reshape(-1, 1, 1, 1)
    small = ((delta - b) / (1.0 - b)).sqrt()
    p = torch.distributions.Normal((x - b / delta.sqrt() * estimate) / (1.0 - b).sqrt(), small * (b / delta).sqrt())
    q = torch.distributions.Normal(alpha / (1.0 - b).sqrt() * x0, small)
    wanted = torch.distributions.kl_divergence(p, q).flatten(1).sum(1)
    moments = Moments.of(noise, estimate)
    exact = step_loss(logit, levels.limit, levels.delta, moments, EXACT, guard=0.0)
    torch.testing.assert_close(exact, wanted, rtol=1e-10, atol=0.0)
    # The released code has half of the logarithm.
    code = step_loss(logit, levels.limit, levels.delta, moments, CODE)
    half = 0.25 * D * (delta / b).log().flatten()
    torch.testing.assert_close(exact - code, half, rtol=0.0, atol=1e-3)  # its guards, D / 4 times 1e-8 / b


@pytest.mark.parametrize(("log_coef", "published"), [(CODE, 0.5725), (EXACT, 0.6817)])
def test_a_trained_ratio_is_the_root_of_its_equation(log_coef, published):
    """T = 200, data of deviation 0.2, t = 66, tau = 66: a table that ends at t + 2 tau = 132 leaves that t alone."""
    std, process = 0.2, Table(LINEAR.betas[:133])
    raw = torch.stack([value.flatten() for value in samples(1)])
    x0, noise = math.sqrt(D) * torch.linalg.qr(raw.T)[0].T.reshape(2, 1, *SHAPE)  # their second moments are exact
    loss, network = StepLoss(gaussian(process, std), tau=66, log_coef=log_coef), Constant()
    optimiser = torch.optim.LBFGS(
        network.parameters(), max_iter=50, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )
    share = torch.tensor([0.7], dtype=torch.float64)

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = loss(network, std * x0, noise, share).loss.sum()
        total.backward()
        return total

    optimiser.step(closure)
    terms = loss(network, std * x0, noise, share)
    levels = pairs(process, 66, share)
    e2 = float(error(levels.alpha, levels.delta, std))
    assert (float(levels.t), round(e2, 5)) == (66.0, 0.13492)
    assert not bool(terms.bounded)
    assert float(terms.ratio) == pytest.approx(root(e2, log_coef), abs=1e-6)
    assert float(terms.ratio) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize("std", [0.2, 0.5])
@pytest.mark.parametrize(("process", "tau"), [(LINEAR, 66), (LINEAR, 1), (DDPM(1000), 20)], ids=["66", "1", "20"])
def test_the_step_loss_closes_the_gap_to_the_likelihood_at_every_t(process, tau, std):
    """log p(x0) = F_score + KL(p(x' | x_t) || q(x' | x0)) for the exact score, at every index, state and ratio.

    F_score = E log p(x0 | x') - KL(p(x' | x_t) || p(x')), x' from DDPM's step, is the evidence bound whose posterior is
    that step (Lam et al. 2022, propositions 1 and 3). So F_bddm with the exact step loss lies between it and the
    likelihood, which it reaches; with the code's, which has half of the logarithm, it stays below.
    """
    x0, z = (values.flatten()[:5] for values in samples(1))
    x0 = std * x0
    likelihood = -0.5 * math.log(2.0 * math.pi * std**2) - 0.5 * (x0 / std) ** 2
    for t in torch.arange(process.num_steps - tau, dtype=torch.float64):
        levels = pair(process, t[None], t[None] + tau)
        alpha, delta = levels.alpha, levels.delta
        x = alpha * x0 + delta.sqrt() * z
        estimate = delta.sqrt() * x / ((alpha * std) ** 2 + delta)
        moments = Moments.of(z[:, None], estimate[:, None])
        for logit in torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64)[:, None]:
            b = levels.limit * delta * torch.sigmoid(logit)
            score = evidence(x0, (x - b / delta.sqrt() * estimate) / (1.0 - b).sqrt(), alpha, delta, b, std)
            exact = step_loss(logit, levels.limit, delta, moments, EXACT, guard=0.0)
            torch.testing.assert_close(score + exact, likelihood, rtol=1e-8, atol=1e-8)
            assert bool((exact >= 0.0).all())
            assert bool((score + step_loss(logit, levels.limit, delta, moments, CODE, guard=0.0) < likelihood).all())


def evidence(x0: Tensor, mean: Tensor, alpha: Tensor, delta: Tensor, b: Tensor, std: float) -> Tensor:
    """F_score of numbers x0 of law N(0, s^2), from the mean of DDPM's step of variance b at the level alpha, delta."""
    rest, square = (delta - b) / (1.0 - b), alpha**2 / (1.0 - b)
    small, law = rest * b / delta, square * std**2 + rest
    gain, left = square.sqrt() * std**2 / law, std**2 * rest / law  # of the data given x'
    said = -0.5 * torch.log(2.0 * math.pi * left) - 0.5 * ((x0 - gain * mean) ** 2 + gain**2 * small) / left
    return said - 0.5 * ((small + mean**2) / law - 1.0 - torch.log(small / law))


@pytest.mark.parametrize("std", [0.2, 0.5])
@pytest.mark.parametrize(("process", "tau"), [(LINEAR, 66), (LINEAR, 25), (DDPM(1000), 20)], ids=["66", "25", "20"])
def test_the_bound_along_the_whole_table_lies_between_the_evidence_bound_and_the_likelihood(process, tau, std):
    """log p(x0) >= F_bddm >= F_elbo at every t that a training draws, for the exact score and any ratio.

    F_elbo = -KL(p(x' | x_t) || q(x' | x_t, x0)) - R is the term of the evidence bound at a step of variance b, where
    the order of the two laws is without effect; F_bddm = F_elbo + KL(p(x' | x_t) || q(x' | x0)), the step loss. All are
    expectations over x_t. R = -E log p(x0 | x at index 0) follows the training's table down from x_t. (Nearer to the
    data than tau, R tells the likelihood given x_t, which is no bound of that of x0 alone.)
    """
    t = torch.arange(tau, process.num_steps - tau, dtype=torch.float64)
    levels = pair(process, t, t + tau)
    roots = [[root(float(e2), c) for e2 in error(levels.alpha, levels.delta, std)] for c in (CODE, EXACT)]
    shares = [torch.full_like(t, ratio) for ratio in (0.01, 0.5, 0.99)]
    shares += [(torch.tensor(r, dtype=torch.float64) / levels.limit).clamp_max(1.0 - 1e-9) for r in roots]
    for x0 in (0.0, std, 2.0 * std):
        likelihood = -0.5 * math.log(2.0 * math.pi * std**2) - 0.5 * (x0 / std) ** 2
        residue = reconstruction(process, std, x0)[t.long()]
        moments = expected(levels.alpha, levels.delta, std, x0)
        for share in shares:
            r = levels.limit * share
            evidence = -0.5 * r * moments.error / (1.0 - r) - residue
            bound = evidence + step_loss(torch.logit(share), levels.limit, levels.delta, moments, EXACT, guard=0.0)
            assert bool((likelihood >= bound).all())
            assert bool((bound > evidence).all())


def reconstruction(process: Table, std: float, x0: float) -> Tensor:
    """R of each index for one number x0, exactly: DDPM's steps from x_t to index 0 are affine in it."""
    delta, beta = 1.0 - process.alphas**2, process.betas
    gain = (1.0 - beta / (process.alphas**2 * std**2 + delta)) / (1.0 - beta).sqrt()
    below = torch.cat([torch.ones(1, dtype=torch.float64), gain[1:].cumprod(0)])  # from each index to index 0
    fresh = torch.cat([torch.zeros(1, dtype=torch.float64), beta[1:] * delta[:-1] / delta[1:] * below[:-1] ** 2])
    mean, variance = below * process.alphas * x0, below**2 * delta + fresh.cumsum(0)
    away = (x0 - gain[0] * mean) ** 2 + gain[0] ** 2 * variance
    return 0.5 * torch.log(2.0 * math.pi * beta[0]) + 0.5 * away / beta[0]


def test_a_saturated_network_has_a_finite_loss_that_brings_it_back():
    logit = torch.tensor([40.0, -40.0, 300.0, -300.0], requires_grad=True)
    levels = pair(LINEAR, torch.full((4,), 66.0, dtype=torch.float64), torch.full((4,), 132.0, dtype=torch.float64))
    moments = Moments.of(*samples())
    for guard in (0.0, 1e-8):
        loss = step_loss(logit, levels.limit, levels.delta, moments, guard=guard)
        assert bool(loss.isfinite().all())
    (gradient,) = torch.autograd.grad(step_loss(logit, levels.limit, levels.delta, moments, guard=0.0).sum(), logit)
    assert (gradient.sign() == logit.detach().sign()).all()


def test_states_in_float32_have_their_loss_in_float64():
    x0, noise = samples()
    share = torch.tensor([0.0, 0.3, 0.6, 0.99], dtype=torch.float64)
    wide, narrow = (
        StepLoss(gaussian(LINEAR, 0.5), tau=25)(Constant(0.3), x0.to(kind), noise.to(kind), share)
        for kind in (torch.float64, torch.float32)
    )
    assert narrow.loss.dtype == torch.float64
    torch.testing.assert_close(narrow.loss, wide.loss, rtol=1e-5, atol=0.0)
    assert torch.equal(narrow.bounded, wide.bounded)
    assert not narrow.divergence.requires_grad


def test_pairs_are_tau_apart_and_leave_tau_on_both_sides():
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    found = pairs(LINEAR, 66, ends)
    assert found.t.tolist() == [66.0, 133.0]
    torch.testing.assert_close(found.alpha, LINEAR.alphas[[66, 133]], rtol=1e-14, atol=0.0)
    wanted = 1.0 - (LINEAR.alphas[[132, 199]] / LINEAR.alphas[[66, 133]]) ** 2
    torch.testing.assert_close(found.beta_next, wanted, rtol=1e-12, atol=0.0)
    every = pairs(LINEAR, 66, (torch.arange(68, dtype=torch.float64) + 0.5) / 68.0)
    assert every.t.tolist() == list(range(66, 134))
    smooth = pairs(VP(), 100, ends, times=1000)
    torch.testing.assert_close(smooth.t, torch.tensor([0.101, 0.9], dtype=torch.float64), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("length", "tau", "low", "high"), [(200, 66, 0, 0), (1000, 10, 0.97, 1), (1000, 20, 0.97, 1)])
def test_for_small_tau_the_next_step_bounds_almost_every_beta(length, tau, low, high):
    """The trap of schedules for images: the network is pushed to 1 where its optimum lies beyond the bound."""
    process = DDPM(length)
    t = torch.arange(tau, length - tau, dtype=torch.float64)
    assert low <= float((pair(process, t, t + tau).limit < 1.0).double().mean()) <= high


@pytest.mark.parametrize("process", [LINEAR, VP(), VE(), Cosine()], ids=lambda process: process.name)
def test_the_noise_at_a_level_is_the_same_on_every_process(process):
    x, _ = samples(3)
    alpha = torch.tensor([0.95, 0.7, 0.4], dtype=torch.float64)
    delta, std = 1.0 - alpha**2, 0.5
    score = gaussian(process, std)
    estimate = score.noise(x, score.time(alpha, delta))
    gain = delta.sqrt() / ((alpha * std) ** 2 + delta)
    torch.testing.assert_close(estimate, gain.reshape(-1, 1, 1, 1) * x, rtol=1e-9, atol=1e-12)


REFUSED = {
    "cld": (CLD, "more than one number"),
    "bridge": (BridgeVP, "from an image"),
    "blurring": (lambda: GDDIMBlurring().on((1, 8, 8)), "more than one number"),
    "ddm": (lambda: Decoupled(Linear()), "second image"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_processes_whose_steps_are_no_numbers_are_refused(make, why):
    process = make()
    with pytest.raises(ConfigError, match=f"process {process.name} .*{why}.*: choose a teacher on vp, ve or ddpm"):
        check_process(process)


def test_what_does_not_fit_the_table_is_refused():
    for tau in (0, 100):
        with pytest.raises(ConfigError, match=f"distillation.tau={tau}: must lie between 1 and 99, as T = 200"):
            check_tau(LINEAR, tau)
    assert (check_tau(LINEAR, 99), check_tau(VP(), 499)) == (200, 1000)
    with pytest.raises(ConfigError, match="log_coef=0"):
        StepLoss(gaussian(LINEAR, 0.5), tau=66, log_coef=0.0)


def test_a_pair_next_to_the_data_keeps_its_digits():
    found = pair(LINEAR, torch.tensor([0.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64))
    assert isinstance(found, Pair)
    torch.testing.assert_close(found.delta, LINEAR.betas[:1], rtol=1e-14, atol=0.0)
    torch.testing.assert_close(found.beta_next, LINEAR.betas[1:2], rtol=1e-11, atol=0.0)
