"""The adaptive solver against scipy's, against closed forms, and image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.blurring import GDDIMBlurring
from diffexp.process.cld import CLD
from diffexp.process.vp import VP
from diffexp.sampler.adaptive import Adaptive, DormandPrince
from diffexp.sampler.grid import Ends, Power
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise, KeyedNoise
from diffexp.sampler.rk4 import RK4

END = 1e-3
SHAPE = (1, 2, 2)


def oracle(process, stds=(0.2, 0.3)):
    return Mixture(process, [0.3, 0.7], [-0.6, 0.5], stds)


def noise(process, images, dtype=torch.float64):
    return KeyedNoise(0, images, process.state_shape(SHAPE), dtype)


def adaptive(tolerance, last="state", **options):
    return Adaptive("rk45", DormandPrince(tolerance, tolerance), Ends(END, last), **options)


def scipy_flow(process, start, tolerance):
    """(image at the end, evaluations) of one start, with scipy's RK45 on the flow as the papers write it."""
    denoiser = oracle(process)

    def slope(t, values):
        u = torch.from_numpy(values.copy()).reshape(1, *process.state_shape(SHAPE))
        (point,) = denoiser.prepare(torch.tensor([t], dtype=torch.float64), u.dtype, "cpu")
        law = process.marginal(torch.tensor(t, dtype=torch.float64))
        score = -1.0 * law.factor.transpose().inverse().apply(denoiser(u, point).noise)
        spread = process.diffusion(law.t)
        return (process.drift(law.t).apply(u) - 0.5 * spread.covariance().apply(score)).flatten().numpy()

    found = solve_ivp(slope, (process.t_max, END), start.flatten().numpy(), "RK45", rtol=tolerance, atol=tolerance)
    return process.readout(torch.from_numpy(found.y[:, -1]).reshape(1, *process.state_shape(SHAPE))), found.nfev


@pytest.mark.parametrize("process", [VP(), CLD()], ids=lambda process: process.name)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_images_and_evaluations_are_scipys(process, tolerance):
    source = noise(process, range(3))
    starts = process.prior_factor().apply(source.initial())
    expected = [scipy_flow(process, start, tolerance) for start in starts]
    for k, (image, evaluations) in enumerate(expected):
        result = adaptive(tolerance).sample(oracle(process), noise(process, [k]))
        assert result.nfe == evaluations
        torch.testing.assert_close(result.images, image, rtol=0, atol=1e-9)
    together = adaptive(tolerance).sample(oracle(process), source)
    assert together.nfe == np.mean([evaluations for _, evaluations in expected])
    torch.testing.assert_close(together.images, torch.cat([image for image, _ in expected]), rtol=0, atol=1e-9)


def test_the_error_follows_the_tolerance():
    """Gaussian data keep their quantiles: u_end = S_end / S_start u_start, S^2 = s^2 alpha^2 + sigma^2."""
    process, tolerances = VP(), (1e-3, 1e-5, 1e-7, 1e-9)
    denoiser = Mixture(process, [1.0], [0.0], [0.4])
    start = process.prior_factor().apply(noise(process, range(4)).initial())
    laws = [process.marginal(t) for t in (process.t_max, END)]
    widths = [(0.4**2 * law.signal.covariance() + law.factor.covariance()).factor().apply(start) for law in laws]
    found = [adaptive(tolerance).sample(denoiser, noise(process, range(4))) for tolerance in tolerances]
    errors = [float((result.images - start * widths[1] / widths[0]).abs().max()) for result in found]
    assert all(error <= 50 * tolerance for error, tolerance in zip(errors, tolerances, strict=True))
    assert errors == sorted(errors, reverse=True)
    assert [result.nfe for result in found] == sorted(result.nfe for result in found)


