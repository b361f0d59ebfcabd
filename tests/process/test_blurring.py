"""Blurring against its published formulas and the laws of linear processes; what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import read_layout
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Likelihood
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps, V
from diffexp.prediction.oracle.spec import OracleMixture
from diffexp.process.blurring import Blurring, GDDIMBlurring, HoogeboomBlurring
from diffexp.process.dct import DCT
from diffexp.process.diagonal import Diagonal
from diffexp.process.vp import VP
from diffexp.sampler.grid import Power
from diffexp.tasks.build import DataShape, build
from tests.process.spectral import SHAPE, START, T, close, values

SHAPES = [(3, 32, 32), (1, 7, 7), (2, 5, 8), (1, 1, 3)]
MADE = [GDDIMBlurring(), HoogeboomBlurring(), GDDIMBlurring(3.0, 0.1), HoogeboomBlurring(20.0, 0.001, 4.0, -12.0)]
PROCESSES = [process.on(shape) for process, shape in zip(MADE, SHAPES, strict=True)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=[f"{p.name}{i}" for i, p in enumerate(PROCESSES)])
CENTRAL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))  # of sixth order


@pytest.mark.parametrize("shape", SHAPES)
def test_marginals_are_the_published_formulas(shape):
    """gDDIM's code in extended precision, for square and rectangular images of even and odd side."""
    t = T.numpy().astype(np.longdouble)[:, None, None]
    i, j = np.meshgrid(*(np.arange(n, dtype=np.longdouble) for n in shape[1:]), indexing="ij")
    pi = 4 * np.arctan(np.longdouble(1))
    frequency = (pi * i / shape[1]) ** 2 + (pi * j / shape[2]) ** 2
    blur = 10 * np.sin(pi * t / 2) ** 2
    scale = np.longdouble(0.999) * np.exp(-frequency * blur**2 / 2) + np.longdouble(0.001)
    angle = (t + np.longdouble(0.004)) / np.longdouble(1.008) * pi / 2
    process = GDDIMBlurring().on(shape)
    close(process.signal(T).values, torch.from_numpy((np.cos(angle) * scale).astype(np.float64)), rtol=2e-13)
    close(process.factor(T).value, torch.from_numpy(np.sin(angle).astype(np.float64)).flatten(), rtol=2e-14)


def test_images_are_perturbed_in_pixels():
    process = GDDIMBlurring().on(SHAPE)
    t = T[[1, 3, 5]]
    x0, noise, dct = random.normal(1, "test/x0", range(3), SHAPE), START, DCT()
    scale = process.signal(t).values[:, None]
    wanted = dct.backward(scale * dct.forward(x0)) + process.factor(t).value.reshape(-1, 1, 1, 1) * noise
    law = process.marginal(t)
    close(law.perturb(x0, noise), wanted, atol=1e-14)
    close(law.cast(torch.float32, "cpu").perturb(x0.float(), noise.float()).double(), wanted, rtol=0, atol=3e-6)
    # x0 from the noise, and the noise from x0.
    close(Eps().form(law).data((law.perturb(x0, noise), noise)), x0, rtol=0, atol=1e-9)
    close(X0().form(law).noise((law.perturb(x0, noise), x0)), noise, rtol=0, atol=1e-10)


def test_times_at_which_sampling_starts():
    """alpha = alpha_0 / ((rho + sigma_0)^2 + alpha_0) of the released code, and its inverse cosine."""
    process = GDDIMBlurring()
    start = math.cos(0.004 / 1.008 * math.pi / 2) ** 2
    rho = np.array([0.0, 1e-3, 0.5, 80.0, 150.0])
    alpha = start / ((rho + math.sqrt(1 - start)) ** 2 + start)
    wanted = 2 / math.pi * 1.008 * np.arccos(np.sqrt(alpha)) - 0.004
    close(process.time_of_rho(torch.from_numpy(rho)), torch.from_numpy(wanted), rtol=0, atol=1e-13)
    assert process.t_prior == pytest.approx(0.9959797892563502, abs=1e-14)
    assert (process.t_max, HoogeboomBlurring().t_prior, VP().t_prior) == (1.0, 1.0, 1.0)
    late = GDDIMBlurring(rho_max=150.0)
    assert float(Power(t_end=1e-5).times(late, 4)[0]) == late.t_prior == pytest.approx(wanted[-1], abs=1e-12)
    with pytest.raises(ConfigError, match=r"grid.t_end=0.996: must lie in \[0, 0.99598\), the times of process blurr"):
        Power(t_end=0.996).times(process, 4)


