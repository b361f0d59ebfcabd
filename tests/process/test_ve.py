"""Variance exploding processes against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.process.ve import EDM, VE

TIMES = torch.tensor([0.0, 0.1, 0.25, 0.7, 1.0], dtype=torch.float64)


def test_ve_is_geometric():
    process = VE(0.02, 80.0)
    wanted = [0.02 * 4000.0**t for t in TIMES.tolist()]
    assert process.factor(TIMES).value.tolist() == pytest.approx(wanted, rel=1e-14)
    assert process.signal(TIMES).value.tolist() == [1.0] * 5
    assert process.drift(TIMES).is_zero()
    growth = [sigma * math.sqrt(2 * math.log(4000.0)) for sigma in wanted]
    assert process.diffusion(TIMES).value.tolist() == pytest.approx(growth, rel=1e-14)
    assert not process.variance_preserving
    assert float(process.prior_factor().value) == pytest.approx(80.0, rel=1e-15)


def test_edm_time_is_the_noise_level():
    process, t = EDM(80.0), torch.tensor([0.0, 1e-9, 0.002, 1.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(process.factor(t).value, t, rtol=1e-14, atol=0)
    assert (process.t_data, process.t_max) == (0.0, 80.0)
    assert process.drift(t).is_zero()
    torch.testing.assert_close(process.diffusion(t).value, (2 * t).sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(process.time_of_log_snr(-2 * t[1:].log()), t[1:], rtol=1e-14, atol=0)


@pytest.mark.parametrize(("process", "s", "t"), [(VE(0.01, 50.0), 0.2, 0.6), (EDM(), 0.5, 3.0)])
def test_added_noise_is_the_difference_of_variances(process, s, t):
    s, t = (torch.tensor(x, dtype=torch.float64) for x in (s, t))
    low, high = float(process.factor(s).value), float(process.factor(t).value)
    assert float(process.transition_factor(t, s).value) == pytest.approx(math.sqrt(high**2 - low**2), rel=1e-14)
    assert float(process.posterior_factor(t, s).value) == pytest.approx(
        low * math.sqrt(high**2 - low**2) / high, rel=1e-14
    )


def test_levels_of_variance_preserving_schedules_have_a_time():
    """alpha = 1 / sqrt(1 + sigma^2) is the level with the same signal-to-noise ratio."""
    sigma = torch.tensor([0.05, 1.0, 12.0], dtype=torch.float64)
    alpha = (1 + sigma**2).rsqrt()
    torch.testing.assert_close(EDM().time_of(alpha), sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(VE().factor(VE().time_of(alpha)).value, sigma, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [lambda: VE(0.0, 1.0), lambda: VE(2.0, 1.0), lambda: EDM(0.0), lambda: EDM(-1.0)])
def test_impossible_levels_are_refused(make):
    with pytest.raises(ConfigError, match="sigma_max"):
        make()
