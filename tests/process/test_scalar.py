"""VP and cosine against their closed forms, and the relations that every linear Gaussian process satisfies."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.process.cosine import Cosine
from diffexp.process.operator import Scalar, combine
from diffexp.process.scalar import ScalarProcess
from diffexp.process.vp import VP

TIMES = torch.tensor([1e-5, 1e-3, 0.02, 0.1, 0.37, 0.5, 0.81, 1.0], dtype=torch.float64)
PROCESSES = [VP(), VP(0.0, 5.0), Cosine(), Cosine(10.0, -6.0)]
ids = [f"{process.name}{i}" for i, process in enumerate(PROCESSES)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=ids)


def test_vp_is_the_integral_of_beta():
    alpha = VP(0.1, 20.0).signal(TIMES).value
    expected = [math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t * t)) for t in TIMES.tolist()]
    assert alpha.tolist() == pytest.approx(expected, rel=1e-14)


def test_vp_noise_keeps_its_digits_near_the_data():
    t = 1e-9
    integral = 0.1 * t + 0.5 * 19.9 * t * t
    expected = math.sqrt(integral - integral**2 / 2)  # 1 - exp(-x) = x - x^2 / 2 + ...
    assert float(VP().factor(torch.tensor(t, dtype=torch.float64)).value) == pytest.approx(expected, rel=1e-13)


def test_cosine_reaches_its_limits_and_is_antisymmetric():
    process = Cosine()
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    log_snr = process.log_snr(t)
    assert log_snr[[0, 2, 4]].tolist() == pytest.approx([20.0, 0.0, -20.0], abs=1e-12)
    assert float(log_snr[1] + log_snr[3]) == pytest.approx(0.0, abs=1e-12)
    assert float(process.signal(t[4]).value) == pytest.approx(math.sin(math.atan(math.exp(-10.0))), rel=1e-14)


@every_process
def test_variance_is_preserved(process):
    total = process.signal(TIMES).covariance() + process.factor(TIMES).covariance()
    assert total.value.tolist() == pytest.approx([1.0] * len(TIMES), abs=1e-14)
    assert process.variance_preserving


@every_process
def test_time_of_inverts_the_signal(process):
    back = process.time_of(process.signal(TIMES[2:]).value)
    torch.testing.assert_close(back, TIMES[2:], rtol=1e-9, atol=1e-9)


@every_process
def test_transition_is_a_group_and_moves_the_signal(process):
    t, s, r = TIMES[3:], TIMES[2:-1], TIMES[1:-2]
    whole = process.transition(t, r).value
    torch.testing.assert_close(whole, (process.transition(t, s) @ process.transition(s, r)).value, rtol=1e-13, atol=0)
    moved = (process.transition(t, s) @ process.signal(s)).value
    torch.testing.assert_close(moved, process.signal(t).value, rtol=1e-13, atol=0)


@every_process
def test_drift_and_diffusion_are_the_rates_of_the_marginal(process):
    """F = (log alpha)' and d(sigma^2)/dt = 2 F sigma^2 + G^2, by central differences."""
    t, h = TIMES[2:-1], 1e-5
    log_alpha = [process.signal(t + d).value.log() for d in (-h, h)]
    torch.testing.assert_close(process.drift(t).value, (log_alpha[1] - log_alpha[0]) / (2 * h), rtol=1e-6, atol=1e-6)
    variance = [process.factor(t + d).covariance().value for d in (-h, h)]
    rate = 2 * process.drift(t).value * process.factor(t).covariance().value + process.diffusion(t).covariance().value
    torch.testing.assert_close(rate, (variance[1] - variance[0]) / (2 * h), rtol=1e-6, atol=1e-6)


@every_process
def test_posterior_is_bayes_rule(process):
    """Mean and variance against the conditional Gaussian of (u_s, u_t) written with the joint covariance."""
    s, t = TIMES[1:-1], TIMES[2:]
    keep, fresh = process.posterior(t, s)
    psi = process.transition(t, s).value
    var_s, var_t = process.factor(s).value ** 2, process.factor(t).value ** 2
    gain = var_s * psi / var_t  # covariance of (u_s, u_t) over the variance of u_t
    torch.testing.assert_close(keep.value, gain * process.factor(t).value, rtol=1e-12, atol=0)
    torch.testing.assert_close(fresh.value**2, var_s - gain * psi * var_s, rtol=1e-9, atol=1e-14)
    kept = (keep.covariance() + fresh.covariance()).value
    torch.testing.assert_close(kept, var_s, rtol=1e-12, atol=0)


def test_generic_posterior_factor_agrees_with_the_form_free_of_cancellation():
    process = VP()
    t, s = TIMES[4:], TIMES[3:-1]
    generic = super(ScalarProcess, process).posterior_factor(t, s)
    torch.testing.assert_close(generic.value, process.posterior_factor(t, s).value, rtol=1e-10, atol=0)


def test_posterior_of_close_times_keeps_its_digits():
    process, t = VP(), torch.tensor(0.5, dtype=torch.float64)
    h = 1e-9
    fresh = process.posterior(t, t - h)[1].value
    beta = float(process.diffusion(t).covariance().value)
    assert float(fresh) == pytest.approx(math.sqrt(beta * h), rel=1e-6)


def test_scalar_operators_obey_the_algebra():
    a, b = Scalar(torch.tensor([2.0, -3.0], dtype=torch.float64)), Scalar(torch.tensor([0.5, 4.0], dtype=torch.float64))
    u = torch.arange(1.0, 9.0, dtype=torch.float64).reshape(2, 1, 2, 2)
    factors = torch.tensor([2.0, -3.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    assert torch.equal(a.apply(u), factors * u)
    assert torch.equal((a @ b).apply(u), a.apply(b.apply(u)))
    assert torch.equal((a + b).apply(u), a.apply(u) + b.apply(u))
    assert torch.equal((a - b).apply(u), a.apply(u) - b.apply(u))
    assert torch.equal((0.5 * a).apply(u), 0.5 * a.apply(u))
    assert torch.equal((a @ a.inverse()).apply(u), u)
    assert torch.equal(a.transpose().apply(u), a.apply(u))
    assert torch.equal(a.covariance().factor().apply(u), Scalar(a.value.abs()).apply(u))
    assert torch.equal(combine([(a, u), (b, 2 * u)]), a.apply(u) + b.apply(2 * u))
    assert torch.equal(combine([(a[1], u), (b[0], u)]), -2.5 * u)
    assert Scalar(0.0).is_zero()
    assert not a.is_zero()


def test_combining_leaves_its_inputs_alone():
    u, e = torch.ones(2, 3), torch.ones(2, 3)
    combine([(Scalar(1.0), u), (Scalar(2.0), e)])
    assert torch.equal(u, torch.ones(2, 3))
    assert torch.equal(e, torch.ones(2, 3))


def test_a_number_keeps_the_states_type():
    half = Scalar(0.1).cast(torch.float32, "cpu")
    assert half.apply(torch.ones(2, 3, dtype=torch.float32)).dtype == torch.float32
    assert half.apply(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(20.0, 0.1), "0 <= beta_min < beta_max"),
        (lambda: VP(-1.0, 2.0), "0 <= beta_min < beta_max"),
        (lambda: Cosine(-20.0, 20.0), "logsnr_min < logsnr_max"),
    ],
)
def test_impossible_constants_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
