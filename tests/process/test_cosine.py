"""The cosine process for narrow, wide and one-sided limits, against plain formulas in extended precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.process.cosine import Cosine

LONG = np.longdouble
extended = pytest.mark.skipif(np.finfo(LONG).eps > 2e-19, reason="long double is no wider than double here")
LIMITS = [(20.0, -20.0), (30.0, -30.0), (12.0, -10.0), (2.0, 1.9999), (30.0, -3.0), (1.0, -28.0), (-4.0, -9.0), (9, 7)]
every_limit = pytest.mark.parametrize("limits", LIMITS, ids=[f"{high}_{low}" for high, low in LIMITS])
TIMES = np.array([0.0, 1e-6, 1e-3, 0.1, 0.3, 0.5, 0.77, 0.99, 1.0 - 2.0**-14, 1.0])


def angles(limits) -> tuple[np.ndarray, np.ndarray, np.longdouble]:
    """(phi, pi/2 - phi, rate) at TIMES, with limits and times taken as they are in double."""
    high, low = LONG(limits[0]), LONG(limits[1])
    start, end = np.arctan(np.exp(-high / 2)), np.arctan(np.exp(-low / 2))
    phi = start + (end - start) * TIMES.astype(LONG)
    psi = np.arctan(np.exp(low / 2)) + (end - start) * (1 - TIMES.astype(LONG))
    return phi, psi, end - start


def close(got: torch.Tensor, wanted: np.ndarray, rtol: float = 1e-14, atol: float = 0.0) -> None:
    error = np.abs(got.numpy().astype(LONG) - wanted)
    bound = rtol * np.abs(wanted) + atol
    assert bool((error <= bound).all()), (error / np.maximum(np.abs(wanted), LONG(1e-300))).max()


@extended
@every_limit
def test_marginals_keep_their_digits(limits):
    process, t = Cosine(*limits), torch.from_numpy(TIMES)
    phi, psi, _ = angles(limits)
    close(process.signal(t).value, np.sin(psi))
    close(process.factor(t).value, np.sin(phi))
    # Two logarithms of sines: a rounding of each; the limits of narrow schedules are given to 1e-16 themselves.
    close(process.log_snr(t), 2 * (np.log(np.sin(psi)) - np.log(np.sin(phi))), rtol=1e-15, atol=2e-15)


@extended
@every_limit
def test_rates_keep_their_digits(limits):
    process, t = Cosine(*limits), torch.from_numpy(TIMES)
    phi, psi, rate = angles(limits)
    # The reference itself forms the rate as a difference of two angles.
    slack = float(3 * np.finfo(LONG).eps * (np.pi / 2) / rate)
    close(process.drift(t).value, -rate * np.sin(phi) / np.sin(psi), rtol=1e-14 + slack)
    close(process.variance_rate(t), 2 * rate * np.sin(phi) * np.sin(psi), rtol=1e-14 + slack)
    close(process.diffusion(t).value, np.sqrt(2 * rate * np.sin(phi) / np.sin(psi)), rtol=1e-14 + slack)


@every_limit
def test_limits_are_reached(limits):
    ends = Cosine(*limits).log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx(list(limits), rel=1e-15, abs=1e-15)


def test_logarithm_of_the_signal_near_the_data():
    """log cos(phi) = -phi^2 / 2 - phi^4 / 12 - ..., of which log(cos) would keep one digit in nine."""
    phi = math.atan(math.exp(-15.0))
    start = torch.tensor(0.0, dtype=torch.float64)
    assert float(Cosine(30.0, -30.0).log_alpha(start)) == pytest.approx(-(phi**2) / 2 - phi**4 / 12, rel=1e-14)
    assert float(Cosine(30.0, -30.0).log_sigma(start + 1)) == pytest.approx(-(phi**2) / 2 - phi**4 / 12, rel=1e-14)


def test_times_of_narrow_limits():
    process = Cosine(2.0, 1.9999)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(t)), t, rtol=0, atol=2e-11)


def test_very_wide_limits_are_finite():
    process = Cosine(1000.0, -1000.0)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert process.log_snr(t)[[0, 2, 3]].tolist() == pytest.approx([1000.0, 0.0, -1000.0], rel=1e-14, abs=1e-14)
    assert float(process.log_snr(t)[1]) == pytest.approx(-2 * math.log(math.tan(math.pi / 8)), rel=1e-14)


@pytest.mark.parametrize("limits", [(1e4, -1e4), (20.0, -math.inf), (math.inf, -20.0)])
def test_limits_beyond_the_floats_are_refused(limits):
    with pytest.raises(ConfigError, match=r"within \+-1000"):
        Cosine(*limits)
    with pytest.raises(ConfigError, match="logsnr_min < logsnr_max"):
        Cosine(math.nan, 0.0)
