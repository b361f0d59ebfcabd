"""Grids in use: the times that published runs visited, and orders of convergence on every scalar process."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM
from diffexp.process.ve import EDM, VE
from diffexp.process.vp import VP
from diffexp.sampler.grid import Uniform
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.grid_snr import Karras, LogSNR
from diffexp.sampler.grid_stride import Stride
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise

MEAN, STD = 0.3, 0.5
STEPPERS = {"ddim": (DDIM, 1.0), "heun": (Heun, 2.0)}


def test_published_runs_visit_the_grids_times(golden_dir):
    """Family `sampling`: whole tables, rounded strides, and found schedules whose levels are mapped to indices."""
    arrays = np.load(golden_dir / "bddm.npz")
    config = json.loads(str(arrays["config"]))
    members = config["families"]["sampling"]["members"]
    assert members
    for member in members:
        table, schedule = config["tables"][member["table"]], member["schedule"]
        process = DDPM(table["T"], table["beta_first"], table["beta_last"])
        if schedule["source"] == "beta_key":
            betas = torch.from_numpy(arrays[schedule["key"]])
            levels = (0.5 * torch.log1p(-betas)).cumsum(0).exp().flip(0).tolist()
            visited = process.index(Explicit(levels, "alpha").times(process, len(levels))[:-1])
        else:
            n = process.num_steps if schedule["source"] == "table" else schedule["steps"]
            visited = Stride("linspace_floor").times(process, n)[:-1]
        wanted = torch.from_numpy(arrays[member["outputs"]["eval_ts"]])
        torch.testing.assert_close(visited, wanted, rtol=0, atol=1e-9)


def exact_flow(process, times: Tensor, start: Tensor) -> Tensor:
    """The probability flow of N(MEAN, STD^2) data from the first to the last time."""
    alpha, sigma = process.signal(times).value, process.factor(times).value
    std = (alpha**2 * STD**2 + sigma**2).sqrt()
    u = process.prior_factor(times[0]).apply(start)
    return alpha[-1] * MEAN + (u - alpha[0] * MEAN) * std[-1] / std[0]


CASES = [
    (EDM(), Karras()),
    (VE(1e-3, 50.0), Karras()),
    (VP(), Karras(sigma_max=80.0)),
    (VP(), LogSNR(1e-3)),
    (Cosine(9.0, -9.0), LogSNR()),
    (DDPM(), Karras()),
    (VE(), Uniform()),
]


@pytest.mark.parametrize(("process", "grid"), CASES, ids=[f"{process.name}-{grid.name}" for process, grid in CASES])
@pytest.mark.parametrize("name", list(STEPPERS))
def test_error_falls_with_the_order(process, grid, name):
    """The steps see levels and not times, so that a table's corners do not matter. The last of Karras's steps, from
    sigma_min to the data, has an error of its own, of the order of sigma_min^2."""
    stepper, order = STEPPERS[name]
    start = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    sampler, errors = Sampler(name, stepper(), grid), []
    for n in (80, 160, 320):
        nfe = sampler.evaluations(n)
        images = sampler.sample(Mixture(process, [1.0], [MEAN], [STD]), FixedNoise(start), nfe).images
        errors.append(float((images - exact_flow(process, sampler.times(process, nfe), start)).abs().max()))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order] * len(slopes), abs=0.2)
    assert errors[-1] > 1e-9
