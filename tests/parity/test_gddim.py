"""The variance-preserving process, its DDIM and ancestral steps and the cosine transform, against the gDDIM arrays."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from diffexp.objective import times
from diffexp.objective.denoising import Denoising
from diffexp.objective.weighting import Diffusion, Likelihood, Plain
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps, Score
from diffexp.process.dct import DCT
from diffexp.process.vp import VP
from diffexp.sampler.gddim import GDDIM, MAX_ORDER
from diffexp.sampler.grid import Power
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from tests.parity.golden import Member
from tests.parity.standin import Mixture, Toy

FILE = "gddim"
WEIGHTINGS = {"reweightedv2": Plain, "reweightedv1": Diffusion, "likelihood": Likelihood}


def unknown(case: Member) -> str | None:
    """Why this member is not tested: the first of its settings that nothing here can do."""
    config, words = case.golden.config, case.words
    process = config["processes"].get(words.get("process"), {"kind": "vp"})["kind"]
    net = config["nets"].get(words.get("net"), {"kind": "vp_tanh"})["kind"]
    reasons = {
        f"process of kind {process}": process != "vp",
        f"network of kind {net}": net not in {"vp_tanh", "vp_mixture"},
        f"grid of kind {words.get('grid', {}).get('kind')}": words.get("grid", {}).get("kind", "power") != "power",
        f"degree {words.get('degree')}": words.get("degree", 0) >= MAX_ORDER,
        "denoising step": words.get("denoise", False),
    }
    return next((reason for reason, true in reasons.items() if true), None)


def process_of(case: Member) -> VP:
    """The member's process; its prior stands where the member's grid begins."""
    said = case.golden.config["processes"][case["process"]]
    process = VP(said["beta_min"], said["beta_max"])
    process.t_max = case.words.get("grid", {}).get("t_start", said.get("T", process.t_max))
    return process


def grid_of(case: Member) -> Power:
    p = case.words.get("p", case["grid"].get("p"))
    return Power(p, t_end=case["grid"]["t_end"])


def denoiser_of(case: Member, mixed: bool = False) -> NetworkDenoiser:
    said = case.golden.config["nets"][case["net"]]
    if said["kind"] == "vp_tanh":
        values = torch.tensor([said[word] for word in "abc"], dtype=torch.float64)
        return NetworkDenoiser(Toy(values, [[0, 1, 2]], lambda t: t), Eps("t", mixed), process_of(case))
    w, mu = torch.tensor([said["w"], said["mu"]], dtype=torch.float64)
    # The exact noise, -sigma times the score, is what the posterior mean of the data implies.
    return NetworkDenoiser(Mixture(w, mu, torch.full_like(mu, said["s"])), X0("log_snr"), process_of(case))


@pytest.mark.golden(FILE, "inputs", later=unknown)
def test_inputs_that_repeat_the_config(case):
    """Arrays of constants, named as [beta_min,beta_max,...] of a process, or as the parameters of a network."""
    constants = case.golden.config["processes"][case["process"]]
    numbers = [list(_numbers(net)) for net in case.golden.config["nets"].values()]
    numbers += [list(_numbers(value)) for net in case.golden.config["nets"].values() for value in net.values()]
    for key, meaning in case["arrays"].items():
        names = re.match(r"\[([\w,]+)\]", meaning)
        if names is not None:
            assert case.golden.array(key).tolist() == [constants[name] for name in names[1].split(",")], key
        elif meaning == "net parameters":
            assert case.golden.array(key).ravel().tolist() in numbers, key


def _numbers(node: object) -> list[float]:
    if isinstance(node, dict):
        return [number for value in node.values() for number in _numbers(value)]
    if isinstance(node, list):
        return [number for value in node for number in _numbers(value)]
    return [node] if isinstance(node, int | float) else []


@pytest.mark.golden(FILE, "vp_schedule", later=unknown)
def test_schedule(case):
    process, t = process_of(case), case.input("t")
    ones = torch.ones_like(t)
    case.check_each(
        var=process.factor(t).covariance().value,
        mean_coef=process.signal(t).value,
        noise_multiplier=Score().target(process.marginal(t), 0.0 * ones, ones, ones),
    )


def _unknown_loss(case: Member) -> str | None:
    strange = [loss["weighting"] for loss in case["losses"] if loss["weighting"] not in WEIGHTINGS]
    if strange:
        return f"weighting {strange[0]} has no class"
    return unknown(case) or (None if case["reduce"] == "sum per sample" else f"reduction {case['reduce']}")


@pytest.mark.golden(FILE, "vp_sgm_loss", later=_unknown_loss)
def test_losses(case, monkeypatch):
    """Mixed and plain scores under the three weightings of CLD-SGM's code, with its times."""
    monkeypatch.setattr(times.random, "uniform", lambda *key: case.input("rand01"))
    x0, z, process = case.input("x0"), case.input("z"), process_of(case)
    law_of_times = times.Uniform(t_min=case["loss_eps"])
    t = law_of_times.draw(process, 0, torch.arange(len(x0)))
    law = process.marginal(t)
    u = law.perturb(x0, z)
    case.check_each(t=t, mean=law.signal.apply(x0), ut=u, **_scores(case, law, u))
    for loss in case["losses"]:
        objective = Denoising(WEIGHTINGS[loss["weighting"]](), law_of_times, reduce="sum")
        case.check(loss["role"], objective.losses(denoiser_of(case, loss["mixed_score"]), x0, z, t))


