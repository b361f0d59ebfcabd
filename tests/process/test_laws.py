"""The relations that tie the parts of every linear Gaussian process together, for every process of the package."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffexp.process.attenuation import Constant, Linear, Quadratic
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM, IDDPM
from diffexp.process.decoupled import Decoupled
from diffexp.process.scalar import ScalarProcess
from diffexp.process.ve import EDM, VE
from diffexp.process.vp import VP

PROCESSES = [
    VP(),
    VP(0.0, 5.0),
    Cosine(),
    Cosine(10.0, -6.0),
    Cosine(30.0, -30.0),
    Cosine(4.0, 3.0),
    DDPM(),
    DDPM(200, 1e-6, 0.01),
    IDDPM(50),
    VE(),
    EDM(),
    Decoupled(Constant()),
    Decoupled(Constant(), "linear"),
    Decoupled(Linear(), "linear"),
    Decoupled(Quadratic()),
]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=[f"{p.name}{i}" for i, p in enumerate(PROCESSES)])
# Shares of the way from the data to the prior; on none of the tables does one fall on or near an entry.
SHARES = torch.tensor([0.00313, 0.0207, 0.1037, 0.37111, 0.50123, 0.8113, 0.99037], dtype=torch.float64)
CENTRAL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))  # of sixth order


def times(process: ScalarProcess) -> Tensor:
    return process.t_data + SHARES * (process.t_max - process.t_data)


def variance(process: ScalarProcess, t: Tensor) -> Tensor:
    return process.factor(t).covariance().value


def derivative(function, t: Tensor, h: Tensor) -> Tensor:
    """Central differences of sixth order."""
    return sum(weight * (function(t + k * h) - function(t - k * h)) for k, weight in CENTRAL) / h


def step(process: ScalarProcess) -> Tensor:
    """A step for `derivative` that stays within an interval of a table and within the range."""
    t = times(process)
    if process.num_steps is None:
        return 0.008 * torch.minimum(t - process.t_data, process.t_max - t)
    return 0.2 * torch.minimum(t - t.floor(), t.ceil() - t)


@every_process
def test_marginals_are_the_stated_logarithms(process):
    t = times(process)
    torch.testing.assert_close(process.signal(t).value, process.log_alpha(t).exp(), rtol=1e-13, atol=0)
    torch.testing.assert_close(process.factor(t).value, process.log_sigma(t).exp(), rtol=1e-13, atol=0)
    ratio = process.signal(t).covariance().value / variance(process, t)
    torch.testing.assert_close(process.log_snr(t), ratio.log(), rtol=0, atol=1e-12)
    if process.variance_preserving:
        total = process.signal(t).covariance().value + variance(process, t)
        torch.testing.assert_close(total, torch.ones_like(t), rtol=0, atol=1e-15)


@every_process
def test_transition_moves_the_signal(process):
    """A_t = Psi(t, s) A_s and Psi(t, s) Psi(s, r) = Psi(t, r), forward and backward."""
    x = times(process)
    t, s, r = x[2:], x[1:-1], x[:-2]
    moved = process.transition(t, s) @ process.signal(s)
    torch.testing.assert_close(moved.value, process.signal(t).value, rtol=1e-13, atol=0)
    whole = process.transition(t, s) @ process.transition(s, r)
    torch.testing.assert_close(whole.value, process.transition(t, r).value, rtol=1e-13, atol=0)
    back = process.transition(s, t) @ process.transition(t, s)
    torch.testing.assert_close(back.value, torch.ones_like(t), rtol=1e-13, atol=0)


@every_process
def test_drift_and_diffusion_are_the_rates_of_the_marginal(process):
    """F = (log alpha)' and d(sigma^2)/dt = 2 F sigma^2 + G^2."""
    t, h = times(process), step(process)
    drift = derivative(lambda x: process.signal(x).value, t, h) / process.signal(t).value
    torch.testing.assert_close(process.drift(t).value, drift, rtol=1e-8, atol=1e-9)
    rate = derivative(lambda x: variance(process, x), t, h)
    torch.testing.assert_close(process.variance_rate(t), rate, rtol=1e-8, atol=1e-9)
    stated = 2 * process.drift(t).value * variance(process, t) + process.diffusion(t).covariance().value
    torch.testing.assert_close(stated, process.variance_rate(t), rtol=1e-11, atol=1e-15)


@every_process
def test_variance_is_what_is_moved_and_what_is_added(process):
    """Sigma_t = Psi Sigma_s Psi^T + Q Q^T."""
    x = times(process)
    t, s = x[1:], x[:-1]
    moved = (process.transition(t, s) @ process.factor(s)).covariance()
    added = process.transition_factor(t, s).covariance()
    torch.testing.assert_close((moved + added).value, variance(process, t), rtol=1e-13, atol=0)
    generic = super(ScalarProcess, process).transition_factor(t, s)
    torch.testing.assert_close(generic.value, process.transition_factor(t, s).value, rtol=1e-8, atol=0)


@every_process
def test_noise_added_in_a_moment_is_the_diffusion(process):
    """Q(t, t - h)^2 = G^2 h to first order, where the difference of variances would have no digits left."""
    t = times(process)
    h = 1e-6 * step(process)
    added = process.transition_factor(t, t - h).value
    passed = t - (t - h)  # as the floats have it
    torch.testing.assert_close(added, process.diffusion(t).value * passed.sqrt(), rtol=2e-5, atol=0)


