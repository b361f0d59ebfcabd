"""Decoupled diffusion against the DDM and ADM arrays: marginals, conversions, steps, samplers, preconditioning.

Losses, averages and learning rates are in `test_ddm_losses`, networks in `test_ddm_unet`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.two_head import SingleHead, TwoHead
from diffexp.process.attenuation import Constant
from diffexp.process.decoupled import Decoupled
from diffexp.sampler.noise import FixedNoise
from tests.parity.decoupled import (
    FILE,
    PLACES,
    Fixed,
    Raw,
    Told,
    bounded,
    equal,
    evaluated,
    finished,
    grid_of,
    network_of,
    process_of,
    sampled,
    sampler_of,
    unknown,
)
from tests.parity.golden import Member
from tests.sampler.heads import Given

precise = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def heads_of(case: Member, dtype: torch.dtype) -> list[Tensor]:
    """The predicted parameters, in the file's order, and the predicted noise."""
    order = case.golden.config["processes"][case["process"]]["param_order"]
    return [case.input(name, dtype) for name in (*order, "n")]


def said_too(case: Member, **words: object) -> Member:
    """The member with further words, which its family does not have."""
    return replace(case, words={**case.words, **words})


@precise
@pytest.mark.golden(FILE, "marginals", later=unknown)
def test_marginal(case, dtype):
    process, t = process_of(case), case.input("t")
    x0, noise = case.input("x0", dtype), case.input("noise", dtype)
    drawn = case.input("K", dtype) if process.drawn else None
    xt = process.marginal(t).cast(dtype, "cpu").perturb(x0, noise, drawn)
    attenuation = process.attenuation
    phi = attenuation.parameters(x0, drawn)
    case.check_each(xt=xt, C=phi.chunk(attenuation.n_params, dim=1)[attenuation.names.index("C")])
    case.check("xt", x0 + attenuation.H(t, phi) + process.factor(t).cast(dtype, "cpu").apply(noise))


@precise
@pytest.mark.golden(FILE, "x0_from_xt", later=unknown)
def test_data_of_the_heads(case, dtype):
    process, t, xt = bounded(case), case.input("t"), case.input("xt", dtype)
    said = heads_of(case, dtype)
    found = []
    for k in range(len(t)):  # a sampler that ends with the data of one evaluation
        network = Fixed([part[k : k + 1].double() for part in said])
        grid = Given(torch.stack([t[k], torch.zeros_like(t[k])]), "data")
        source = NetworkDenoiser(network, Raw(), process)
        scale = process.sigma(t[k]).to(dtype)
        result = sampler_of(said_too(case, reconcile=False), grid).sample(source, FixedNoise(xt[k : k + 1] / scale), 1)
        found.append(result.images)
    case.check("x0", torch.cat(found))


@precise
@pytest.mark.golden(FILE, "posterior_steps", later=unknown)
def test_posterior_step(case, dtype):
    process, t, s = bounded(case), case.input("t"), case.input("s")
    xt, fresh, said = case.input("xt", dtype), case.input("e", dtype), heads_of(case, dtype)
    found = []
    for k in range(len(t)):
        source = NetworkDenoiser(Fixed([part[k : k + 1].double() for part in said]), Raw(), process)
        grid, scale = Given(torch.stack([t[k], t[k] - s[k]])), process.sigma(t[k]).to(dtype)
        noise = FixedNoise(xt[k : k + 1] / scale, [fresh[k : k + 1]])
        found.append(sampler_of(case, grid).sample(source, noise, 1).images)
    case.check("x", torch.cat(found))


@precise
@pytest.mark.golden(FILE, "samplers", later=unknown)
def test_sampler(case, dtype):
    network = network_of(case)
    images, calls = sampled(case, network, dtype, case["N"])
    assert calls == case["nfe"]
    case.check("out", images)
    case.check("x", torch.stack(network.states))
    case.check("t", torch.cat(network.times))


def _latents(case: Member) -> str | None:
    return unknown(case) or ("decoder " + case["decode"] if case["decode"] != "decode" else None)


