"""Discrete noise tables, the map from noise levels to their indices, and sampling with both: BDDM's released code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.distillation.metric import L1
from diffexp.network.embedding import PositionalFeatures
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.process.table import Table
from diffexp.sampler.grid import Grid, Uniform
from diffexp.sampler.grid_stride import Stride
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from tests.parity.bilateral import Noise, found, sigma, table
from tests.parity.golden import Member

FILE = "bddm"


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


@pytest.mark.golden(FILE, "score_loss")
def test_score_loss(case):
    """L1 at table entries, and (v1) at levels between two entries: a share u of the first and 1 - u of the second."""
    case.repeats("table", case["table"])
    case.repeats("net", case["net"])
    process = table(case.golden, case["table"])
    at, between = process.marginal(case.input("t")), process.marginal(case.input("v1_t") + 1.0 - case.input("v1_u"))
    net = Noise(case.golden.config["nets"][case["net"]], process)
    x0, z = case.input("x0"), case.input("z")
    states = [law.perturb(x0, z) for law in (at, between)]
    estimates = [net(x, process.index(law.t)) for x, law in zip(states, (at, between), strict=True)]
    loss, between_loss = (L1()(estimate, z) for estimate in estimates)
    case.check_each(
        x_t=states[0],
        loss=loss,
        v1_alpha=between.signal.value,
        v1_eps=estimates[1],
        v1_loss_mean=between_loss.mean(),
    )


@pytest.mark.golden(FILE, "step_embedding")
def test_step_embedding(case):
    features = PositionalFeatures(case["dim"], case["constants"]["max_period"])
    case.check("emb", features(case.input("ts").flatten()))


class Told(NetworkDenoiser):
    """A network of a training table on another process of the same levels: it is told the table's index of a level."""

    def __init__(self, network: nn.Module, process: Table, training: Table) -> None:
        super().__init__(network, Eps("index"), process)
        self.training = training

    def time_input(self, t: Tensor) -> Tensor:
        return self.training.index(self.training.time_of(self.process.signal(t).value))


def schedule(case: Member) -> tuple[Table, Grid]:
    """The process and the grid of the member's schedule."""
    said, training = case["schedule"], table(case.golden, case["table"])
    if said["source"] == "beta_key":
        return Table(case.golden.tensor(said["key"])), Uniform()
    return training, Uniform() if said["source"] == "table" else Stride("linspace_floor")


def noise_of(case: Member) -> Tensor:
    """The draws in the order in which they are used, the initial state first."""
    said = case["noise"]
    if said["source"] == "key":
        return case.golden.tensor(said["key"])
    draws = torch.arange(case["nfe"], dtype=torch.float64)[:, None]
    entries = torch.arange(math.prod(said["shape"]), dtype=torch.float64)
    return (2**0.5 * torch.cos(1.7 * entries + 0.9 * draws + 0.3)).reshape(-1, *said["shape"])


def _unknown_schedule(case: Member) -> str | None:
    sources = case["schedule"]["source"], case["noise"]["source"], case["sampler"]
    known = {"beta_key", "table", "linspace"}, {"key", "formula"}, {"ddpm", "ddim"}
    strange = [name for name, names in zip(sources, known, strict=True) if name not in names]
    return f"unknown {strange[0]}" if strange else None


def _check_repetitions(case: Member) -> None:
    """Inputs that say again what `config` says; `ddim` is 0 for DDPM, 1 for DDIM, or DDIM's number of steps."""
    flag = {"ddpm": 0, "ddim": 1}[case["sampler"]]
    case.repeats("ddim", case["schedule"]["steps"] if case["schedule"]["source"] == "linspace" else flag)
    case.repeats("table", case["table"])
    case.repeats("net", case["net"])
    case.repeats("kept", *(case["kept_calls"] or []))
    if case["noise"]["source"] == "formula":
        case.repeats("noise", "formula")


@pytest.mark.golden(FILE, "sampling", later=_unknown_schedule)
def test_sampling(case):
    _check_repetitions(case)
    (process, grid), training = schedule(case), table(case.golden, case["table"])
    net = Told(Noise(case.golden.config["nets"][case["net"]], training), process, training)
    stepper = DDIM() if case["sampler"] == "ddim" else Ancestral()
    noise, states, steps = noise_of(case), [], case["schedule"].get("steps", process.num_steps)
    sampler = Sampler("parity", stepper, grid)
    sampler.sample(net, FixedNoise(noise[0], noise[1:]), steps, on_step=lambda k, x: states.append(x))
    kept = range(steps) if case["kept_calls"] is None else case["kept_calls"]
    told = net.time_input(sampler.times(process, steps)[:-1])
    evaluations = net.evaluations // len(noise[0])
    assert evaluations == case["nfe"]
    case.check_each(xs=torch.stack([states[k] for k in kept]), eval_ts=told, n_evals=evaluations)
