"""Critically damped Langevin diffusion against the gDDIM arrays: schedules, conversions and losses."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.langevin import PhaseEps
from tests.parity.golden import Member
from tests.parity.langevin import FILE, denoiser_of, each_time, grid_of, packed, process_of, unknown, unpacked


@pytest.mark.golden(FILE, "inputs", later=unknown)
def test_inputs_that_repeat_the_config(case):
    """Constants named as [m_inv,...]; parameters of networks: all of one, one of its words, or all but the weight; the
    numbers of steps of a family."""
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
        elif meaning == "step numbers":
            lists = [member.words.get("n") for member in case.golden.members]
            assert case.golden.array(key).tolist() in lists, key


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
    case.check("times", grid_of(case).times(process_of(case), case["n"]))


@pytest.mark.golden(FILE, "cld_convert", later=unknown)
def test_states_networks_and_scores(case):
    """Psi(t, 0) [x0; 0] + R z; what the networks say at the stored state, and scores and noises that follow."""
    process, z, t = process_of(case), packed(case.input("z")), case.input("t")
    law = process.marginal(t)
    x0 = process.lift(case.input("x0").movedim(-1, 1))
    case.check_each(mean=unpacked(law.signal.apply(x0)), ut=unpacked(law.perturb(x0, z)))
    u = packed(case.golden.tensor(case.outputs["ut"]))
    net = denoiser_of(case, case["nets"]["tanh"])
    output = net.output(u, net.time_input(t))
    parts, plain = (u, output), PhaseEps().form(law)
    found = {"net": output, "eps_plain": plain.noise(parts), "score": plain.score(parts)}
    found["eps_mixed"] = PhaseEps(mixed="velocity").form(law).noise(parts)
    found["eps_L"] = PhaseEps(factor="cholesky").target(law, x0, output, u)
    for name, tag in case["nets"].items():
        found[f"eps_{name}"] = each_time(t, lambda k, tag=tag: noise_at(case, tag, u[k : k + 1], t[k : k + 1]))
    case.check_each(**{role: unpacked(value) for role, value in found.items()})


def noise_at(case: Member, net: str, u: Tensor, t: Tensor) -> Tensor:
    """The noise estimate of a network for one state."""
    denoiser = denoiser_of(case, net)
    (point,) = denoiser.prepare(t, torch.float64, "cpu")
    return denoiser(u, point).noise


def _other_reduction(case: Member) -> str | None:
    strange = [loss["reduce"] for loss in case["losses"] if loss["reduce"] not in ("mean", "halfsum")]
    return unknown(case) or (f"reduction {strange[0]}" if strange else None)


@pytest.mark.golden(FILE, "cld_loss", later=_other_reduction)
def test_losses(case):
    """Plain and mixed; the mean over everything, and half of the sum of an image."""
    process, t, z = process_of(case), case.input("t"), packed(case.input("z"))
    law = process.marginal(t)
    x0 = process.lift(case.input("x0").movedim(-1, 1))
    case.check_each(mean_ut=unpacked(law.signal.apply(x0)), ut=unpacked(law.perturb(x0, z)))
    for loss in case["losses"]:
        scale, reduce = {"mean": (1.0, "mean"), "halfsum": (0.5, "sum")}[loss["reduce"]]
        objective = Denoising(Plain(), Uniform(), reduce=reduce)
        losses = objective.losses(denoiser_of(case, mixed=loss["mixed_score"]), x0, z, t)
        case.check(loss["role"], scale * losses.mean())
