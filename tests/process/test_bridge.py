"""Bridges against their definitions: integrals of g^2 / alpha^2, the tied SDE, Bayes' rule, and both ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.process.bridge import Bridge
from diffexp.process.bridge_i2sb import BridgeI2SB, BridgeI2SBDiscrete
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian

BRIDGES = [
    BridgeVP(),
    BridgeVP(0.0, 5.0, t_max=0.7),
    BridgeVP(1.5, 0.0),
    BridgeVE(),
    BridgeVE(3.0),
    Brownian(),
    Brownian(0.3, t_max=2.0),
    BridgeI2SB(),
    BridgeI2SB(0.2, 0.2),
]
every_bridge = pytest.mark.parametrize("process", BRIDGES, ids=[f"{p.name}{i}" for i, p in enumerate(BRIDGES)])


def _f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def times(process: Process) -> Tensor:
    """From close to the data to close to the end point, past I2SB's turn."""
    return process.t_max * _f64(1e-6, 1e-3, 0.1, 0.25, 0.49, 0.5, 0.51, 0.8, 0.999, 1.0 - 1e-6)


def numbers(process: Bridge, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    law = process.marginal(t)
    return law.auxiliary.value, law.signal.value, law.factor.value


def integral(process: Bridge, low: float, high: float) -> float:
    """int g^2 / alpha^2 by Gauss's rule on both sides of the middle."""
    nodes, weights = np.polynomial.legendre.leggauss(30)
    total, middle = 0.0, 0.5 * process.t_max
    for a, b in ((low, min(high, middle)), (max(low, middle), high)):
        if a < b:
            t = torch.from_numpy(0.5 * (b - a) * nodes + 0.5 * (a + b))
            rate = process.noise_rate(t) / process.alpha(t).square()
            total += 0.5 * (b - a) * float((torch.from_numpy(weights) * rate).sum())
    return total


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=0.0)


@every_bridge
def test_the_noise_is_the_integral_of_its_rate(process):
    t, end = times(process), process.t_max
    whole = integral(process, 0.0, end)
    assert float(process.rho2_end()) == pytest.approx(whole, rel=1e-13)
    close(process.rho2(t), _f64(*(integral(process, 0.0, s) for s in t.tolist())))
    close(process.rho_bar2(t), _f64(*(integral(process, s, end) for s in t.tolist())), rtol=1e-9)
    pairs = zip(t[:-4].tolist(), t[4:].tolist(), strict=True)
    close(process.gained(t[4:], t[:-4]), _f64(*(integral(process, *pair) for pair in pairs)))


@every_bridge
def test_alpha_is_the_exponential_of_the_drift(process):
    t, h = times(process)[2:-2], 1e-5
    slope = (process.log_alpha(t + h) - process.log_alpha(t - h)) / (2 * h)
    torch.testing.assert_close(slope, process.reference_drift(t).value, rtol=1e-7, atol=1e-9)
    assert float(process.log_alpha(_f64(0.0))) == 0.0


@every_bridge
def test_both_ends_are_exact(process):
    a, b, c = numbers(process, _f64(0.0, process.t_max))
    assert (a.tolist(), b.tolist(), c.tolist()) == ([0.0, 1.0], [1.0, 0.0], [0.0, 0.0])
    assert process.log_snr(_f64(0.0, process.t_max)).tolist() == [math.inf, -math.inf]


@every_bridge
def test_identities_of_the_coefficients(process):
    t = times(process)
    a, b, c = numbers(process, t)
    alpha_end = process.alpha(_f64(process.t_max))
    close(b + alpha_end * a, process.alpha(t))
    rho, left, whole = process.rho(t), process.rho_bar2(t).sqrt(), process.rho2_end().sqrt()
    close(b / c, left / (rho * whole))
    close(a / c, rho / (alpha_end * left * whole))
    close(process.log_snr(t), 2.0 * (b / c).log(), rtol=1e-11)


@every_bridge
def test_digits_are_kept_close_to_the_end_point(process):
    """rhobar^2 = g^2 / alpha^2 (T - t), to first order."""
    left = process.t_max * 2.0**-30
    t = _f64(process.t_max - left)
    first = process.noise_rate(t) / process.alpha(t).square() * left
    close(process.rho_bar2(t), first, rtol=1e-7)
    c = numbers(process, t)[2]
    close(c, process.alpha(t) * first.sqrt(), rtol=1e-7)


