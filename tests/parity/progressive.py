"""What the `config` of Progressive Distillation's golden file names, as objects of this project."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.objective.weighting import SNR, Constant, SNRPlusOne, TruncatedSNR
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, V
from diffexp.process.cosine import Cosine
from tests.parity.golden import Member
from tests.parity.standin import Mixture, Toy

HEADS = {"x": X0, "eps": Eps, "v": V, "both": Both}
WEIGHTINGS = {"constant": Constant, "snr": SNR, "snr_trunc": TruncatedSNR, "v_mse": SNRPlusOne}


def unknown(case: Member) -> str | None:
    """Why this member cannot be tested: it names a kind of process, network, weight or variance without a class."""
    config, words = case.golden.config, case.words
    nets = [config["nets"].get(words.get(role), {}) for role in ("net", "teacher", "student")]
    kinds = [
        ("process", {"vp_cosine"}, config["processes"].get(words.get("process"), {}).get("type")),
        *(("network", {"toy", "toy_both", "gauss", "mix"}, net.get("type")) for net in nets),
        *(("mean_type", set(HEADS), net.get("mean_type")) for net in nets),
        ("weight", set(WEIGHTINGS), words.get("weight")),
        ("variance", {"array" if case.family.endswith("_array") else "fixed"}, words.get("variance", {}).get("type")),
        ("op", {"x_from_eps", "eps_from_x", "x_from_v", "v_from_x_eps"}, words.get("op")),
    ]
    found = [f"{what} {kind} has no class" for what, known, kind in kinds if kind is not None and kind not in known]
    return found[0] if found else None


def denoiser(case: Member, process: Cosine, role: str = "net") -> NetworkDenoiser:
    """The member's network of a role with its head on a process; it is told the log-SNR, as the official one."""
    config = case.golden.config
    said, clip = config["nets"][case[role]], config["net_time"]["clip"]
    values = case.golden.tensor(said["params_key"])
    if said["type"] == "gauss":
        law = dict(zip(said["fields"], values, strict=True))
        network = Mixture(torch.ones(1), law["mean"][None], law["std"][None])
    elif said["type"] == "mix":
        network = Mixture(*(values[said["rows"].index(row)] for row in ("weights", "means", "stds")))
    else:
        rows = [said[word] for word in ("index", "index_x", "index_eps") if word in said]
        network = Toy(values, rows, lambda time: torch.arctan(torch.exp(-time.clip(*clip) / 2.0)) / (torch.pi / 2.0))
    return NetworkDenoiser(network, HEADS[said["mean_type"]](time="log_snr"), process)


def cosine(case: Member) -> Cosine:
    """The process that the member names."""
    said = case.golden.config["processes"][case["process"]]
    limits = said["logsnr_min"], said["logsnr_max"]
    if "minmax_key" in said:
        assert case.golden.array(said["minmax_key"]).tolist() == list(limits)
    return Cosine(logsnr_min=limits[0], logsnr_max=limits[1])


def around(logsnr: Tensor) -> tuple[Cosine, Tensor]:
    """A cosine process that reaches these log-SNR, and the times at which it has them."""
    reach = float(logsnr.abs().max()) + 5.0
    process = Cosine(logsnr_min=-reach, logsnr_max=reach)
    return process, process.time_of_log_snr(logsnr)


def named(variance: dict) -> tuple[str, float | None]:
    """Our name and interpolation of a variance between the small one (interp 0) and the large one (1)."""
    name = {0.0: "small", 1.0: "large"}.get(variance["interp"], "medium")
    return name, variance["interp"] if name == "medium" else None
