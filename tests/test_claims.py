"""experiments/gddim_cld/oracle: its yardsticks against closed forms, and its claims at a small size."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.process.cld import CLD
from diffexp.process.vp import VP
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.linear import Ancestral
from experiments.gddim_cld.oracle import blurring, claims
from experiments.gddim_cld.oracle.laws import Law, pixel_law

GAUSSIAN = Law(*(torch.tensor([value], dtype=torch.float64) for value in (1.0, 0.3, 0.5)))


def test_quantiles_of_a_gaussian():
    levels = (torch.arange(1001, dtype=torch.float64) + 0.5) / 1001
    expected = 0.3 + 0.5 * torch.special.ndtri(levels)
    torch.testing.assert_close(GAUSSIAN.quantiles(1001), expected, rtol=0.0, atol=1e-8)


def test_distance_of_moved_and_of_stretched_quantiles():
    quantiles = GAUSSIAN.quantiles(20_001)
    assert GAUSSIAN.distance(quantiles + 0.125) == pytest.approx(0.125, abs=1e-12)
    # stretched by a fifth: E|0.1 z| = 0.1 sqrt(2 / pi)
    assert GAUSSIAN.distance(0.3 + 1.2 * (quantiles - 0.3)) == pytest.approx(0.1 * math.sqrt(2.0 / math.pi), rel=1e-3)


def test_the_floor_falls_like_the_root_of_the_number():
    assert GAUSSIAN.floor(40_000, repeats=8) == pytest.approx(0.1 * GAUSSIAN.floor(400, repeats=64), rel=0.4)


def test_the_law_of_a_pixel():
    t = torch.tensor(0.3, dtype=torch.float64)
    found = pixel_law(VP(), [1.0, 3.0], [-0.5, 0.5], [0.1, 0.2], 0.3)
    a, s = VP().signal(t).value, VP().factor(t).value
    torch.testing.assert_close(found.weights, torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(found.means, a * torch.tensor([-0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(found.stds, (a**2 * torch.tensor([0.01, 0.04], dtype=torch.float64) + s**2).sqrt())
    # on CLD: Psi(t, 0) and Sigma_t, which is its own factor squared
    cld, found = CLD(), pixel_law(CLD(), [1.0], [0.5], [0.0], 0.3)
    y = 2.0 * 4.0 * 0.3
    assert float(found.means) == pytest.approx(0.5 * math.exp(-y) * (1.0 + y), rel=1e-12)
    assert float(found.stds) ** 2 == pytest.approx(float(cld.factor(t).covariance().values[0, 0]), rel=1e-12)


def test_estimates_of_one_value_stand_still_in_r_and_turn_in_l(monkeypatch):
    monkeypatch.setattr(claims, "SIDE", 8)
    still, turning = claims.drift("one value", steps=60)
    assert still < 1e-9
    assert turning > 1.0
    assert claims.drift("two wide modes", steps=60)[0] < claims.drift("two wide modes", steps=60)[1]


def test_r_is_ahead_of_l_on_the_same_estimates(monkeypatch):
    monkeypatch.setattr(claims, "SIDE", 16)
    for nfe, order, (in_r, in_l, _, _) in claims.factors("two wide modes", (20, 50)):
        assert 3.0 * in_r < in_l, (nfe, order)


def test_one_step_on_a_frequency_is_ddim(monkeypatch):
    monkeypatch.setattr(blurring, "SIDE", 4)
    spectrum = blurring.Spectrum()
    process, end = spectrum.process, torch.tensor(blurring.END, dtype=torch.float64)
    start = torch.tensor(process.t_prior, dtype=torch.float64)
    a, b = (process.signal(t).values for t in (start, end))
    s, q = (process.factor(t).value for t in (start, end))
    share = s / (a**2 * blurring.STD**2 + s**2)  # e^ = share u, from unit noise
    std = (b / a + (q - b / a * s) * share).abs()
    wanted = (std - (blurring.STD**2 * b**2 + q**2).sqrt()).square().mean().sqrt()
    assert spectrum.error(GDDIM(1), 1, draws=False) == pytest.approx(float(wanted), rel=1e-9)


def test_ancestral_sampling_is_of_first_order_and_needs_more(monkeypatch):
    monkeypatch.setattr(blurring, "SIDE", 8)
    spectrum = blurring.Spectrum()
    errors = [spectrum.error(Ancestral(), n, draws=True) for n in (50, 100)]
    assert 1.7 < errors[0] / errors[1] < 2.1
    assert spectrum.error(GDDIM(3), 50, draws=False) < 0.2 * errors[1]


def test_equal_budgets_are_read_off_the_curve():
    errors = [1.0 / n for n in blurring.BUDGETS]
    assert blurring.equal_budget(errors, 1.0 / 300.0) == pytest.approx(300.0)
    assert blurring.equal_budget(errors, 1.0) == 10.0
    assert math.isnan(blurring.equal_budget(errors, 1e-6))