@every_bridge
def test_the_bridge_is_a_linear_process_with_the_end_point_as_a_force(process):
    """da/dt = F a + g^2 h_y, db/dt = F b, d(c^2)/dt = 2 F c^2 + g^2."""
    t, h = times(process)[2:5], 1e-5 * process.t_max
    before, now, after = (numbers(process, t + step) for step in (-h, 0.0, h))
    a_rate, b_rate = ((after[i] - before[i]) / (2 * h) for i in (0, 1))
    c_rate = (after[2].square() - before[2].square()) / (2 * h)
    drift, force, noise = process.drift(t).value, process.auxiliary_drift(t).value, process.noise_rate(t)
    close(a_rate, drift * now[0] + force, rtol=1e-6)
    close(b_rate, drift * now[1], rtol=1e-6)
    close(c_rate, 2.0 * drift * now[2].square() + noise, rtol=1e-6)


@every_bridge
def test_the_h_transform_is_the_score_of_the_end_point(process):
    """x_T given x_t is N(x / abar, alpha_T^2 rhobar^2): its score with respect to x, by automatic differentiation."""
    t = times(process)[3:-1]
    x = torch.linspace(-1.0, 1.0, len(t), dtype=torch.float64, requires_grad=True)
    y, end = 0.4, process.alpha(_f64(process.t_max))
    law = torch.distributions.Normal(x / process.alpha_bar(t), end * process.rho_bar2(t).sqrt())
    (score,) = torch.autograd.grad(law.log_prob(torch.full_like(x, y)).sum(), x)
    state, force = process.h_transform(t)
    close(state.value * x.detach() + force.value * y, score)


@every_bridge
def test_transitions_chain_and_keep_the_law(process):
    r, s, t = times(process)[2], times(process)[5], times(process)[8]
    chained = process.transition(t, s) @ process.transition(s, r)
    close(chained.value, process.transition(t, r).value)
    close(process.transition(t, s).value, process.signal(t).value / process.signal(s).value)
    for pair in ((t, s), (s, r), (_f64(process.t_max)[0], s)):
        moved = process.transition(*pair).value * process.factor(pair[1]).value
        variance = moved.square() + process.transition_factor(*pair).value.square()
        torch.testing.assert_close(variance, process.factor(pair[0]).value.square(), rtol=1e-12, atol=1e-30)


@every_bridge
def test_the_posterior_is_that_of_the_free_process(process):
    """q(x_s | x_0, x_t) knows nothing of the end point: mean and variance of the reference process, Bayes' rule."""
    s, t = times(process)[:-2], times(process)[2:]
    mean, fresh = (operator.value for operator in process.posterior(t, s))
    (a_t, b_t, c_t), (a_s, b_s, c_s) = numbers(process, t), numbers(process, s)
    ratio, alpha_s, alpha_t = process.rho2(s) / process.rho2(t), process.alpha(s), process.alpha(t)
    k = mean / c_t
    close(k, alpha_s * ratio / alpha_t)
    scale = float(a_s.abs().max())
    torch.testing.assert_close(a_s - k * a_t, torch.zeros_like(a_s), rtol=0, atol=1e-14 * scale)
    torch.testing.assert_close(b_s - k * b_t, alpha_s * (1.0 - ratio), rtol=1e-11, atol=1e-14)
    close(fresh.square(), alpha_s.square() * process.rho2(s) * (1.0 - ratio), rtol=1e-9)
    close(mean.square() + fresh.square(), c_s.square())


@every_bridge
def test_from_the_end_point_all_noise_is_fresh(process):
    s = times(process)[:-1]
    mean, fresh = process.posterior(torch.full_like(s, process.t_max), s)
    assert mean.is_zero()
    close(fresh.value, process.factor(s).value)


@every_bridge
def test_times_of_noise_levels(process):
    t = times(process)
    close(process.time_of_log_snr(process.log_snr(t)), t, rtol=1e-9)
    assert process.time_of_log_snr(_f64(math.inf, -math.inf)).tolist() == [0.0, process.t_max]