def _scores(case: Member, law, u: Tensor) -> dict[str, Tensor]:
    found = {}
    for role, mixed in (("score_mixed", True), ("score_plain", False)):
        net = denoiser_of(case, mixed)
        noise = net.form(law).noise((u, net.output(u, net.time_input(law.t))))
        found[role] = Score().target(law, u, noise, u)
    return found


@pytest.mark.golden(FILE, "vp_grid", later=unknown)
def test_grid(case):
    case.check("times", grid_of(case).times(process_of(case), case["n"]))


@pytest.mark.golden(FILE, "vp_ab", later=unknown)
def test_coefficients_of_the_noise_estimates(case):
    """C_ij of the plan, zero for estimates that are not known yet; `coef` is the official quadrature of them."""
    process = process_of(case)
    times = grid_of(case).times(process, case["n"])
    found = GDDIM(case["degree"] + 1).plan(process, times, "state").predictor
    table = torch.stack([operator.value for operator in found], dim=1)
    assert bool((table.abs().sum(0) > 0.0).all())
    case.check_each(coef=table, coef_ref=table)


@pytest.mark.golden(FILE, "vp_det", later=unknown)
def test_deterministic_samples(case):
    sampler = Sampler("parity", GDDIM(case["degree"] + 1), grid_of(case))
    case.check("x", sampler.sample(denoiser_of(case), FixedNoise(case.input("xT")), case["n"]).images)
    if case["degree"] == 0:
        ddim = Sampler("parity", DDIM(), grid_of(case))
        case.check("x", ddim.sample(denoiser_of(case), FixedNoise(case.input("xT")), case["n"]).images)


@pytest.mark.golden(FILE, "vp_sto", later=unknown)
def test_stochastic_samples(case):
    """Any lambda; lambda 1 is ancestral sampling, lambda 0 is DDIM."""
    start, z = case.input("xT"), case.input("z") if case["lambda"] else ()
    if case["lambda"] and not case["noise_on_last_step"]:
        z = torch.cat([z[: case["n"] - 1], torch.zeros_like(z[:1])])
    steppers = [GDDIM(order=1, lam=case["lambda"])]
    steppers += {0.0: [DDIM()], 1.0: [Ancestral()]}.get(case["lambda"], [])
    for stepper in steppers:
        sampler = Sampler("parity", stepper, grid_of(case))
        case.check("x", sampler.sample(denoiser_of(case), FixedNoise(start, z), case["n"]).images)


def _other_transform(case: Member) -> str | None:
    known = case["type"] == 2 and case["norm"] == "ortho" and len(case["axes"]) == 2
    return None if known else f"transform of type {case['type']}, norm {case['norm']}, axes {case['axes']}"


@pytest.mark.golden(FILE, "dct", later=_other_transform)
def test_cosine_transform(case):
    x = case.input("x").movedim(case["axes"], (-2, -1))
    assert x.shape[-2:] == (case["N"], case["N"])
    y = DCT().forward(x)
    torch.testing.assert_close(DCT().backward(y), x, rtol=0.0, atol=1e-12)
    case.check("y", y.movedim((-2, -1), case["axes"]))