def test_it_runs_on_frequencies_and_agrees_with_fixed_steps():
    process = GDDIMBlurring().on(SHAPE)
    denoiser = Mixture(process, [0.5, 0.5], [-0.5, 0.5], [0.2, 0.2], elementwise=False, shape=SHAPE)
    found = adaptive(1e-8).sample(denoiser, noise(process, range(2))).images
    fixed = Sampler("rk4", RK4(), Power(2.0, END)).sample(denoiser, noise(process, range(2)), 4 * 400).images
    torch.testing.assert_close(found, fixed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"clip": True}, {"guidance": 1.5}, {"last": "denoise_em"}], ids=str)
def test_an_image_does_not_depend_on_its_batch(options):
    process = VP()
    denoiser = oracle(process)
    denoiser.gives = denoiser.gives | {"unconditional"}
    labels = Conditions(labels=torch.zeros(5, dtype=torch.int64))
    sampler = adaptive(1e-5, **options)
    together = sampler.sample(denoiser, noise(process, range(5), torch.float32), conditions=labels)
    singles = [(noise(process, [k], torch.float32), labels[k : k + 1]) for k in range(5)]
    alone = [sampler.sample(denoiser, source, None, label) for source, label in singles]
    torch.testing.assert_close(together.images, torch.cat([one.images for one in alone]), rtol=0, atol=1e-6)
    assert together.nfe == np.mean([one.nfe for one in alone])
    assert options or len({one.nfe for one in alone}) > 1


def test_evaluations_are_those_of_the_denoiser():
    process = VP()
    plain, guided, ending = oracle(process), oracle(process), oracle(process)
    guided.gives = guided.gives | {"unconditional"}
    nothing = Conditions(labels=torch.zeros(2, dtype=torch.int64))
    first = adaptive(1e-4).sample(plain, noise(process, range(2)))
    assert first.nfe * 2 == plain.evaluations
    # scale 1 is the conditional model itself, and this oracle's estimates do not depend on labels
    assert adaptive(1e-4, guidance=1.0).sample(guided, noise(process, range(2)), None, nothing).nfe == 2 * first.nfe
    assert adaptive(1e-4, last="denoise_em").sample(ending, noise(process, range(2))).nfe == first.nfe + 1


def test_the_denoising_step_is_that_of_fixed_grids():
    process = VP()
    flow = adaptive(1e-10).sample(oracle(process), noise(process, range(2))).images
    ended = adaptive(1e-10, last="denoise_em").sample(oracle(process), noise(process, range(2))).images
    law = process.marginal(END)
    (point,) = oracle(process).prepare(torch.tensor([END], dtype=torch.float64), flow.dtype, "cpu")
    score = -1.0 * law.factor.transpose().inverse().apply(oracle(process)(flow, point).noise)
    t = torch.tensor(END, dtype=torch.float64)
    slope = process.drift(t).apply(flow) - process.diffusion(t).covariance().apply(score)
    torch.testing.assert_close(ended, flow - END * slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adaptive(0.0), "sampler.stepper.rtol=0.0: a tolerance must be > 0"),
        (lambda: DormandPrince(1e-3, -1.0), "sampler.stepper.atol=-1.0: a tolerance must be > 0"),
        (lambda: adaptive(1e-3, last="data"), "grid.last=data: an adaptive solver ends with the state or with"),
        (lambda: adaptive(1e-3).steps(50), "nfe=50: sampler rk45 takes no budget, its evaluations are counted"),
        (lambda: adaptive(1e-3).times(VP(), 50), "nfe=50: sampler rk45 takes no budget"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_flow_that_cannot_be_solved_is_an_error():
    process = VP()
    sampler = Adaptive("rk45", DormandPrince(1e-8, 1e-8, max_evaluations=50), Ends(END))
    with pytest.raises(SamplingError, match="an image needs more than sampler"):
        sampler.sample(oracle(process), noise(process, range(2)))
    bad = FixedNoise(torch.full((1, *SHAPE), torch.nan, dtype=torch.float64), torch.zeros(0))
    with pytest.raises(SamplingError, match="the flow is not finite"):
        adaptive(1e-4).sample(oracle(process), bad)