def test_ddbm_writes_the_same_coefficients_with_the_free_process_snr():
    """a = exp(l_T - l_t + log alpha_t - log alpha_T), b = -expm1(l_T - l_t) alpha_t; l: log-SNR without end point."""
    process = BridgeVP()
    t = times(process)[1:-1]
    log_snr, end = -process.rho2(t).log(), -process.rho2_end().log()
    a, b, c = numbers(process, t)
    gap, log_alpha = end - log_snr, process.log_alpha(t)
    close(a, (gap + log_alpha - process.log_alpha(_f64(1.0))).exp())
    close(b, -torch.expm1(gap) * log_alpha.exp(), rtol=1e-11)
    close(c.square(), -torch.expm1(gap) * (2.0 * log_alpha - log_snr).exp(), rtol=1e-11)


def test_constants_of_the_papers():
    assert float(BridgeVP().rho2_end().sqrt()) == pytest.approx(math.sqrt(math.exp(1.1) - 1.0), rel=1e-15)
    assert float(BridgeVE(20.0).rho2_end().sqrt()) == pytest.approx(20.0, rel=1e-15)
    assert float(BridgeI2SB().rho2_end().sqrt()) == pytest.approx(0.497067, abs=5e-7)
    assert float(BridgeI2SBDiscrete()._sums[-1].sqrt()) == pytest.approx(0.496919, abs=5e-7)
    t = _f64(0.3, 0.9)
    a, b, c = numbers(Brownian(0.5), t)
    close(torch.stack([a, b, c]), torch.stack([t, 1.0 - t, 0.5 * (t * (1.0 - t)).sqrt()]), rtol=1e-15)


def test_the_official_table_has_its_quirks():
    """Both sums hold beta_i: a + b = 1 + beta_i / rho_T^2, and noise is left at both ends."""
    process = BridgeI2SBDiscrete()
    t = _f64(0.0, 0.1234, 0.5, 0.9, 1.0)
    a, b, c = numbers(process, t)
    beta = process.noise_rate(t) / 999.0
    close(a + b, 1.0 + beta / process.rho2_end())
    assert c.tolist()[::4] == pytest.approx([0.01, 0.01], rel=1e-12)
    half = [0.5 / 999, 1.5 / 999]  # round half to even
    assert process.index(_f64(*half)).tolist() == [0.0, 2.0]
    close(process.snapped(_f64(*half)), _f64(0.0, 2.0 / 999.0), rtol=1e-15)
    mean, fresh = process.posterior(t[1:], t[:-1])
    close(mean.value.square() + fresh.value.square(), c[:-1].square())


def test_the_official_table_approaches_the_continuous_bridge():
    t = _f64(0.1, 0.35, 0.5, 0.77)
    gaps = []
    for size in (1000, 4000):
        found, wanted = numbers(BridgeI2SBDiscrete(size), t), numbers(BridgeI2SB(), t)
        gaps.append(max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True)))
    assert gaps[0] < 2e-3
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BridgeVP(-0.1), "beta_min >= 0 and beta_d >= 0"),
        (lambda: BridgeVP(0.0, 0.0), "not both 0"),
        (lambda: BridgeVP(t_min=0.0), "t_min=0.0: must lie between 0 and 1"),
        (lambda: BridgeVE(0.001), "t_min=0.002: must lie between 0 and 0.001"),
        (lambda: Brownian(0.0), "sigma=0.0: must be > 0"),
        (lambda: BridgeI2SB(0.0), "0 < beta_min <= beta_max"),
        (lambda: BridgeI2SB(1.0, 0.1), "0 < beta_min <= beta_max"),
        (lambda: BridgeI2SBDiscrete(999), "num_times=999: must be even"),
    ],
)
def test_impossible_constants_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_sampling_starts_from_the_end_point():
    y = torch.ones(2, 1, 3, 3)
    process = BridgeVP()
    assert torch.equal(process.prior_factor().apply(process.start(lambda: pytest.fail("drawn"), y)), y)
    with pytest.raises(ValueError, match="second image"):
        process.start(lambda: y, None)
