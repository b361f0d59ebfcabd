"""Discrete noise tables and the map from noise levels to their indices, against the released code of BDDM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.network.embedding import PositionalFeatures
from diffexp.process.ddpm import DDPM
from diffexp.process.table import Table
from tests.parity.golden import Golden, Member

FILE = "bddm"
LATER = {
    "bound": "needs learned schedules",
    "step_loss": "needs learned schedules",
    "score_loss": "needs the L1 objective",
    "noise_scheduling*": "needs learned schedules",
    "grid": "needs the schedule search",
    "search": "needs the schedule search",
    "networks": "one-dimensional networks",
}


def table(golden: Golden, name: str) -> DDPM:
    """The training table of this name."""
    said = golden.config["tables"][name]
    return DDPM(said["T"], said["beta_first"], said["beta_last"])


def sigma(process: Table) -> Tensor:
    """The standard deviation of the step to each index from the next cleaner one.

    The posterior's; but that to index 0 ends at the data and draws nothing: there the file has the forward step's.
    """
    t = torch.arange(process.num_steps, dtype=torch.float64)
    forward, posterior = process.transition_factor(t, t - 1.0).value, process.posterior_factor(t, t - 1.0).value
    assert float(posterior[0]) == 0.0
    return torch.cat([forward[:1], posterior[1:]])


def found(member: Member) -> dict[str, Tensor]:
    """What follows from the betas of a found schedule."""
    beta = member.input("beta")
    process, training = Table(beta), table(member.golden, member["table"])
    ts = training.index(training.time_of(process.alphas))
    return {"beta": process.betas, "alpha": process.alphas, "sigma": sigma(process), "ts": ts}


@pytest.mark.golden(FILE, "schedule")
def test_training_table(case):
    process, said = table(case.golden, case["table"]), case.golden.config["tables"][case["table"]]
    case.repeats("cfg", said["T"], said["beta_first"], said["beta_last"])
    t = torch.arange(process.num_steps, dtype=torch.float64)
    case.check_each(beta=process.betas, alpha=process.signal(t).value, sigma=sigma(process))
    torch.testing.assert_close(process.time_of(process.alphas), t, rtol=0.0, atol=1e-7)


@pytest.mark.golden(FILE, "map")
def test_map_from_levels_to_indices(case):
    process = table(case.golden, case["table"])
    case.check("ts", process.index(process.time_of(case.input("alpha_in"))))


@pytest.mark.golden(FILE, "found_schedule")
def test_found_schedule(case):
    case.repeats("table", case["table"])
    assert len(case.input("beta")) == case["steps"]
    case.check_each(**found(case))


@pytest.mark.golden(FILE, "published_file")
def test_published_schedule(case):
    """The arrays of a published file are float32; the float64 ones that belong to them differ by their rounding."""
    key = case.inputs["ref"]
    owner = next(m for m in case.golden.of("found_schedule") if key in (*m.inputs.values(), *m.outputs.values()))
    case.check("value", found(owner)[case["quantity"]])


@pytest.mark.golden(FILE, "step_embedding")
def test_step_embedding(case):
    features = PositionalFeatures(case["dim"], case["constants"]["max_period"])
    case.check("emb", features(case.input("ts").flatten()))
