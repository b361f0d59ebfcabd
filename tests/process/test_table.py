"""Discrete tables: their entries, the straight lines between them, and the map from levels to indices."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.process.ddpm import DDPM, IDDPM
from diffexp.process.table import Table
from diffexp.process.vp import VP

INDICES = torch.arange(1000, dtype=torch.float64)


def test_entries_are_the_products_of_ddpm():
    """In exact arithmetic on the betas as they are in double."""
    process = DDPM(200, 1e-4, 0.02)
    betas = [1e-4 + (0.02 - 1e-4) * i / 199 for i in range(200)]
    assert process.betas.tolist() == pytest.approx(betas, rel=1e-14)
    product = Fraction(1)
    for i, beta in enumerate(process.betas.tolist()):
        product *= 1 - Fraction(beta)
        product = Fraction(round(product * 10**60), 10**60)  # keeps the numbers short
        t = torch.tensor(float(i), dtype=torch.float64)
        assert float(process.signal(t).value) ** 2 == pytest.approx(float(product), rel=1e-14)
        assert float(process.factor(t).value) ** 2 == pytest.approx(float(1 - product), rel=1e-14)


@pytest.mark.parametrize("process", [DDPM(), DDPM(1000, 1e-6, 0.01), IDDPM()], ids=["ddpm", "wavegrad", "iddpm"])
def test_variances_between_neighbours_are_the_tables(process):
    """From i - 1 to i the process adds beta_i; the posterior has beta_i (1 - alpha_{i-1}^2) / (1 - alpha_i^2)."""
    t, s = INDICES, INDICES - 1
    torch.testing.assert_close(process.transition_factor(t, s).covariance().value, process.betas, rtol=1e-11, atol=0)
    torch.testing.assert_close(process.transition(t, s).value ** 2, 1 - process.betas, rtol=1e-11, atol=0)
    noise = process.factor(INDICES).covariance().value
    small = process.betas[1:] * noise[:-1] / noise[1:]
    torch.testing.assert_close(process.posterior_factor(t[1:], s[1:]).value ** 2, small, rtol=1e-11, atol=0)
    assert float(process.posterior_factor(t[0], s[0]).value) == 0.0  # the data at -1 have no noise


def test_the_data_are_one_index_before_the_table():
    process = DDPM()
    start = torch.tensor(-1.0, dtype=torch.float64)
    assert (process.t_data, process.t_max, process.num_steps) == (-1.0, 999.0, 1000)
    assert float(process.signal(start).value) == 1.0
    assert float(process.factor(start).value) == 0.0
    assert float(process.log_snr(start)) == math.inf
    assert float(process.factor(start + 1).value) == pytest.approx(0.01, rel=1e-14)  # sqrt of the first beta
    assert float(process.time_of(torch.tensor(1.0))) == -1.0


@pytest.mark.parametrize("process", [DDPM(), DDPM(50, 1e-6, 0.5), IDDPM(30)], ids=["ddpm", "short", "iddpm"])
def test_levels_are_linear_between_entries(process):
    t = torch.tensor([-1.0, 0.0, 3.0, 17.0, process.t_max - 1], dtype=torch.float64)
    for share in (0.25, 0.5, 0.9375):
        level = process.signal(t + share).value
        wanted = (1 - share) * process.signal(t).value + share * process.signal(t + 1).value
        torch.testing.assert_close(level, wanted, rtol=1e-15, atol=1e-16)
        torch.testing.assert_close(process.factor(t + share).value ** 2, (1 - level) * (1 + level), rtol=1e-9, atol=0)
        torch.testing.assert_close(process.time_of(level), t + share, rtol=0, atol=3e-10)


def test_noise_below_the_first_entry_keeps_its_digits():
    """1 - alpha = (t + 1) (1 - alpha_0), far below what 1 - alpha can hold when it is formed from alpha."""
    process, share = DDPM(1000, 1e-6, 0.01), 1e-11
    t = torch.tensor(-1.0, dtype=torch.float64) + share
    passed = float(t + 1.0)
    delta = passed * -math.expm1(0.5 * math.log1p(-1e-6))
    assert float(process.factor(t).value) == pytest.approx(math.sqrt(delta * (2 - delta)), rel=1e-13)
    assert float(process.time_of_log_snr(process.log_snr(t))) + 1.0 == pytest.approx(passed, rel=1e-5)


@pytest.mark.parametrize("process", [DDPM(), DDPM(1000, 1e-6, 0.01), DDPM(200), IDDPM()])
def test_map_is_exact_at_the_tables_levels(process):
    indices = torch.arange(process.num_steps, dtype=torch.float64)
    assert torch.equal(process.time_of(process.alphas), indices)
    assert torch.equal(process.time_of(process.signal(indices).value), indices)
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(indices)), indices, rtol=0, atol=1e-11)


def test_slopes_at_an_entry_are_those_towards_the_noise():
    process = DDPM()
    at, after = torch.tensor([100.0, 100.0 + 1e-9], dtype=torch.float64)
    before = at - 1e-9
    assert float(process.variance_rate(at)) == pytest.approx(float(process.variance_rate(after)), rel=1e-8)
    assert float(process.variance_rate(at)) != pytest.approx(float(process.variance_rate(before)), rel=1e-4)
    end = torch.tensor(999.0, dtype=torch.float64)
    slope = float(process.alphas[998] - process.alphas[999])
    assert float(process.drift(end).value) == pytest.approx(-slope / float(process.alphas[999]), rel=1e-10)


def test_networks_are_told_the_index():
    process = DDPM(10)
    t = torch.tensor([-1.0, -0.25, 0.0, 3.5, 9.0], dtype=torch.float64)
    assert process.index(t).tolist() == [0.0, 0.0, 0.0, 3.5, 9.0]
    with pytest.raises(ConfigError, match="vp has no table"):
        VP().index(t)


def test_published_tables_and_maps(golden_dir):
    """Families `schedule` and `map`: betas, levels, posterior deviations, and levels to clamped indices."""
    arrays = np.load(golden_dir / "bddm.npz")
    config = json.loads(str(arrays["config"]))
    tables = {tag: DDPM(table["T"], table["beta_first"], table["beta_last"]) for tag, table in config["tables"].items()}
    assert tables
    for member in config["families"]["schedule"]["members"]:
        process = tables[member["table"]]
        golden = {role: torch.from_numpy(arrays[key]) for role, key in member["outputs"].items()}
        t = torch.arange(process.num_steps, dtype=torch.float64)
        torch.testing.assert_close(process.betas, golden["beta"], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(process.signal(t).value, golden["alpha"], rtol=1e-9, atol=1e-11)
        small = process.posterior_factor(t[1:], t[:-1]).value
        torch.testing.assert_close(small, golden["sigma"][1:], rtol=1e-9, atol=1e-11)
    for member in config["families"]["map"]["members"]:
        process = tables[member["table"]]
        levels = torch.from_numpy(arrays[member["inputs"]["alpha_in"]])
        wanted = torch.from_numpy(arrays[member["outputs"]["ts"]])
        torch.testing.assert_close(process.index(process.time_of(levels)), wanted, rtol=0, atol=1e-7)


def test_cosine_betas_are_nichol_and_dhariwals():
    process = IDDPM(100)

    def level(i: int) -> float:
        return math.cos((i / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    wanted = [min(1 - level(i + 1) / level(i), 0.999) for i in range(100)]
    assert process.betas.tolist() == pytest.approx(wanted, rel=1e-11)
    assert float(process.betas[-1]) == 0.999
    first = 1 - math.cos((1e-6 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(IDDPM(1_000_000).betas[0]) == pytest.approx(first, rel=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDPM(1), "process.num_steps=1: must be at least 2"),
        (lambda: IDDPM(0), "process.num_steps=0: must be at least 2"),
        (lambda: DDPM(10, 0.0, 0.02), "0 < beta_first <= beta_last < 1"),
        (lambda: DDPM(10, 0.02, 1e-4), "0 < beta_first <= beta_last < 1"),
        (lambda: IDDPM(10, 1.0), "process.beta_limit=1.0"),
        (lambda: Table(torch.tensor([0.1, 1.0], dtype=torch.float64)), "each between 0 and 1"),
    ],
)
def test_impossible_tables_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
