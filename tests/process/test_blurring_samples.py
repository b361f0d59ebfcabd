"""Sampling on blurring: no blur is the cosine process, Gaussian data in closed form, precision and transforms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import NetworkDenoiser, Parts, Point
from diffexp.prediction.form import Form
from diffexp.prediction.head import Eps
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.base import Marginal
from diffexp.process.blurring import Blurring, GDDIMBlurring, HoogeboomBlurring
from diffexp.process.cosine import Cosine
from diffexp.process.dct import DCT
from diffexp.sampler.euler import EulerMaruyama
from diffexp.sampler.grid import Power
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise, KeyedNoise
from tests.process.spectral import SHAPE, START, Spectral, T, close, values


def samples(process, denoiser, stepper, n: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    sampler = Sampler("test", stepper, Power(t_end=1e-4))
    start = START.to(dtype)
    noise = FixedNoise(start, [random.normal(k, "test/step", range(3), SHAPE).to(dtype) for k in range(n)])
    return sampler.sample(denoiser(process), noise, sampler.evaluations(n)).images


STEPPERS = [DDIM(), DDIM(0.5), Ancestral(), Ancestral("large"), Heun(), EulerMaruyama()]


@pytest.mark.parametrize("stepper", STEPPERS, ids=[f"{type(s).__name__}{i}" for i, s in enumerate(STEPPERS)])
@pytest.mark.parametrize("damping", [(0.0, 0.001), (10.0, 1.0)], ids=["no_width", "no_depth"])
def test_without_blur_it_is_the_cosine_process(stepper, damping):
    """Samples in pixels and all coefficients: the transform drops out."""
    scalar, blurred = Cosine(10.0, -10.0), HoogeboomBlurring(*damping).on(SHAPE)

    def mixture(process) -> Mixture:
        return Mixture(process, [1.0, 2.0], [-0.6, 0.5], [0.15, 0.2], elementwise=False, shape=SHAPE)

    plain = samples(scalar, mixture, stepper)
    close(samples(blurred, mixture, stepper), plain, rtol=0, atol=1e-12 * float(plain.abs().max().clamp_min(1.0)))
    t, s = T[1:], T[:-1]
    for name in ("transition", "transition_factor", "posterior_factor"):
        found, wanted = (getattr(process, name)(t, s) for process in (blurred, scalar))
        close(values(found, blurred), wanted.value[:, None, None], rtol=1e-12)
    for name in ("signal", "factor", "drift", "diffusion"):
        found, wanted = (getattr(process, name)(t) for process in (blurred, scalar))
        close(values(found, blurred), wanted.value[:, None, None], rtol=1e-12)


def spectral(process) -> Spectral:
    """Data that are smooth images: standard deviations fall with the frequency."""
    rows, columns = torch.arange(5.0, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64)
    decay = 1.0 / (1.0 + rows[:, None] ** 2 + columns**2)
    return Spectral(process, 0.5 * decay * torch.cos(rows[:, None] + columns), 0.8 * decay.sqrt())


@pytest.mark.parametrize(("stepper", "order"), [(DDIM(), 1), (Heun(), 2)], ids=["ddim", "heun"])
@pytest.mark.parametrize("made", [GDDIMBlurring(), HoogeboomBlurring()], ids=lambda process: process.name)
def test_error_falls_with_the_order_on_gaussian_data(made, stepper, order):
    """Against the probability flow in closed form, from the prior's time to t_end."""
    process = made.on(SHAPE)
    ends = Power(t_end=1e-4).times(process, 1)
    exact = spectral(process).flow(START, *ends)
    errors = [float((samples(process, spectral, stepper, n) - exact).abs().max()) for n in (160, 320, 640)]
    assert [math.log2(coarse / fine) for coarse, fine in pairwise(errors)] == pytest.approx([order] * 2, abs=0.15)
    assert 1e-9 < errors[-1] < 1e-2


class Said(Spectral):
    """The exact noise alone, as a network with eps says it: the data follow through 1 / a."""

    def form(self, marginal: Marginal) -> Form:
        return Eps().form(marginal)

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        state, _, noise = super().parts(u, point, conditions)
        return state, noise


def test_states_in_float32_lose_no_more_than_without_blur():
    """1 / a is 1.5e5 at first, but a step holds a_s / a_t."""

    def error(process: Blurring) -> float:
        def said(process: Blurring) -> Said:
            law = spectral(process)
            return Said(process, DCT().forward(law.mean), law.spread.values.sqrt())

        exact, low = (samples(process, said, DDIM(), dtype=kind) for kind in (torch.float64, torch.float32))
        return float((low - exact).abs().max() / exact.abs().max())

    assert error(HoogeboomBlurring(20.0).on(SHAPE)) < 3.0 * error(HoogeboomBlurring(0.0).on(SHAPE)) < 6e-5


class Smooth(torch.nn.Module):
    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.tanh(u) + 0.1 * torch.cos(time / 999.0).reshape(-1, 1, 1, 1) * u


def test_a_step_transforms_once_and_back_once(monkeypatch):
    process, calls = GDDIMBlurring().on(SHAPE), []
    for name in ("forward", "backward"):
        plain = getattr(DCT, name)

        def counted(self, x, name=name, plain=plain):
            calls.append((name, tuple(x.shape)))
            return plain(self, x)

        monkeypatch.setattr(DCT, name, counted)
    sampler = Sampler("test", DDIM(), Power(t_end=1e-4))
    noise = KeyedNoise(0, range(3), SHAPE, torch.float64)
    sampler.sample(NetworkDenoiser(Smooth(), Eps(), process), noise, 4)
    assert calls == [("forward", (2, 3, *SHAPE)), ("backward", (3, *SHAPE))] * 4


def test_whole_images_of_a_mixture_are_the_spectral_law():
    """White data around a flat image: the mixture of one component, by two routes."""
    process = GDDIMBlurring().on(SHAPE)
    mixture = Mixture(process, [1.0], [0.4], [0.3], elementwise=False, shape=SHAPE)
    flat = DCT().forward(torch.full(SHAPE[1:], 0.4, dtype=torch.float64))
    law = Spectral(process, flat, torch.full(SHAPE[1:], 0.3, dtype=torch.float64))
    points = [oracle.prepare(T, torch.float64, "cpu") for oracle in (mixture, law)]
    for k in range(len(T)):
        ours, theirs = mixture(START, points[0][k]), law(START, points[1][k])
        close(ours.data, theirs.data, rtol=1e-11, atol=1e-12)
        close(ours.noise, theirs.noise, rtol=1e-11, atol=1e-12)
