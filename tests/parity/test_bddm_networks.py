"""BDDM's released networks for waveforms: GALR, which says the ratio, and DiffWave, which says the noise."""

from __future__ import annotations

import ast

import pytest
import torch
from torch import Tensor, nn

from diffexp.network.diffwave import DiffWave
from diffexp.network.schedule.galr import GALR
from tests.parity.golden import Member

FILE = "bddm"


def fill(network: nn.Module, case: Member) -> None:
    """The weights of a formula, which counts the parameters as the official network names them; ours stand alike."""
    said = case["constants"]
    names = [str(name).split("|") for name in case.golden.array(case.inputs["param_names"])]
    own = list(network.parameters())
    assert [list(ast.literal_eval(shape)) for _, _, shape in names] == [list(weight.shape) for weight in own]
    for (number, name, _), weight in zip(names, own, strict=True):
        q = (torch.arange(weight.numel(), dtype=torch.float64) + 1.0) ** 2 % said["modulus"]
        values = said["amp"] * torch.sin(said["freq"] * q + said["phase"] * int(number))
        if name.endswith("weight_g"):
            values = values.abs() + said["gain_offset"]
        weight.data = values.reshape(weight.shape)


def galr(case: Member) -> Tensor:
    names = ("blocks", "dim", "hidden", "window", "segment", "low_dim", "heads")
    settings = {name: case["settings"][name] for name in names}
    case.repeats("cfg", *settings.values())
    network = GALR(**settings).double().eval()
    fill(network, case)
    return network.ratio(case.input("in")[:, None])[:, None]


def diffwave(case: Member) -> Tensor:
    names = ("in", "res", "skip", "out", "layers", "cycle", "emb_in", "emb_mid", "emb_out")
    settings = [case["settings"][name] for name in names]
    case.repeats("cfg", *settings)
    into, residual, skip, out, layers, cycle, *embedding = settings
    network = DiffWave(into, out, residual, skip, layers, cycle, tuple(embedding)).double().eval()
    fill(network, case)
    return network(case.input("audio"), case.input("ts").flatten(), case.input("mel"))


def _unknown(case: Member) -> str | None:
    return None if case["network"] in ("galr", "diffwave") else f"network {case['network']} has no class"


@pytest.mark.golden(FILE, "networks", later=_unknown)
@torch.no_grad()
def test_network(case):
    if case["network"] == "galr":
        case.check("ratio", galr(case))
    else:
        case.check("out", diffwave(case))