@every_process
def test_transition_moves_the_signal(process):
    """Also over the whole time, where the signal falls by five orders of magnitude, and backward."""
    t, s, r = T[2:], T[1:-1], T[:-2]
    signal = values(process.signal(T), process)
    close(values(process.transition(t, s) @ process.signal(s), process), signal[2:])
    whole = values(process.transition(t, s) @ process.transition(s, r), process)
    close(whole, values(process.transition(t, r), process))
    close(values(process.transition(s, t) @ process.transition(t, s), process), torch.ones(1, dtype=torch.float64))
    close(values(process.transition(T[-1:], T[:1]), process), signal[-1:] / signal[:1])


@every_process
def test_drift_and_diffusion_are_the_rates_of_the_marginal(process):
    """F = (log a)' and d(sigma^2)/dt = 2 F sigma^2 + G^2; at the ends of time G is real and finite."""
    t = T[1:-1]
    h = 0.003 * torch.minimum(t, 1 - t)
    moved = [(w, process.marginal(t + k * h), process.marginal(t - k * h)) for k, w in CENTRAL]
    logs = sum(w * (a.signal.values.log() - b.signal.values.log()) for w, a, b in moved) / h[:, None, None]
    close(values(process.drift(t), process), logs, rtol=1e-8, atol=1e-9)
    rate = sum(w * (a.factor.value**2 - b.factor.value**2) for w, a, b in moved) / h
    variance = process.factor(t).covariance()
    stated = values(2.0 * (process.drift(t) @ variance) + process.diffusion(t).covariance(), process)
    close(stated, rate[:, None, None], rtol=1e-9, atol=1e-11)
    ends = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
    everywhere = process.diffusion(ends).values
    assert bool((everywhere > 0.0).all())
    assert bool(torch.isfinite(everywhere).all())


@every_process
def test_noise_between_two_times(process):
    """Sigma_t = Psi Sigma_s Psi^T + Q Q^T, and Bayes' rule, by plain differences that lose some digits."""
    t, s = T[1:], T[:-1]
    psi, low, high = values(process.transition(t, s), process), process.factor(s).value, process.factor(t).value
    low, high = low[:, None, None] ** 2, high[:, None, None] ** 2
    added = process.transition_factor(t, s).values ** 2
    close(added + psi**2 * low, high, rtol=1e-13)
    keep, fresh = process.posterior(t, s)
    close(values(keep, process), low * psi / high.sqrt())
    close(fresh.values**2, 1 / (1 / low + psi**2 / added), rtol=1e-12)
    close(values(keep, process) ** 2 + fresh.values**2, low, rtol=1e-12)
    general = super(Blurring, process).posterior_factor(t, s)
    close(values(general, process), fresh.values, rtol=1e-8)


@every_process
def test_noise_of_a_moment_is_the_diffusion(process):
    """Q(t, t - h)^2 = G^2 h to first order, where a difference of variances has no digits left."""
    t = T[1:]
    h = 1e-8 * torch.minimum(t, 1 - t)
    passed = t - (t - h)
    wanted = process.diffusion(t).values * passed.sqrt()[:, None, None]
    close(process.transition_factor(t, t - h).values, wanted, rtol=1e-6)
    close(process.posterior_factor(t, t - h).values, wanted, rtol=1e-6)
    same = process.transition_factor(t, t)
    assert same.is_zero()


def test_noise_levels_are_those_of_the_frequency_zero():
    process = GDDIMBlurring().on((1, 4, 4))
    ratio = process.signal(T).values[:, 0, 0] / process.factor(T).value
    close(process.log_snr(T), 2 * ratio.log(), rtol=0, atol=1e-12)
    close(process.time_of_log_snr(process.log_snr(T)), T, rtol=1e-11)
    close(process.time_of(process.signal(T).values[:, 0, 0]), T, rtol=0, atol=1e-12)
    close(Eps().time_input(process, T), 999.0 * T, rtol=1e-15)