@precise
@pytest.mark.golden(FILE, "latent_samples", later=_latents)
def test_latent_sample(case, dtype):
    """The sampler in a latent space; decoder and mask are the test's, for the package has no latents yet."""
    cond = case.input("cond", dtype) if "cond" in case.inputs else None
    more = 0.0 if cond is None else case["cond_gain"] * cond.double()
    z, calls = sampled(case, network_of(case, more), dtype, case["N"])
    assert calls == case["nfe"]
    z = z / case["scale_factor"] if case["final_map"] == "divide_scale_factor" else z / (1.0 - z.abs())
    said = case.golden.config["stand_ins"]["decode"]
    image = (0.5 * (evaluated(said["formula"], z=z, **said["params"]) + 1.0)).clamp(0.0, 1.0)
    if case["mask_composite"]:
        mask = case.input("mask")
        image = mask * 0.5 * (cond + 1.0) + (1.0 - mask) * image
    case.check("image", image.to(dtype))


@precise
@pytest.mark.golden(FILE, "convergence", later=unknown)
def test_convergence(case, dtype):
    start, process = case.input("x1", dtype), process_of(case)
    mu, sd = case.input("mu_sd").tolist()
    outs, errors = [], []
    for n in case.input("N").tolist():
        grid, steps = grid_of(case["grid"], int(n))
        sampler = sampler_of(case, grid)
        source = NetworkDenoiser(network_of(case), Raw(), process)
        outs.append(finished(case, sampler.sample(source, FixedNoise(start), steps).images))
        errors.append((outs[-1] - (mu + sd * start)).abs().max())
    case.check_each(out=torch.stack(outs), err=torch.stack(errors))
    slopes = [math.log2(float(a / b)) for a, b in pairwise(errors)]
    if dtype == torch.float64:
        assert slopes[-1] == pytest.approx(1.0, abs=0.2)  # first order; slower where sigma is a square root


HEADS = [("v1", "sqrt"), ("optimal", "sqrt"), ("optimal", "linear")]


def head_of(case: Member) -> tuple[TwoHead | SingleHead, Decoupled] | None:
    """Our head with these coefficients, and its process; None where there is none."""
    kind = SingleHead if case["noise"]["decoder"] == "single" else TwoHead
    for how, noise in HEADS:
        process = Decoupled(Constant(), noise)
        head, law = kind(how).on(process), process.marginal(PLACES)
        own, said = head.coefficients(law), [case["image"], case["noise"]][: head.outputs]
        wanted = [evaluated(case["c_in"], t=PLACES)]
        wanted += [evaluated(words[part], t=PLACES) for words in said for part in ("c_skip", "c_out")]
        found = [own.scale, *(value for pair in own.heads[: head.outputs] for value in pair)]
        if equal(found, wanted) and _same_noise(case, process):
            return head, process
    return None


def _same_noise(case: Member, process: Decoupled) -> bool:
    """Whether the noise of a single head is (x - A x^) / sigma of this process."""
    if "formula" not in case["noise"]:
        return True
    x, c = PLACES.flip(0), 0.3 - PLACES
    own = (x - (PLACES - 1.0) * c) / process.sigma(PLACES)
    return equal([own], [evaluated(case["noise"]["formula"], x=x, t=PLACES, C=c)])


def _other_head(case: Member) -> str | None:
    return None if head_of(case) else "coefficients that are none of ours"


class Backbone(Told):
    """The file's backbone: F1, and F2 with two decoders, of z and c."""

    def __init__(self, words: dict, outputs: int) -> None:
        super().__init__()
        self.words, self.names = words, ("F1", "F2")[:outputs]

    def heads(self, u: Tensor, t: Tensor) -> list[Tensor]:
        return [evaluated(self.words["formula"][name], z=u, c=t, **self.words["params"]) for name in self.names]


@precise
@pytest.mark.golden(FILE, "preconditioning", later=_other_head)
def test_preconditioning(case, dtype):
    head, process = head_of(case)
    x, t = case.input("x", dtype), case.input("t")
    network = Backbone(case.golden.config["stand_ins"]["backbone"], head.outputs)
    source = NetworkDenoiser(network, head, process)
    scale = source.input_scale(t).cast(dtype, "cpu")
    output = source.output(x, source.time_input(t).to(dtype), scale=scale)
    image, noise = head.heads(process.marginal(t).cast(dtype, "cpu"), output, x)
    case.check_each(netin=network.states[0], cnoise=network.times[0], C=image, n=noise)
