"""Blurring against the gDDIM arrays: schedules, the loss, coefficients and samples.

The file's images have channels last, and its samplers walk in frequencies; ours walk in pixels.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.denoiser import Denoiser, NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.process.blurring import Blurring, GDDIMBlurring, HoogeboomBlurring
from diffexp.process.dct import DCT
from diffexp.sampler.gddim import GDDIM, MAX_ORDER
from diffexp.sampler.grid import Power
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.stepper import Stepper
from tests.parity.golden import Member
from tests.parity.standin import per_image
from tests.process.spectral import Spectral

FILE = "gddim"
ALPHA = "cos((t+0.004)/1.008*pi/2)^2"


def unknown(case: Member) -> str | None:
    """Why this member is not tested: the first of its settings that nothing here can do."""
    config, words = case.golden.config, case.words
    process = config["processes"].get(words.get("process"), {"kind": None})
    net = config["nets"].get(words.get("net"), {"kind": "bdm_tanh"})["kind"]
    reasons = {
        f"process of kind {process['kind']}": process["kind"] not in {"bdm", "bdm_hoog"},
        f"alpha {process.get('alpha')}": process.get("alpha", ALPHA) != ALPHA,
        f"network of kind {net}": net not in {"bdm_tanh", "bdm_gauss"},
        f"grid of kind {words.get('grid', {}).get('kind')}": words.get("grid", {}).get("kind", "power") != "power",
        f"degree {words.get('degree')}": words.get("degree", 0) >= MAX_ORDER,
        "denoising step": words.get("denoise", False),
    }
    return next((reason for reason, true in reasons.items() if true), None)


def process_of(case: Member) -> Blurring:
    """The member's process on square images of its side; gDDIM's starts sampling where the member's grid does."""
    said = case.golden.config["processes"][case["process"]]
    damping, shape = (said["sigma_blur_max"], said["min_scale"]), (1, said["N"], said["N"])
    if said["kind"] == "bdm_hoog":
        return HoogeboomBlurring(*damping, said["logsnr_max"], said["logsnr_min"]).on(shape)
    start = case.words.get("grid", {}).get("t_start", said["T_s"])
    relative = math.tan(0.5 * math.pi * (start + 0.004) / 1.008)
    rho = relative * math.sqrt(said["alpha0"]) - math.sqrt(1.0 - said["alpha0"])
    return GDDIMBlurring(*damping, rho_max=rho).on(shape)


def grid_of(case: Member) -> Power:
    return Power(case.words.get("p", case["grid"].get("p")), t_end=case["grid"]["t_end"])