def test_the_size_of_the_images():
    made = GDDIMBlurring()
    sized = made.on((3, 4, 6))
    assert sized.signal(T).values.shape == (7, 4, 6)
    assert isinstance(sized.on((1, 2, 2)).signal(T[0]), Diagonal)
    assert sized.on((1, 2, 2)).signal(T[0]).values.shape == (2, 2)
    with pytest.raises(ValueError, match=r"process blurring depends on the size of the images: use process.on"):
        made.signal(T)
    with pytest.raises(ValueError, match=r"images of 4x6 pixels met a state of shape \(3, 2, 5, 8\)"):
        sized.marginal(T[:3]).perturb(START, START)
    plain = VP()
    assert plain.on((3, 4, 6)) is plain


@pytest.mark.parametrize("make", [GDDIMBlurring, HoogeboomBlurring])
def test_a_blur_in_shares_of_the_picture(make):
    """On a quarter of the side the blur has a quarter of the pixels, and every frequency the same damping."""
    shared = make(sigma_blur_max=10.0, side=32)
    small, large = shared.on((1, 8, 8)), shared.on((1, 32, 32))
    exact = {"rtol": 0, "atol": 1e-15}
    torch.testing.assert_close(small.damping(T).values, make(2.5).on((1, 8, 8)).damping(T).values, **exact)
    torch.testing.assert_close(large.damping(T).values, make(10.0).on((1, 32, 32)).damping(T).values, **exact)
    torch.testing.assert_close(small.damping(T).values, large.damping(T).values[:, :8, :8], **exact)
    assert float((make(10.0).on((1, 8, 8)).damping(T).values - small.damping(T).values).abs().max()) > 0.1


def test_a_recipe_tells_it_the_size_of_its_images():
    """Digits have 8x8 pixels; a loaded model says its shape itself."""
    words = ["experiment=gddim_vp", "scale=quick", "process=blurring"]
    (job,) = compose_jobs([words], read_layout())
    assert build(job.config).process.damping(T).values.shape == (7, 8, 8)
    assert build(job.config, DataShape((1, 4, 4), 0)).process.damping(T).values.shape == (7, 4, 4)


REFUSED = [
    (lambda: GDDIMBlurring(-1.0), "process.sigma_blur_max=-1.0: a number of pixels >= 0 is needed"),
    (lambda: GDDIMBlurring(side=0), "process.side=0: the height of an image in pixels, or null"),
    (lambda: GDDIMBlurring(math.nan), "process.sigma_blur_max=nan: a number of pixels >= 0 is needed"),
    (lambda: HoogeboomBlurring(min_scale=0.0), "process.min_scale=0.0: must be > 0, .* and <= 1"),
    (lambda: GDDIMBlurring(min_scale=1.5), "process.min_scale=1.5: must be > 0, .* and <= 1"),
    (lambda: GDDIMBlurring(rho_max=0.0), "process.rho_max=0.0: must be > 0 and at most 160.4"),
    (
        lambda: GDDIMBlurring(rho_max=200.0),
        "process.rho_max=200.0: must be > 0 and at most 160.4.*, its value at t = 1",
    ),
    (lambda: HoogeboomBlurring(logsnr_max=-11.0), "process: needs logsnr_min < logsnr_max, got -10.0 and -11.0"),
    (
        lambda: Denoising(Likelihood(), Uniform()).check(Eps(), PROCESSES[0]),
        "process blurring has noise of several strengths: use objective=plain",
    ),
    (
        lambda: OracleMixture([1.0], [0.0], [0.1]).check(PROCESSES[2], (2, 5, 8)),
        "network.elementwise=true: pixels depend on each other on blurring: set it to false",
    ),
    (
        lambda: NetworkDenoiser(torch.nn.Identity(), V(), PROCESSES[0]),
        "unlike blurring: use eps",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
