"""Critically damped Langevin diffusion against the gDDIM and CLD-SGM arrays: schedules, transitions, reverse drifts.

gDDIM's arrays have (x, v) on a last axis and channels before it; CLD-SGM's have x before v on the channels, as here.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from diffexp.process.cld import CLD
from diffexp.sampler.grid import Power
from tests.parity.golden import Member

FILE = "gddim"
LATER = {
    "cld_*": "needs gDDIM on CLD",
    "sgm_loss": "needs CLD-SGM's losses",
    "sgm_grid": "needs CLD-SGM's grids",
    "sgm_sampler": "needs CLD-SGM's samplers",
    "sgm_ode_rk4": "needs an ODE solver on CLD",
}
KINDS = {"cld", "cld_sgm"}


def unknown(case: Member) -> str | None:
    """Why this member is not tested: the first of its settings that nothing here can do."""
    config, words = case.golden.config, case.words
    process = config["processes"].get(words.get("process"), {"kind": None})["kind"]
    net = config["nets"].get(words.get("net"), {"kind": "sgm_tanh"})["kind"]
    grid = words.get("grid", {}).get("kind", "power")
    reasons = {
        f"process of kind {process}": process not in KINDS,
        f"network of kind {net}": net != "sgm_tanh",
        f"grid of kind {grid}": grid != "power",
    }
    return next((reason for reason, true in reasons.items() if true), None)


def process_of(case: Member, objective: str = "hsm") -> CLD:
    """The member's process; CLD-SGM adds its epsilon to the variances at every time, gDDIM moves it along."""
    said = case.golden.config["processes"][case["process"]]
    shared = {word: said[word] for word in ("m_inv", "beta0", "beta1", "gamma")}
    rules = {"cld": ("sigma0_eps", "transported"), "cld_sgm": ("numerical_eps", "added")}
    eps, rule = rules[said["kind"]]
    return CLD(**shared, eps=said[eps], eps_rule=rule, velocity=objective)


def noise_multiplier(process: CLD, t: Tensor) -> Tensor:
    """-1 / L_vv, which makes the velocity's score of its unit noise."""
    return -1.0 / process.factor(t, "cholesky").values[..., 1, 1]


@pytest.mark.golden(FILE, "inputs", later=unknown)
def test_inputs_that_repeat_the_config(case):
    """Constants named as [m_inv,...]; parameters of networks: all of one, one of its words, or all but the weight."""
    constants, nets = case.golden.config["processes"][case["process"]], case.golden.config["nets"].values()
    numbers = [[value for value in net.values() if not isinstance(value, str)] for net in nets]
    numbers += [value for words in numbers for value in words] + [_flat(words) for words in numbers]
    for key, meaning in case["arrays"].items():
        listed = re.match(r"\[([\w,]+)\]", meaning)
        if listed is not None:
            assert case.golden.array(key).tolist() == [constants[name] for name in listed[1].split(",")], key
        elif meaning == "net parameters":
            found = case.golden.array(key).tolist()
            assert found in numbers or found in [words[1:] for words in numbers if isinstance(words, list)], key


def _flat(words: list) -> list[float]:
    return [number for word in words for number in (word if isinstance(word, list) else [word])]


@pytest.mark.golden(FILE, "cld_schedule", later=unknown)
def test_schedule(case):
    process, t = process_of(case), case.input("t")
    r, sigma = process.factor(t), process.factor(t).covariance().values
    half = 0.5 * process.diffusion(t).covariance() @ r.transpose().inverse()
    case.check_each(
        B=process.beta_integral(t),
        F=process.drift(t).values,
        G=process.diffusion(t).values,
        psi_t0=process.signal(t).values,
        Sigma=sigma,
        R=r.values,
        invR=r.inverse().values,
        L=process.factor(t, "cholesky").values,
        half_GGt_invRT=half.values,
        Sigma_ref=sigma,
        R_ref=r.values,
        theta_ref=process.angle(t),
    )


@pytest.mark.golden(FILE, "cld_transition", later=unknown)
def test_transitions(case):
    s, t = case.input("from_to").T
    case.check("psi", process_of(case).transition(t, s).values)


@pytest.mark.golden(FILE, "cld_grid", later=unknown)
def test_grid(case):
    said, process = case["grid"], process_of(case)
    assert said["t_start"] == process.t_prior
    case.check("times", Power(case["p"], t_end=said["t_end"]).times(process, case["n"]))


def packed(u: Tensor) -> Tensor:
    """(B, H, W, C, 2) as (B, 2C, H, W), x before v."""
    return torch.cat([half.movedim(-1, 1) for half in u.unbind(-1)], dim=1)


def unpacked(u: Tensor) -> Tensor:
    """The inverse of `packed`."""
    return torch.stack([half.movedim(1, -1) for half in u.chunk(2, dim=1)], dim=-1)


@pytest.mark.golden(FILE, "cld_convert", later=unknown)
def test_states_of_a_batch(case):
    """Psi(t, 0) [x0; 0] + R z."""
    process, z = process_of(case), packed(case.input("z"))
    law = process.marginal(case.input("t"))
    x0 = process.lift(case.input("x0").movedim(-1, 1))
    case.check_each(mean=unpacked(law.signal.apply(x0)), ut=unpacked(law.perturb(x0, z)))


@pytest.mark.golden(FILE, "sgm_schedule", later=unknown)
def test_variances_and_multipliers(case):
    t, found = case.input("t"), {}
    for objective in ("hsm", "dsm"):
        process = process_of(case, objective)
        sigma = process.factor(t, "cholesky").covariance().values
        found[f"var_{objective}"] = sigma.flatten(1)[:, [0, 1, 3]]
        found[f"noise_multiplier_{objective}"] = noise_multiplier(process, t)
    # G G^T = 2 Gamma beta on the velocity; the likelihood weighs the score with half of it.
    found["loss_multiplier"] = 0.5 * process.diffusion(t).covariance().values[:, 1, 1]
    case.check_each(**found)


@pytest.mark.golden(FILE, "sgm_reverse", later=unknown)
def test_reverse_drifts(case):
    """-F u + G G^T score, half of the score for the probability flow; only the velocity's score enters."""
    process, u, t = process_of(case, case["objective"]), case.input("u"), case.input("t")
    noise = process.diffusion(t).covariance()
    score = velocity_score(case, process, u, t)
    back = -1.0 * process.drift(t).apply(u)
    case.check_each(
        drift_pf=back + 0.5 * noise.apply(score),
        drift_sde=back + noise.apply(score),
        diffusion=process.diffusion(t).apply(torch.ones_like(u)),
    )


def velocity_score(case: Member, process: CLD, u: Tensor, t: Tensor) -> Tensor:
    """The stand-in's score of the velocity beside zeros for the position."""
    said, (x, v) = case.golden.config["nets"][case["net"]], u.chunk(2, dim=1)
    time = t[:, None, None, None]
    output = torch.tanh(said["a"] * v - said["d"] * x) * torch.cos(said["b"] * time) + said["c"] * v
    score = noise_multiplier(process, t)[:, None, None, None] * output
    if case["mixed_score"]:
        variance = process.factor(t, "cholesky").covariance().values[:, 1, 1]
        score = score - v / variance[:, None, None, None]
    return torch.cat([torch.zeros_like(score), score], dim=1)