class Smooth(nn.Module):
    """(1 - 0.3 (1 - t)^2) x + 0.1 (1 - t)^2 cos(b t) tanh(a x) in pixels; it is told 999 t."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        t = per_image(time / 999.0, x)
        early = (1.0 - t) ** 2
        return (1.0 - 0.3 * early) * x + 0.1 * early * torch.cos(self.b * t) * torch.tanh(self.a * x)


def denoiser_of(case: Member) -> Denoiser:
    said, process = case.golden.config["nets"][case["net"]], process_of(case)
    if said["kind"] == "bdm_tanh":
        return NetworkDenoiser(Smooth(said["a"], said["b"]), Eps("999t"), process)
    mean, std = (case.golden.tensor(said[word]) for word in ("mean_key", "std_key"))
    return Spectral(process, mean, std)


def ours(images: Tensor) -> Tensor:
    """(..., H, W, C) as (..., C, H, W)."""
    return images.movedim(-1, -3)


def theirs(images: Tensor) -> Tensor:
    return images.movedim(-3, -1)


def pixels(spectrum: Tensor) -> Tensor:
    """Their frequencies as our states."""
    return DCT().backward(ours(spectrum))


def spectrum(state: Tensor) -> Tensor:
    return theirs(DCT().forward(state))


@pytest.mark.golden(FILE, "inputs", later=unknown)
def test_inputs_that_repeat_the_config(case):
    """Constants of a process, named as [sigma_blur_max,...] or in words, and the parameters of a network."""
    config = case.golden.config
    nets = [[x for x in net.values() if not isinstance(x, str)] for net in config["nets"].values()]
    for key, meaning in case["arrays"].items():
        listed = re.match(r"\[([\w,]+)\]", meaning)
        single = re.match(r"(image side of process|sigma_blur_max of) (\w+)$", meaning)
        if listed is not None:
            constants = config["processes"][case["process"]]
            assert case.golden.array(key).tolist() == [constants[name] for name in listed[1].split(",")], key
        elif single is not None and single[2] in config["processes"]:
            word = "N" if single[1].startswith("image side") else "sigma_blur_max"
            assert case.golden.array(key).tolist() == config["processes"][single[2]][word], key
        elif meaning == "net parameters" and not any(key in net.values() for net in config["nets"].values()):
            assert case.golden.array(key).tolist() in nets, key
        elif meaning == "(i,j) rows":
            lists = [member.words.get("freq_ij") for member in case.golden.members]
            assert case.golden.array(key).tolist() in lists, key


@pytest.mark.golden(FILE, "bdm_schedule", later=unknown)
def test_schedule(case):
    process, t, every = process_of(case), case.input("t"), case["psi_freq_step"]
    alpha = process.noise.signal(t).covariance().value
    case.check_each(
        alpha=alpha,
        alpha_inverse=process.time_of(alpha.sqrt()),
        std=process.factor(t).value,
        rho_inverse=process.time_of_rho(case.input("rho")),
        freq_scale=process.damping(t).values,
        mean_coef_row=process.signal(t).values[:, case["mean_coef_row"]],
        psi=process.transition(t[:-1], t[1:]).values[:, ::every, ::every],
    )


@pytest.mark.golden(FILE, "bdm_hoog", later=unknown)
def test_schedule_of_the_blurring_paper(case):
    process, t = process_of(case), case.input("t")
    table = process.signal(t).values[:, case["rows"]][:, :, case["cols"]]
    case.check_each(alpha=table, sigma=process.factor(t).value)


@pytest.mark.golden(FILE, "bdm_grid", later=unknown)
def test_grid(case):
    case.check("times", grid_of(case).times(process_of(case), case["n"]))


@pytest.mark.golden(FILE, "bdm_loss", later=unknown)
def test_loss(case):
    """The mean over pixels, and half of their sum."""
    net, t = denoiser_of(case), case.input("t")
    x0, noise = ours(case.input("x0")), ours(case.input("eps"))
    law = net.process.marginal(t)
    u = law.perturb(x0, noise)
    output = net.output(u, net.time_input(t))
    case.check_each(
        mean=theirs(law.signal.apply(x0)),
        xt=theirs(u),
        loss_mean=Denoising(Plain(), Uniform()).losses(net, x0, noise, t).mean(),
        loss_halfsum=0.5 * Denoising(Plain(), Uniform(), reduce="sum").losses(net, x0, noise, t).mean(),
        x0_from_net=theirs(net.form(law).data((u, output))),
    )


def sampled(case: Member, stepper: Stepper, z: Tensor | tuple = ()) -> Tensor:
    noise = FixedNoise(pixels(case.input("yT")), z)
    return Sampler("parity", stepper, grid_of(case)).sample(denoiser_of(case), noise, case["n"]).images


def steppers(case: Member) -> list[Stepper]:
    """gDDIM of the member's order; for the first one DDIM is the same."""
    return [GDDIM(case["degree"] + 1), *([DDIM()] if case["degree"] == 0 else [])]


@pytest.mark.golden(FILE, "bdm_gddim", later=unknown)
def test_deterministic_samples(case):
    for stepper in steppers(case):
        case.check("x", theirs(sampled(case, stepper)))


@pytest.mark.golden(FILE, "bdm_multistep", later=unknown)
def test_deterministic_samples_in_frequencies(case):
    for stepper in steppers(case):
        case.check("y", spectrum(sampled(case, stepper)))


@pytest.mark.golden(FILE, "bdm_ab", later=unknown)
def test_coefficients_of_the_noise_estimates(case):
    """C_ij at some frequencies, zero for unknown estimates; `coef` is the official quadrature of them."""
    process = process_of(case)
    times = grid_of(case).times(process, case["n"])
    plan = GDDIM(case["degree"] + 1).plan(process, times, "state")
    i, j = torch.tensor(case["freq_ij"]).T
    table = torch.stack([operator.values[:, i, j] for operator in plan.predictor], dim=1)
    case.check_each(coef=table, coef_ref=table)


@pytest.mark.golden(FILE, "bdm_gauss_exact", later=unknown)
def test_probability_flow_of_gaussian_data(case):
    """From the start of sampling to t0."""
    oracle, said = denoiser_of(case), case.golden.config["processes"][case["process"]]
    t, s = torch.tensor([oracle.process.t_prior, said["t0"]], dtype=torch.float64)
    case.check("y", spectrum(oracle.flow(pixels(case.input("yT")), t, s)))


def _other_form(case: Member) -> str | None:
    ancestral = case["form"] == "ancestral" and case["lambda"] == 1.0
    return unknown(case) or (None if case["form"] == "gddim" or ancestral else f"form {case['form']}")


@pytest.mark.golden(FILE, "bdm_sto", later=_other_form)
def test_stochastic_samples(case):
    """lambda 1 is ancestral sampling, lambda 0 is DDIM."""
    z, lam = pixels(case.input("z")), case["lambda"]
    if not case["noise_on_last_step"]:
        z = torch.cat([z[: case["n"] - 1], torch.zeros_like(z[:1])])
    same: dict[float, list[Stepper]] = {0.0: [DDIM()], 1.0: [Ancestral()]}
    for stepper in (GDDIM(1, lam), *same.get(lam, [])):
        case.check("y", spectrum(sampled(case, stepper, z)))
