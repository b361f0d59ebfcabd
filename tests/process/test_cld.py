"""Critically damped Langevin diffusion: its equation, against high precision, and the relations between its parts."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.cld import CLD

# Hundreds of times the digits of float64, and every convention: (settings, variances of Sigma_0, variance added).
CASES = [
    ({}, (1e-6, 0.01 + 1e-6), 0.0),
    ({"eps": 0.0}, (0.0, 0.01), 0.0),
    ({"eps": 1e-9, "eps_rule": "added"}, (0.0, 0.01), 1e-9),
    ({"eps": 1e-9, "velocity": "dsm"}, (1e-9, 1e-9), 0.0),
    ({"eps": 1e-9, "velocity": "dsm", "eps_rule": "added"}, (0.0, 0.0), 1e-9),
    ({"eps": 0.0, "velocity": "dsm"}, (0.0, 0.0), 0.0),
    ({"m_inv": 7.3, "beta0": 0.1, "beta1": 6.9, "gamma": 0.3}, (1e-6, 0.3 / 7.3 + 1e-6), 0.0),
]
NAMES = ["gddim", "no eps", "sgm", "dsm", "sgm dsm", "bare", "rising beta"]
every_case = pytest.mark.parametrize(("settings", "start", "added"), CASES, ids=NAMES)
PROCESSES = [CLD(), CLD(7.3, 0.1, 6.9, 0.3), CLD(1.7, 3.0, -2.0, velocity="dsm"), CLD(eps=1e-9)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["gddim", "rising", "falling dsm", "small eps"])
TIMES = torch.tensor([1e-3, 0.004, 0.03, 0.11, 0.37, 0.62, 0.95], dtype=torch.float64)
CENTRAL = ((1, 4 / 5), (2, -1 / 5), (3, 4 / 105), (4, -1 / 280))  # of eighth order


def f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def scaled(got: Tensor, want: Tensor, scale: Tensor) -> float:
    """The largest difference of two batches of matrices, each in units of the largest entry of its `scale`."""
    return float(((got - want).abs() / scale.abs().amax((-2, -1), keepdim=True)).max())


def derivative(function, t: Tensor) -> Tensor:
    h = 0.002 * t
    total = sum(weight * (function(t + k * h) - function(t - k * h)) for k, weight in CENTRAL)
    return total / h[:, None, None]


def exact(process: CLD, t: float, start: tuple[float, float], added: float) -> list[mpmath.mpf]:
    """The entries of L_t from the textbook forms, which cancel, with 60 digits."""
    with mpmath.workdps(60):
        t, m = mpmath.mpf(t), mpmath.mpf(process.m_inv)
        b = process.beta0 * t + mpmath.mpf(process.beta1) * t**2 / 2
        y = mpmath.sqrt(m) * b
        psi = mpmath.exp(-y) * mpmath.matrix([[1 + y, m * b], [-b, 1 - y]])
        away = mpmath.diag([mpmath.mpf(start[0]) - 1, mpmath.mpf(start[1]) - 1 / m])
        sigma = psi * away * psi.T + mpmath.diag([1 + mpmath.mpf(added), 1 / m + mpmath.mpf(added)])
        top = mpmath.sqrt(sigma[0, 0])
        low = sigma[1, 1] - sigma[0, 1] ** 2 / sigma[0, 0]
        return [top, sigma[0, 1] / top, mpmath.sqrt(low)]


@every_case
def test_cholesky_factor_keeps_its_digits(settings, start, added):
    """From t = 1e-12 on, also where entries of Sigma are 1e-38 and its determinant 1e-50."""
    process = CLD(**settings)
    times = [1e-12, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0]
    found = process.factor(f64(*times), "cholesky").values.tolist()
    for t, ((top, zero), (side, low)) in zip(times, found, strict=True):
        wanted = exact(process, t, start, added)
        assert zero == 0.0
        assert abs(top / wanted[0] - 1) < 2e-14
        assert abs(low / wanted[2] - 1) < 2e-14
        assert abs(side - wanted[1]) < 2e-14 * mpmath.hypot(wanted[1], wanted[2])


def test_start_is_the_stated_diagonal():
    zero = f64(0.0)
    for settings, (x, v), added in CASES:
        wanted = torch.diag(f64(math.sqrt(x + added), math.sqrt(v + added)))
        torch.testing.assert_close(CLD(**settings).factor(zero, "cholesky").values[0], wanted, rtol=1e-15, atol=0)
    assert torch.equal(CLD().factor(zero, "R").values, CLD().factor(zero, "cholesky").values)
    assert CLD().signal(zero).is_identity()


@every_process
def test_equation_is_the_one_of_the_paper(process):
    """dx = beta m_inv v dt, dv = -beta x dt - Gamma beta m_inv v dt + sqrt(2 Gamma beta) dw, Gamma^2 m_inv = 4."""
    friction = 2.0 / math.sqrt(process.m_inv)
    for t, drift, diffusion in zip(TIMES, process.drift(TIMES).values, process.diffusion(TIMES).values, strict=True):
        beta = process.beta0 + process.beta1 * float(t)
        wanted = f64(0.0, beta * process.m_inv, -beta, -friction * beta * process.m_inv).reshape(2, 2)
        torch.testing.assert_close(drift, wanted, rtol=1e-15, atol=0)
        torch.testing.assert_close(diffusion, torch.diag(f64(0.0, math.sqrt(2 * friction * beta))), rtol=1e-15, atol=0)


@every_process
def test_transition_solves_the_equation(process):
    """A group, dPsi/dt = F Psi, det Psi = exp(-2 c (B(t) - B(s))), in both directions of time."""
    t, s, r = TIMES[2:], TIMES[1:-1], TIMES[:-2]
    for last, first in ((t, s), (s, t)):
        psi = process.transition(last, first)
        b = (last - first) * (process.beta0 + 0.5 * process.beta1 * (last + first))
        wanted = -2 * math.sqrt(process.m_inv) * b
        torch.testing.assert_close(torch.linalg.det(psi.values).log(), wanted, rtol=0, atol=2e-12)
        assert ((psi @ process.transition(first, last)).values - torch.eye(2)).abs().max() < 2e-12
    whole = process.transition(t, s) @ process.transition(s, r)
    torch.testing.assert_close(whole.values, process.transition(t, r).values, rtol=0, atol=2e-14)
    assert torch.equal(process.signal(t).values, process.transition(t, torch.zeros_like(t)).values)
    moved = derivative(lambda x: process.signal(x).values, TIMES)
    wanted = process.drift(TIMES) @ process.signal(TIMES)
    assert scaled(moved, wanted.values, process.drift(TIMES).values) < 1e-9


@every_process
def test_covariance_solves_its_equation(process):
    """dSigma/dt = F Sigma + Sigma F^T + G G^T."""
    drift, sigma = process.drift(TIMES).values, process.factor(TIMES).covariance().values
    wanted = drift @ sigma + sigma @ drift.mT + process.diffusion(TIMES).covariance().values
    for kind in ("cholesky", "R"):
        rate = derivative(lambda t, kind=kind: process.factor(t, kind).covariance().values, TIMES)
        assert scaled(rate, wanted, drift @ sigma) < 1e-9


@every_process
def test_noise_between_two_times_is_what_is_missing(process):
    """Sigma_t = Psi Sigma_s Psi^T + Q Q^T, also over moments where the difference has no digits left."""
    t, s = TIMES[1:], TIMES[:-1]
    moved = (process.transition(t, s) @ process.factor(s)).covariance()
    whole = (moved + process.transition_factor(t, s).covariance()).values
    assert scaled(whole, process.factor(t).covariance().values, whole) < 1e-14
    h = f64(1e-12, 1e-9, 1e-6)
    start = torch.zeros_like(h)
    b = h * (process.beta0 + 0.5 * process.beta1 * h)
    added = process.transition_factor(h, start).covariance().values
    # The leading terms of the integral of Psi G G^T Psi^T.
    growth = 4.0 * b / math.sqrt(process.m_inv)
    leading = [process.m_inv**2 * b**2 * growth / 3, process.m_inv * b * growth / 2, growth]
    for got, want in zip((added[:, 0, 0], added[:, 0, 1], added[:, 1, 1]), leading, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=0)
    assert process.transition_factor(t, t).is_zero()


@every_process
def test_posterior_is_bayes_rule(process):
    """Against dense conditioning where it has digits; K K^T + C C^T = Sigma_s; and over a moment, C is the noise."""
    t, s = f64(0.2, 0.5, 0.9), f64(0.1, 0.3, 0.3)
    psi = process.transition(t, s).values
    low, high = (process.factor(x).covariance().values for x in (s, t))
    gain = torch.linalg.solve(high, psi @ low).mT
    for kind in ("R", "cholesky"):
        keep, fresh = process.posterior(t, s, kind)
        assert scaled(keep.values, gain @ process.factor(t, kind).values, keep.values) < 1e-12
        assert scaled(fresh.covariance().values, low - gain @ psi @ low, low) < 1e-12
        assert scaled((keep.covariance() + fresh.covariance()).values, low, low) < 1e-13
    later = s + 1e-9
    fresh, back = process.posterior_factor(later, s), process.transition(s, later)
    added = (back @ process.transition_factor(later, s)).covariance().values
    torch.testing.assert_close(fresh.covariance().values, added, rtol=1e-4, atol=0)


def test_only_the_integral_of_beta_counts():
    """beta(t) = 1 + 4 t at time t is beta = 3 at the time of equal B."""
    rising, constant = CLD(beta0=1.0, beta1=4.0), CLD(beta0=3.0)
    t = TIMES
    same = (t + 2 * t**2) / 3
    torch.testing.assert_close(rising.signal(t).values, constant.signal(same).values, rtol=1e-13, atol=1e-15)
    for kind in ("R", "cholesky"):
        wanted = constant.factor(same, kind).values
        torch.testing.assert_close(rising.factor(t, kind).values, wanted, rtol=1e-12, atol=1e-14)
    fast, slow = rising.transition_factor(t[1:], t[:-1]), constant.transition_factor(same[1:], same[:-1])
    torch.testing.assert_close(fast.values, slow.values, rtol=1e-11, atol=0)
    rate = ((1 + 4 * t) / 3)[:, None, None]
    torch.testing.assert_close(rising.drift(t).values, rate * constant.drift(same).values, rtol=1e-14, atol=0)


def test_everything_tends_to_the_stationary_law():
    process = CLD(beta0=40.0)
    assert process.signal(f64(1.0)).values.abs().max() < 1e-30
    stationary = torch.diag(f64(1.0, 0.25))
    torch.testing.assert_close(process.factor(f64(1.0)).covariance().values[0], stationary, rtol=0, atol=1e-15)
    start = torch.diag(f64(1.0, 0.5))
    assert torch.equal(process.prior_factor().values, start)
    assert torch.equal(process.prior_factor(torch.tensor(1.0, dtype=torch.float64)).values, start)


@pytest.mark.parametrize(("velocity", "variance"), [("hsm", 0.0), ("dsm", 0.01)])
def test_sampling_may_start_earlier_from_white_data(velocity, variance):
    process, t = CLD(velocity=velocity), torch.tensor(0.4, dtype=torch.float64)
    psi, data = process.signal(t).values, torch.diag(f64(1.0, variance))
    wanted = psi @ data @ psi.T + process.factor(t).covariance().values
    torch.testing.assert_close(process.prior_factor(t).covariance().values, wanted, rtol=1e-14, atol=0)
    late = process.prior_factor(torch.tensor(1.0 - 1e-12, dtype=torch.float64)).values
    torch.testing.assert_close(late, process.prior_factor().values, rtol=0, atol=5e-6)


def test_states_hold_position_before_velocity():
    x0 = torch.arange(12, dtype=torch.float64).reshape(2, 3, 1, 2)
    v = -x0
    process = CLD()
    assert torch.equal(process.lift(x0), torch.cat([x0, torch.zeros_like(x0)], 1))
    assert torch.equal(process.lift(x0, v), torch.cat([x0, v], 1))
    assert torch.equal(process.readout(process.lift(x0, v)), x0)
    assert process.state_shape((3, 8, 4)) == (6, 8, 4)
    law = process.marginal(f64(0.3, 0.3))
    (a, _), (c, _) = law.signal.values[0].tolist()
    moved = law.perturb(process.lift(x0), torch.zeros(2, 6, 1, 2, dtype=torch.float64))
    torch.testing.assert_close(moved, torch.cat([a * x0, c * x0], 1), rtol=1e-14, atol=0)


def test_velocity_of_the_start_is_drawn_or_folded_in():
    """The law of the state over both is the same: Sigma of hsm is that of dsm with the velocity's variance moved."""
    hsm, dsm = CLD(eps=1e-6), CLD(eps=1e-6, velocity="dsm")
    assert (hsm.velocity_std, dsm.velocity_std) == (0.0, pytest.approx(0.1, rel=1e-15))
    psi, spread = dsm.signal(TIMES).values, dsm.data_covariance(0.0).values
    assert torch.equal(hsm.data_covariance(0.5).values, torch.diag(f64(0.25, 0.0)))
    whole = psi @ spread @ psi.mT + dsm.factor(TIMES).covariance().values
    assert scaled(hsm.factor(TIMES).covariance().values, whole, whole) < 2e-15


def test_noise_levels_have_no_meaning():
    process, instead = CLD(), r"process=cld: .*objective=plain, grid=power or uniform, and prediction\.time=999t"
    for ask in (process.log_snr, process.time_of_log_snr, process.time_of):
        with pytest.raises(ConfigError, match=instead):
            ask(f64(0.5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"m_inv": 0.0}, r"process\.m_inv=0\.0: must be > 0"),
        ({"beta0": -1.0}, "beta0=-1.0 and beta1=0.0"),
        ({"beta0": 1.0, "beta1": -1.5}, "beta0=1.0 and beta1=-1.5"),
        ({"beta0": 0.0}, "not zero throughout"),
        ({"gamma": -0.1}, r"process\.gamma=-0\.1: must be >= 0"),
        ({"eps": math.nan}, r"process\.eps=nan: must be >= 0"),
    ],
)
def test_impossible_numbers_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        CLD(**settings)
