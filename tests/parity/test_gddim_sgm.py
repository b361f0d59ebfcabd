"""CLD-SGM's base against the gDDIM arrays: schedules, losses, reverse drifts, grids and samplers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffexp.objective import times
from diffexp.objective.denoising import Denoising
from diffexp.objective.weighting import Diffusion, Likelihood, Plain
from diffexp.process.cld import CLD
from diffexp.sampler.euler import EulerMaruyama
from diffexp.sampler.grid import QuadraticStriding, Uniform
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.rk4 import RK4
from diffexp.sampler.sscs import SSCS
from tests.parity.golden import Member
from tests.parity.langevin import FILE, denoiser_of, process_of, unknown, walked

WEIGHTINGS = {"reweightedv2": Plain, "reweightedv1": Diffusion, "likelihood": Likelihood}
METHODS = {"em": EulerMaruyama, "sscs": lambda: SSCS(second_half="first")}
STRIDINGS = {"linear": Uniform, "quadratic": QuadraticStriding}


def noise_multiplier(process: CLD, t: Tensor) -> Tensor:
    """-1 / L_vv, which makes the velocity's score of its unit noise."""
    return -1.0 / process.factor(t, "cholesky").values[..., 1, 1]


@pytest.mark.golden(FILE, "sgm_schedule", later=unknown)
def test_variances_and_multipliers(case):
    t, found = case.input("t"), {}
    for objective in ("hsm", "dsm"):
        process = process_of(case, objective)
        sigma = process.factor(t, "cholesky").covariance().values
        found[f"var_{objective}"] = sigma.flatten(1)[:, [0, 1, 3]]
        found[f"noise_multiplier_{objective}"] = noise_multiplier(process, t)
    # G G^T = 2 Gamma beta on the velocity; the likelihood weighs the score with half of it.
    found["loss_multiplier"] = 0.5 * process.noise_rate(t)
    case.check_each(**found)


def _unknown_loss(case: Member) -> str | None:
    strange = [loss["weighting"] for loss in case["losses"] if loss["weighting"] not in WEIGHTINGS]
    reasons = {
        f"weighting {strange[:1]} has no class": bool(strange),
        f"reduction {case['reduce']}": case["reduce"] != "sum per sample",
        f"objective {case['objective']}": case["objective"] not in ("hsm", "dsm"),
    }
    return unknown(case) or next((reason for reason, true in reasons.items() if true), None)


@pytest.mark.golden(FILE, "sgm_loss", later=_unknown_loss)
def test_losses(case, monkeypatch):
    """Mixed and plain scores under three weightings; DSM draws the start velocity with the data."""
    monkeypatch.setattr(times.random, "uniform", lambda *key: case.input("rand01"))
    objective, x0, z = case["objective"], case.input("x0"), case.input("z")
    process, law_of_times = process_of(case, objective), times.Uniform(t_min=case["loss_eps"])
    t = law_of_times.draw(process, 0, torch.arange(len(x0)))
    law, lifted = process.marginal(t), process.lift_drawn(x0, lambda: case.input("v0_normal"))
    u = law.perturb(lifted, z)
    scores = {f"score_{name}": score(case, law, u, name == "mixed") for name in ("mixed", "plain")}
    case.check_each(t=t, mean=law.signal.apply(lifted), ut=u, **scores)
    for loss in case["losses"]:
        net = denoiser_of(case, mixed=loss["mixed_score"], velocity=objective)
        made = Denoising(WEIGHTINGS[loss["weighting"]](), law_of_times, reduce="sum")
        made.check(net.head, process)
        case.check(loss["role"], made.losses(net, lifted, z, t))


def score(case: Member, law, u: Tensor, mixed: bool) -> Tensor:
    """The velocity's score."""
    net = denoiser_of(case, mixed=mixed, velocity=case["objective"])
    output = net.output(u, net.time_input(law.t))
    return net.form(law).score((u, *net.head.split(output))).chunk(2, dim=1)[1]


@pytest.mark.golden(FILE, "sgm_reverse", later=unknown)
def test_reverse_drifts(case):
    """-F u + G G^T score, half of the score for the probability flow; only the velocity's score enters."""
    process, u, t = process_of(case, case["objective"]), case.input("u"), case.input("t")
    law, noise = process.marginal(t), process.diffusion(t).covariance()
    net = denoiser_of(case, mixed=case["mixed_score"], velocity=case["objective"])
    parts = (u, *net.head.split(net.output(u, net.time_input(t))))
    pull = net.form(law).score.after(noise)(parts)
    back = -1.0 * process.drift(t).apply(u)
    diffusion = process.diffusion(t).apply(torch.ones_like(u))
    case.check_each(drift_pf=back + 0.5 * pull, drift_sde=back + pull, diffusion=diffusion)


def _other_striding(case: Member) -> str | None:
    strange = case["striding"] not in STRIDINGS
    return unknown(case) or (f"striding {case['striding']}" if strange else None)


@pytest.mark.golden(FILE, "sgm_grid", later=_other_striding)
def test_grids(case):
    """In reversed time, 1 - t."""
    process = process_of(case)
    grid = STRIDINGS[case["striding"]](t_end=process.t_max - case["tau_end"])
    case.check("tau", process.t_max - grid.times(process, case["n"]))


def _other_sampler(case: Member) -> str | None:
    reasons = {
        f"method {case['method']}": case["method"] not in METHODS,
        f"sscs_num_stab {case.words.get('sscs_num_stab')}": case.words.get("sscs_num_stab", 0.0) != 0.0,
    }
    return _other_striding(case) or next((reason for reason, true in reasons.items() if true), None)


@pytest.mark.golden(FILE, "sgm_sampler", later=_other_sampler)
def test_samplers(case):
    stepper = METHODS[case["method"]]()
    assert stepper.draws == case["draws_per_step"][case["method"]]
    last = "denoise_em" if case["denoise"] else "state"
    grid = STRIDINGS[case["striding"]](t_end=case["eps"], last=last)
    assert stepper.evaluations(case["n"]) + case["denoise"] == case["nfe"]
    net = denoiser_of(case, mixed=case["mixed_score"], velocity=case["objective"])
    case.check("u", walked(stepper, grid, net, case.input("uT"), case["n"], case.input("z"))[-1])


@pytest.mark.golden(FILE, "sgm_ode_rk4", later=unknown)
def test_runge_kutta(case):
    """Steps of one length in reversed time; what is left makes the last one shorter."""
    net = denoiser_of(case, mixed=case["mixed_score"], velocity=case["objective"])
    start, step = net.process.t_max, case["step"]
    span = start - case["eps"]
    n = math.ceil(span / step - 1e-9)
    values = [start - k * step for k in range(n)]
    grid = Explicit(values, t_end=case["eps"], last="denoise_em" if case["denoise"] else "state")
    case.check("u", walked(RK4(), grid, net, case.input("uT"), n)[-1])
    assert net.evaluations == case["nfe"] * len(case.input("uT"))
    case.check("h_nfe", torch.tensor([step, net.evaluations / len(case.input("uT"))], dtype=torch.float64))
