"""What the golden file of the bridges means by its words: processes, predictions, the stand-in network, conditions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffexp.prediction.bridge import DDBM, I2SB
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.bridge import Bridge
from diffexp.process.bridge_i2sb import BridgeI2SB, BridgeI2SBDiscrete
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.sampler.grid import Grid
from diffexp.sampler.grid_bridge import BridgeKarras, Leaving
from tests.parity.golden import Member
from tests.parity.layout import Words
from tests.parity.standin import per_image

FILE = "cdbm"
FORMULA = "tanh(p0*u+p1*y)*cos(p2*tau)+p3*u+p4*y+p5*sin(p2*tau)"
LAST_TIME = {"vp": lambda said: said["T"], "ve": lambda said: said["sigma_max"]}  # of the others it is 1


def unknown(case: Member) -> str | None:
    """Why this member is not tested: the first of its settings that nothing here can do."""
    config, words = case.golden.config, case.words
    process = config["processes"].get(words.get("process"), {"kind": "vp", "T": 1.0})
    kind, last = process["kind"], LAST_TIME.get(process["kind"], lambda said: 1.0)
    precond = config["preconds"].get(words.get("precond"), {"kind": "ddbm"})["kind"]
    reasons = {
        f"process of kind {kind}": kind not in {"vp", "ve", "i2sb", "i2sb_continuous"},
        f"T = {process['T']} on a process of kind {kind}": process["T"] != last(process),
        f"preconditioning of kind {precond}": precond not in {"ddbm", "i2sb"},
        f"network {config['networks']['formula']}": config["networks"]["formula"] != FORMULA,
    }
    return next((reason for reason, true in reasons.items() if true), None)


def process_of(case: Member) -> Bridge:
    """The member's process."""
    said = case.golden.config["processes"][case["process"]]
    if said["kind"] == "vp":
        return BridgeVP(said["beta_min"], said["beta_d"], said["t_min"], said["T"])
    if said["kind"] == "ve":
        return BridgeVE(said["sigma_max"], said["t_min"])
    if said["kind"] == "i2sb_continuous":
        return BridgeI2SB(said["beta_min"], said["beta_max"], said["t_min"])
    return BridgeI2SBDiscrete(said["n_timestep"], said["beta_min"], said["beta_max"], said["t_min"])


def per_index(process: Bridge) -> float:
    """Steps of the table in one unit of time, by which the file's rates are divided; 1 without a table."""
    return float(process.num_times - 1) if isinstance(process, BridgeI2SBDiscrete) else 1.0


def head_of(case: Member) -> Head:
    """The member's prediction."""
    said = case.golden.config["preconds"][case["precond"]]
    if said["kind"] == "ddbm":
        return DDBM(sigma_data=said["sigma_data"], cov=said["cov"])
    return I2SB(said["n_timestep"], said["t0"], said["t1"])


class Waves(nn.Module):
    """The file's formula of (u, tau, y); y is the second half of the channels."""

    def __init__(self, parameters: Tensor) -> None:
        super().__init__()
        self.vector = nn.Parameter(parameters.clone())

    def forward(self, shown: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        (u, y), p = shown.chunk(2, dim=1), self.vector.to(shown.dtype)
        phase = p[2] * per_image(time, u).to(shown.dtype)
        return torch.tanh(p[0] * u + p[1] * y) * phase.cos() + p[3] * u + p[4] * y + p[5] * phase.sin()


def network_of(case: Member, role: str | None = None) -> Waves:
    """The member's network, or that of a role where it has several."""
    name = case["net"] if role is None else case["nets"][role]
    key = case.golden.config["networks"][name]["params_key"]
    return Waves(case.golden.tensor(key)).requires_grad_(False)


def denoiser_of(case: Member, role: str | None = None) -> NetworkDenoiser:
    """The member's network, prediction and process together."""
    return NetworkDenoiser(network_of(case, role), head_of(case), process_of(case))


def conditions_of(case: Member, masked: bool = False, dtype: torch.dtype = torch.float64) -> Conditions:
    """The end points, and the mask where it is asked for."""
    return Conditions(endpoint=case.input("x_T", dtype), mask=case.input("mask", dtype) if masked else None)


def at_times(net: NetworkDenoiser, u: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    """The raw network output for states (B, *) at times of their own, (B,) or ()."""
    t = t.expand(len(u))
    return net.output(u, net.time_input(t), conditions, net.input_scale(t))


_UNIFORM_GAMMA, _KARRAS_GAMMA = 1e-3, 1e-4  # any distance serves: the file names the first time itself


def grid_of(said: Words) -> tuple[Grid, Bridge, int]:
    """(grid, a bridge with its ends, steps with the one from the end point) of what the file says of a grid."""
    if said["kind"] == "uniform":
        last = said["t_max"] + _UNIFORM_GAMMA
        return Leaving(_UNIFORM_GAMMA), Brownian(1.0, said["t_min"], last), said["n"] + 1
    last = said["t_max"] + _KARRAS_GAMMA
    return BridgeKarras(said["rho"], _KARRAS_GAMMA), Brownian(1.0, said["t_min"], last), said["n"]
