"""VP and cosine against their closed forms, and numbers as operators."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.process.cosine import Cosine
from diffexp.process.operator import Scalar, combine
from diffexp.process.vp import VP

TIMES = torch.tensor([1e-5, 1e-3, 0.02, 0.1, 0.37, 0.5, 0.81, 1.0], dtype=torch.float64)


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
