"""Grids against closed forms and published sequences; what they refuse."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.evaluation.describe import describe_grid
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM, IDDPM
from diffexp.process.ve import EDM, VE
from diffexp.process.vp import VP
from diffexp.sampler.euler import Euler
from diffexp.sampler.grid import Grid, Power, Uniform
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.grid_snr import Karras, LogSNR
from diffexp.sampler.grid_stride import Stride
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise

PROCESSES = [VP(), Cosine(), VE(), EDM(), DDPM(), IDDPM(200)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=[process.name for process in PROCESSES])
BUDGETS = (1, 2, 3, 10, 50)


def early(process) -> float:
    """A last time with noise left."""
    return process.t_data + 0.01 * (process.t_max - process.t_data)


def grids(process) -> list[Grid]:
    end = early(process)
    found = [Power(), Power(7.0, end), Power(1.0, end, "data"), Uniform(), Uniform(end), LogSNR(end)]
    found += [Karras(sigma_min=0.05), Karras(3.0, 0.1, 5.0), Karras(sigma_min=1.0, t_end=end)]
    if process.num_steps:
        found += [Stride(spacing) for spacing in ("trailing", "linspace", "linspace_floor")]
        found += [LogSNR(0.0)]
    return found


@every_process
@pytest.mark.parametrize("n", BUDGETS)
def test_times_fall_from_the_prior_to_exactly_their_end(process, n):
    for grid in grids(process):
        times = grid.times(process, n)
        assert times.dtype == torch.float64
        assert times.shape == (n + 1,)
        assert bool((times[:-1] > times[1:]).all())
        assert float(times[-1]) == (process.t_data if grid.t_end is None else grid.t_end)
        if getattr(grid, "sigma_max", None) is None and not isinstance(grid, Stride):
            assert float(times[0]) == process.t_max
        assert float(times[0]) <= process.t_max


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 7.0])
def test_power_is_uniform_in_the_root(p):
    n, end = 7, 1e-3
    times = Power(p=p, t_end=end).times(VP(), n)
    wanted = [(1.0 + (end ** (1 / p) - 1.0) * k / n) ** p for k in range(n + 1)]
    assert times.tolist() == pytest.approx(wanted, rel=1e-13)


def test_power_counts_from_the_data_of_a_table():
    times = Power(p=2.0).times(DDPM(), 4)
    assert times.tolist() == pytest.approx([1000.0 * (1 - k / 4) ** 2 - 1.0 for k in range(5)], rel=1e-14)


def test_published_power_grids(golden_dir):
    """Families `vp_grid`, `bdm_grid` and `cld_grid`: t_k = linspace(t_start^(1/p), t_end^(1/p), n + 1)^p."""
    arrays = np.load(golden_dir / "gddim.npz")
    config = json.loads(str(arrays["config"]))
    checked = 0
    for family in (entry for entry in config["families"] if entry["family"] in ("vp_grid", "bdm_grid", "cld_grid")):
        constants = config["processes"][family["process"]]
        for member in family["members"]:
            settings = {**family, **member}
            wanted = torch.from_numpy(arrays[settings["out"]["times"]])
            process = VP()
            process.t_max = constants.get("T", constants.get("T_s"))
            end = constants.get("t_eps", constants.get("t0"))
            times = Power(settings["p"], end).times(process, settings["n"])
            torch.testing.assert_close(times, wanted, rtol=0, atol=1e-13)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("process", [VP(), Cosine(), VE(), EDM(), DDPM()], ids=lambda process: process.name)
def test_log_snr_is_uniform_there(process):
    end = 0.0 if process.num_steps else early(process)
    log_snr = process.log_snr(LogSNR(end).times(process, 20))
    steps = log_snr.diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-10, atol=0)
    assert float(log_snr[0]) == float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("process", "fix"),
    [(VP(), "0.001"), (EDM(), "0.08"), (DDPM(), "0")],
    ids=lambda value: getattr(value, "name", None),
)
def test_log_snr_refuses_clean_data_and_its_fix_works(process, fix):
    with pytest.raises(ConfigError, match=rf"grid.t_end=.*infinite log-SNR.*e\.g\. {fix}$"):
        LogSNR().times(process, 5)
    assert len(LogSNR(float(fix)).times(process, 5)) == 6


def test_log_snr_goes_to_the_data_where_these_are_noisy():
    assert float(LogSNR().times(Cosine(), 5)[-1]) == 0.0
    assert LogSNR().times(VE(), 4).tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0], abs=1e-14)


@pytest.mark.parametrize("n", [2, 5, 18, 40])
def test_karras_levels_are_the_published_ones(n):
    """Eq. 5: sigma_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, sigma_n = 0."""
    high, low = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    wanted = [(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)] + [0.0]
    assert Karras().times(EDM(80.0), n).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("process", [VP(), Cosine(), VE(sigma_min=1e-3), EDM(), DDPM()], ids=lambda value: value.name)
def test_karras_levels_are_relative_noise_on_every_process(process):
    grid = Karras(rho=5.0, sigma_min=0.02, sigma_max=20.0)
    t = grid.times(process, 9)[:-1]
    sigma = process.factor(t).value / process.signal(t).value
    wanted = [(20.0**0.2 + i / 8 * (0.02**0.2 - 20.0**0.2)) ** 5 for i in range(9)]
    assert sigma.tolist() == pytest.approx(wanted, rel=1e-10)


def test_karras_takes_the_processs_own_largest_level():
    times = Karras(sigma_min=0.01).times(VP(), 4)
    assert float(times[0]) == 1.0
    own = math.sqrt(math.expm1(10.05))  # 1 / SNR = exp(integral of beta) - 1
    sigma = VP().factor(times[1]).value / VP().signal(times[1]).value
    wanted = (own ** (1 / 7) + 1 / 3 * (0.01 ** (1 / 7) - own ** (1 / 7))) ** 7
    assert float(sigma) == pytest.approx(wanted, rel=1e-10)
    assert Karras(sigma_max=80.0).times(EDM(80.0), 3)[0] == pytest.approx(80.0, rel=1e-15)
    assert Karras().times(EDM(), 1).tolist() == [80.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Karras(sigma_max=160.0).times(VP(), 5), "grid.sigma_max=160: process vp has at most 152.1"),
        (lambda: Karras().times(VE(), 5), "grid.sigma_min=0.002: must be above 0.01, where process ve ends"),
        (lambda: Karras(t_end=0.5).times(EDM(), 5), "grid.sigma_min=0.002: must be above 0.5"),
        (lambda: Karras(sigma_min=90.0).times(EDM(), 5), "grid.sigma_min=90: process edm has less than 80"),
        (lambda: Karras(sigma_min=3.0, sigma_max=2.0), "0 < sigma_min < sigma_max"),
        (lambda: Karras(rho=0.0), "grid.rho=0.0: must be > 0"),
        (lambda: Power(p=-1.0), "grid.p=-1.0: must be > 0"),
        (lambda: Uniform(t_end=-0.5).times(VP(), 5), r"grid.t_end=-0.5: must lie in \[0, 1\), the times of process vp"),
        (lambda: Uniform(t_end=1.0).times(VP(), 5), r"grid.t_end=1.0: must lie in \[0, 1\)"),
        (lambda: Uniform(t_end=999.0).times(DDPM(), 5), r"grid.t_end=999.0: must lie in \[-1, 999\)"),
        (lambda: Uniform(t_end=math.nan).times(VP(), 5), "grid.t_end=nan"),
        (lambda: Uniform(1.0 - 2.0**-52).times(VP(), 5), "grid uniform: times . and . of 5 steps on process vp do not"),
        (lambda: Power(p=400.0).times(VP(), 20), "grid power: times 17 and 18 of 20 steps"),
        (lambda: Stride().times(VP(), 5), "process vp has no table: use process=ddpm or grid=uniform"),
        (lambda: Stride().times(DDPM(20), 21), "21 steps are more than the 20 entries of the table: use 20"),
        (lambda: Stride().times(DDPM(), 1), "grid.spacing=leading: one step would be at index 0: use trailing"),
        (lambda: Stride("quadratic").times(DDPM(), 1), "grid.spacing=quadratic: one step would be at index 0"),
        (lambda: Stride(t_end=1e-3).times(DDPM(), 10), "times 9 and 10 of 10 steps.*0 and 0.001"),
        (lambda: Stride("trialing"), "grid.spacing=trialing: unknown; did you mean 'trailing'"),
        (lambda: Explicit([]), "grid.values=.*name at least one"),
        (lambda: Explicit([0.1, 0.5]), "must fall from noise to data, got 0.1 before 0.5"),
        (lambda: Explicit([0.5, 0.5]), "must fall from noise to data, got 0.5 before 0.5"),
        (lambda: Explicit([0.9, 0.1], "alpha"), "must rise from noise to data, got 0.9 before 0.1"),
        (lambda: Explicit([0.1, 1.0], "alpha"), r"signal levels must lie in \[0, 1\)"),
        (lambda: Explicit([math.nan]), "must be finite"),
        (lambda: Explicit([0.9, 0.5]).times(VP(), 3), "grid explicit: has 2 steps, not 3"),
        (lambda: Explicit([2.0, 0.5]).times(VP(), 2), "grid.values: 2 is after the prior of process vp, 1.0"),
        (lambda: Explicit([0.5, 0.0]).times(VP(), 2), "times 1 and 2 of 2 steps.*0 and 0"),
        (lambda: Explicit([-99.0, -98.0], "log_snr").times(Cosine(), 2), "times 0 and 1 of 2 steps.*1 and 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_stride_spacings_are_the_published_rules():
    """Written with numpy as the released codes do, for counts where floats and fractions cannot differ."""
    length = 1000
    for n in (2, 7, 10, 16, 25, 29, 333, 1000):
        ratio = length // n
        assert Stride("leading").indices(length, n) == (np.arange(n) * ratio).tolist()
        trailing = np.arange(length, 0, -length / n).round()[:n].astype(int)[::-1] - 1
        assert Stride("trailing").indices(length, n) == trailing.tolist()
        assert Stride("linspace").indices(length, n) == np.linspace(0, length - 1, n).round().astype(int).tolist()
    assert Stride("linspace_floor").indices(1000, 10) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert Stride("linspace_floor").indices(10, 5) == [0, 2, 4, 6, 9]
    assert Stride("linspace").indices(10, 5) == [0, 2, 4, 7, 9]
    assert Stride("quadratic").indices(1000, 10) == [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]
    published = (np.linspace(0, np.sqrt(length * 0.8), 20) ** 2).astype(int).tolist()
    assert Stride("quadratic").indices(1000, 20) == published


def test_repeated_indices_move_to_the_next_free_one():
    """floor(800 (k / 99)^2) is 0, 0, 0, 0, 1, 2, 2, 3, ...: the rule catches up with the count at k = 13."""
    found = Stride("quadratic").indices(1000, 100)
    assert found[:13] == list(range(13))
    assert found[13:] == [int(800 * k * k / 99**2) for k in range(13, 99)] + [800]
    assert Stride("quadratic").indices(10, 10) == list(range(10))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "linspace_floor", "quadratic"])
def test_stride_with_every_count_has_that_many_entries_of_the_table(spacing):
    for n in range(2, 51):
        found = Stride(spacing).indices(50, n)
        assert len(found) == n
        assert all(a < b for a, b in pairwise(found))
        assert found[0] >= 0
        assert found[-1] <= 49
    assert found == list(range(50))


def test_stride_visits_the_indices_and_then_the_data():
    assert Stride().times(DDPM(), 4).tolist() == [750.0, 500.0, 250.0, 0.0, -1.0]
    assert Stride("trailing").times(DDPM(), 4).tolist() == [999.0, 749.0, 499.0, 249.0, -1.0]
    assert Stride("trailing").times(DDPM(), 1).tolist() == Stride("linspace").times(DDPM(), 1).tolist() == [999.0, -1.0]
    assert Stride("linspace_floor").times(DDPM(), 1).tolist() == [999.0, -1.0]
    assert Stride("trailing", t_end=10.0).times(DDPM(), 2).tolist() == [999.0, 499.0, 10.0]


def test_explicit_times_are_taken_as_they_are():
    grid = Explicit([0.8, 0.3, 0.01], t_end=1e-3)
    assert grid.choices == (3,)
    assert grid.times(VP(), 3).tolist() == [0.8, 0.3, 0.01, 1e-3]
    assert Explicit([0.8]).times(VP(), 1).tolist() == [0.8, 0.0]
    assert Explicit([999, 3.5, 0]).times(DDPM(), 3).tolist() == [999.0, 3.5, 0.0, -1.0]


def test_explicit_levels_mean_the_same_on_every_process():
    levels = [0.05, 0.4, 0.9, 0.999]
    for process in PROCESSES:
        t = Explicit(levels, "alpha").times(process, 4)[:-1]
        alpha, sigma = process.signal(t).value, process.factor(t).value
        assert (alpha / (alpha**2 + sigma**2).sqrt()).tolist() == pytest.approx(levels, rel=1e-11)
        ratios = [2 * math.log(level) - math.log1p(-(level**2)) for level in levels]
        same = Explicit(ratios, "log_snr").times(process, 4)[:-1]
        torch.testing.assert_close(same, t, rtol=1e-10, atol=1e-10)
    assert Explicit(DDPM().alphas.flip(0).tolist(), "alpha").times(DDPM(), 1000).tolist() == list(range(999, -2, -1))


def test_a_sampler_on_a_list_has_one_budget():
    grid = Explicit([0.9, 0.5, 0.1])
    heun, euler = Sampler("heun", Heun(), grid), Sampler("euler", Euler(), grid)
    assert (heun.steps(5), euler.steps(3)) == (3, 3)
    assert (heun.nearest_nfe(50), heun.nearest_nfe(2)) == (5, 5)
    with pytest.raises(ConfigError, match="nfe=4 is not reachable with sampler heun: choose 5"):
        heun.steps(4)


@pytest.mark.parametrize(("process", "sigma"), [(EDM(), 5.0), (VE(), 5.0)], ids=["edm", "ve"])
def test_sampling_starts_with_the_noise_of_the_grids_first_time(process, sigma):
    """One evaluation at u = sigma z: x^ = m + s^2 / (s^2 + sigma^2) (u - m)."""
    start = torch.tensor([-1.0, 0.25, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    grid = Explicit([-2 * math.log(sigma)], "log_snr", last="data")
    oracle = Mixture(process, [1.0], [0.3], [0.5])
    images = Sampler("ddim", DDIM(), grid).sample(oracle, FixedNoise(start), 1).images
    wanted = 0.3 + 0.25 / (0.25 + sigma**2) * (sigma * start - 0.3)
    torch.testing.assert_close(images, wanted, rtol=1e-12, atol=1e-12)


def test_grids_name_every_setting():
    assert describe_grid(Stride("trailing")) == "stride(spacing=trailing,t_end=null,last=state)"
    wanted = "karras(rho=7,sigma_min=0.002,sigma_max=null,t_end=null,last=data)"
    assert describe_grid(Karras(last="data")) == wanted
    assert describe_grid(LogSNR(1e-3)) == "log_snr(t_end=0.001,last=state)"
    assert describe_grid(Explicit([0.5, 0.25])) == "explicit(values=[0.5,0.25],unit=t,t_end=null,last=state)"
