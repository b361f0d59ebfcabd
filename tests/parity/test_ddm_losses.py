"""What DDM and ADM are trained with, against their arrays: times, losses with gradients, averages, learning rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.distillation.metric import L2
from diffexp.objective.base import Reduce
from diffexp.objective.decoupled import DecoupledDenoising
from diffexp.objective.reconstruction import Reconstruction
from diffexp.objective.times import Uniform
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.two_head import TwoHead
from diffexp.training.ema import EMA, EMASettings
from diffexp.training.optimizer import Adam
from tests.parity.decoupled import FILE, PLACES, equal, evaluated, process_of
from tests.parity.golden import Member

WEIGHTS = ("none", "v1", "v2c", "v2t", "de")
TIME_WEIGHTS = ("square", "linear", "log")
SOURCES = {"both_heads": "both_heads", "minus_C": "image_head"}


def weights_of(case: Member) -> str | None:
    """Our name of the weights of the two heads."""
    said = case.golden.config["loss_weights"][case["weighting"]]
    wanted = [evaluated(said[head], t=PLACES, eps=case["eps"]) for head in ("image", "noise")]
    process = process_of(case)
    pairs = {name: DecoupledDenoising(Uniform(case["eps"]), name).pair(process, PLACES) for name in WEIGHTS}
    return next((name for name, pair in pairs.items() if equal(pair, wanted)), None)


def time_weight_of(case: Member) -> str | None:
    """Our name of the weight of the reconstruction."""
    wanted = evaluated(case["rec"]["time_weight"], t=PLACES)
    found = (name for name in TIME_WEIGHTS if equal([Reconstruction(time_weight=name).weight(PLACES)], [wanted]))
    return next(found, None)


def unknown(case: Member) -> str | None:
    """Why a loss cannot be tested."""
    if case["disloss"] is not None:
        return "a constant gradient by way of a first stage: latents come later"
    made = {"process": process_of(case), "network": case["network"] == "fixed" or None}
    made |= {"weighting": weights_of(case), "time weight": time_weight_of(case)} if made["process"] else {}
    made |= {"x_rec": SOURCES.get(case["rec"]["x_rec"]), "pairing": case["batch_pairing"] == "outer_product" or None}
    missing = [word for word, found in made.items() if found is None]
    return f"{missing[0]} has no class" if missing else None


class Fixed(nn.Module):
    """A network that says the same whatever it is shown."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.output


def objective_of(case: Member, pairing: str) -> DecoupledDenoising:
    rec = case["rec"]
    mae: Reduce | None = rec["mae_reduction"] if rec["mae"] else None
    perceptual = L2() if rec["lpips"] else None
    return DecoupledDenoising(
        Uniform(case["eps"]),
        weights_of(case),
        case["element_reduction"],
        case["l1_reduction"] if case["use_l1"] else None,
        Reconstruction(SOURCES[rec["x_rec"]], mae, perceptual, time_weight_of(case)),
        pairing,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.golden(FILE, "losses", later=unknown)
def test_loss_and_gradients(case, dtype):
    """The official pairing on the whole batch; image by image the two pairings are the same."""
    process = process_of(case)
    assert list(case["head1_order"]) == list(process.attenuation.names)
    x0, t = case["data_scale"] * case.input("x0", dtype), case.input("t")
    noise = case["noise"]["scale"] * case.input("noise", dtype) + case["noise"]["shift"]
    drawn = None
    if case["K_clip"] is not None:
        assert case["K_clip"] == process.attenuation.bound
        drawn = process.draw(lambda: case.input("K_raw", dtype))
    said = [case.input(f"{name}_pred", dtype) for name in (*case["head1_order"], "n")]
    net = NetworkDenoiser(Fixed(torch.cat(said, dim=1)), TwoHead("none").on(process), process)
    official, own = objective_of(case, "official"), objective_of(case, "per_sample")

    terms = official.terms(net, x0, noise, t, drawn=drawn)
    total = official.total(terms)
    (gradient,) = torch.autograd.grad(total, net.network.output, retain_graph=True)
    image, rest = gradient.split([gradient.shape[1] - x0.shape[1], x0.shape[1]], dim=1)
    logged = x0[0].numel() if case["logged_divided_by_CHW"] else 1
    rec = terms.weight * terms.reconstruction
    per = torch.stack([terms.heads + rec, terms.heads / logged, rec / logged], dim=1)
    simple, vlb = terms.heads.mean() / logged, official.weighed(terms) / logged
    case.check_each(total=total, simple=simple, vlb=vlb, gC=image, gn=rest, per=per)
    case.compare("per", own.total(terms), np.asarray(case.golden.array(case.outputs["per"])[:, 0].mean()))
    alone = [objective_of(case, pairing).total(terms_of(terms, 0)) for pairing in ("official", "per_sample")]
    torch.testing.assert_close(alone[0], alone[1], rtol=1e-6, atol=0)


def terms_of(terms, place: int):
    """The terms of one image by itself."""
    return type(terms)(*(part[place : place + 1] for part in (terms.heads, terms.reconstruction, terms.weight)))


def _no_process(case: Member) -> str | None:
    return None if process_of(case) else f"process {case['process']} has no class"


@pytest.mark.golden(FILE, "training_times", later=_no_process)
def test_training_times(case, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda seed, stream, positions: case.input("u"))
    process, law = process_of(case), Uniform(case["eps"])
    law.check(process)
    case.check("t", law.draw(process, 0, torch.arange(len(case.input("u")))))
    assert law.start(process) == case["eps"]


def _other_warm_up(case: Member) -> str | None:
    same = case["inv_gamma"] == 1.0 and case["min_value"] == 0.0
    return None if same else "a warm-up with another inv_gamma or min_value than every published one"


@pytest.mark.golden(FILE, "ema", later=_other_warm_up)
def test_averages(case):
    """The official code averages float buffers as it averages parameters; here the buffer's numbers are a parameter."""
    case.repeats("cfg", case["beta"], case["update_after_step"], case["update_every"], case["calls"])
    settings = EMASettings(
        decays=[case["beta"]],
        every=case["update_every"],
        after=case["update_after_step"],
        warmup_power=case["power"],
    )
    kind = getattr(torch, case["storage_dtype"])
    calls = torch.arange(case["calls"], dtype=torch.float64)
    signals = [evaluated(case["signal"][role], k=calls) for role in ("parameter", "buffer")]
    network = nn.Module()
    network.w = nn.Parameter(torch.zeros(2, dtype=kind))
    ema, found = EMA(network, settings), []
    for values in torch.stack(signals, dim=1):
        network.w.data.copy_(values)
        ema.update()
        (profile,) = ema.state_dict()["profiles"].values()
        found.append(profile["w"].double())
    decays = torch.tensor([settings.decay(case["beta"], k) for k in range(case["calls"])], dtype=torch.float64)
    case.check_each(trajectory=torch.stack(found), decay=decays)


@pytest.mark.golden(FILE, "lr")
def test_learning_rates(case):
    settings = Adam(
        lr=case["lr"] or 1.0,
        warmup_steps=case["warmup"],
        warmup_overshoot="i<=warmup" in case["formula"],
        decay_steps=case["T"],
        decay_power=case["exponent"],
        decay_floor=case["floor"],
    )
    found = [settings.multiplier(int(i)) for i in case.input("iters")]
    case.check("mult", torch.tensor(found, dtype=torch.float64))
    rates = [settings.rate(int(i)) / settings.lr for i in case.input("iters")]
    assert rates == pytest.approx(found, rel=1e-15)