@every_process
def test_noise_added_since_the_data(process):
    """From the data time on everything has been added, but for noise that the data time has itself."""
    t = times(process)
    start = torch.tensor(process.t_data, dtype=torch.float64)
    left = (process.transition(t, start) @ process.factor(start)).covariance().value
    added = process.transition_factor(t, start).covariance().value
    torch.testing.assert_close(added, variance(process, t) - left, rtol=1e-8, atol=0)
    assert float(process.transition_factor(t[0], t[0]).value) == 0.0


@every_process
def test_posterior_is_bayes_rule(process):
    """Mean and variance against the conditional law of (u_s, u_t) written with the joint covariance."""
    x = times(process)
    s, t = x[:-1], x[1:]
    keep, fresh = process.posterior(t, s)
    psi = process.transition(t, s).value
    gain = variance(process, s) * psi / variance(process, t)
    torch.testing.assert_close(keep.value, gain * process.factor(t).value, rtol=1e-12, atol=0)
    left = variance(process, s) - gain * psi * variance(process, s)
    torch.testing.assert_close(fresh.value**2, left, rtol=1e-8, atol=0)
    torch.testing.assert_close((keep.covariance() + fresh.covariance()).value, variance(process, s), rtol=1e-12, atol=0)
    generic = super(ScalarProcess, process).posterior_factor(t, s)
    torch.testing.assert_close(generic.value, fresh.value, rtol=1e-8, atol=0)


@every_process
def test_log_snr_falls_and_has_an_inverse(process):
    t = torch.linspace(process.t_data, process.t_max, 1001, dtype=torch.float64)
    log_snr = process.log_snr(t)
    assert bool((log_snr.diff() < 0.0).all())
    back = process.time_of_log_snr(log_snr)
    # What one rounding of the log-SNR means in time.
    slope = (log_snr.diff() / t.diff()).abs()
    slack = 4e-16 * log_snr.abs().clamp(1.0, 1e3)[1:] / slope
    assert bool(((back - t).abs()[1:] <= 1e-12 * (t - process.t_data)[1:] + slack).all())
    assert float(back[0]) == pytest.approx(process.t_data, abs=1e-15)
    torch.testing.assert_close(process.log_snr(back)[1:], log_snr[1:], rtol=1e-13, atol=1e-13)


@every_process
def test_times_out_of_range_are_the_ends(process):
    far = torch.tensor([math.inf, 1e4, -1e4, -math.inf], dtype=torch.float64)
    ends = [process.t_data, process.t_data, process.t_max, process.t_max]
    found = process.time_of_log_snr(far).tolist()
    assert found == pytest.approx(ends, rel=0, abs=1e-30)  # a log-SNR of 1e4 is within the range of some
    assert process.time_of(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist() == [process.t_data, process.t_max]


@every_process
def test_bisection_finds_what_the_closed_forms_find(process):
    wanted = process.log_snr(times(process))
    found = ScalarProcess.time_of_log_snr(process, wanted)
    torch.testing.assert_close(found, process.time_of_log_snr(wanted), rtol=1e-11, atol=1e-12)
    ends = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    assert ScalarProcess.time_of_log_snr(process, ends).tolist() == [process.t_data, process.t_max]


@every_process
def test_time_of_a_signal_level(process):
    """The level of a variance-preserving process with the same signal-to-noise ratio."""
    t = times(process)
    alpha, sigma = process.signal(t).value, process.factor(t).value
    level = alpha / (alpha**2 + sigma**2).sqrt()
    back = process.time_of(level)
    # A level close to one is given by few digits of 1 - alpha, one close to zero by all.
    slack = 2e-16 / (1.0 - level) + 1e-14 * process.log_snr(t).abs().clamp_min(1.0)
    assert bool(((process.log_snr(back) - process.log_snr(t)).abs() <= slack).all())


@every_process
def test_sampling_starts_from_the_variance_of_the_prior(process):
    if process.variance_preserving:
        assert process.prior_factor().value == process.prior_factor(times(process)[0]).value == 1.0
    else:
        largest = getattr(process, "sigma_max", 1.0)
        assert float(process.prior_factor().value) == pytest.approx(largest, rel=1e-14)
        middle = times(process)[3]
        assert torch.equal(process.prior_factor(middle).value, process.factor(middle).value)


def test_vp_times_keep_their_digits_at_both_ends():
    """1 / SNR = exp(E) - 1 with E = beta_min t + (beta_max - beta_min) t^2 / 2, by its series where E is small."""
    process = VP()
    t = torch.tensor([1e-14, 1e-9, 1e-5], dtype=torch.float64)
    integral = 0.1 * t + 0.5 * 19.9 * t**2
    log_snr = -(integral + integral**2 / 2 + integral**3 / 6 + integral**4 / 24).log()
    torch.testing.assert_close(process.time_of_log_snr(log_snr), t, rtol=2e-14, atol=0)
    assert float(VP(0.0, 5.0).time_of(torch.tensor(1.0))) == 0.0
    late = torch.tensor(-30.0, dtype=torch.float64)  # beyond -20 a softplus would forget the one
    found = float(VP(0.1, 100.0).time_of_log_snr(late))
    assert 0.1 * found + 0.5 * 99.9 * found**2 == pytest.approx(30.0 + math.log1p(math.exp(-30.0)), rel=1e-15)
