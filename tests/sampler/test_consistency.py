"""The multistep consistency sampler, noise between two seeds, and noise read from images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.bridge import DDBM
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.consistency import Consistency as Function
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import V
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.bridge_schedule import BridgeVP
from diffexp.process.vp import VP
from diffexp.sampler.consistency import Consistency
from diffexp.sampler.dbim import DBIM
from diffexp.sampler.encode import encode
from diffexp.sampler.grid import Power, Uniform
from diffexp.sampler.grid_bridge import Leaving
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import BetweenNoise, FixedNoise, KeyedNoise, slerp
from tests.distillation.standin import Small, given

BRIDGE = BridgeVP()


def noise(seed: int, n: int = 4, dtype: torch.dtype = torch.float64) -> KeyedNoise:
    return KeyedNoise(seed, range(n), (1, 4, 4), dtype)


def function_on_a_bridge() -> NetworkDenoiser:
    return NetworkDenoiser(Small(2, 1).double().requires_grad_(False), Function(DDBM()), BRIDGE)


def mixture_on_a_bridge() -> Mixture:
    return Mixture(BRIDGE, [0.4, 0.6], [-0.5, 0.6], [0.25, 0.15], slopes=[0.3, -0.2])


def jump(function: NetworkDenoiser, u: Tensor, t: float, conditions: Conditions) -> Tensor:
    (point,) = function.prepare(torch.tensor([t], dtype=torch.float64), u.dtype, "cpu")
    return function(u, point, conditions).jump


def test_jumps_and_noise_in_turn():
    """Written out for three evaluations, on times of one's own; the end point comes first, fresh noise each time."""
    function, conditions, source = function_on_a_bridge(), given(), noise(0)
    sampler = Sampler("consistency", Consistency(), Explicit([1.0, 0.9, 0.3], t_end=1e-4))
    found = sampler.sample(function, source, 3, conditions).images
    assert function.evaluations == 3 * 4
    x = jump(function, conditions.endpoint, 1.0, conditions)
    for k, t in enumerate((0.9, 0.3)):
        law = BRIDGE.marginal(torch.tensor(t, dtype=torch.float64))
        x = jump(function, law.perturb(x, source.step(k), conditions.endpoint), t, conditions)
    torch.testing.assert_close(found, x, rtol=1e-13, atol=1e-14)


def test_default_times_are_uniform_behind_the_end_point():
    sampler = Sampler("consistency", Consistency(), Leaving())
    assert sampler.times(BRIDGE, 2).tolist() == [1.0, 0.999, 1e-4]
    wanted = torch.linspace(0.999, 1e-4, 4, dtype=torch.float64)
    torch.testing.assert_close(sampler.times(BRIDGE, 4)[1:], wanted, rtol=1e-15, atol=0)
    assert [sampler.steps(nfe) for nfe in (2, 3, 4)] == [2, 3, 4]


def test_on_processes_without_an_end_point_it_starts_from_noise():
    process, source = VP(), noise(1)
    function = NetworkDenoiser(Small(1, 1).double().requires_grad_(False), Function(V(), t_min=1e-3), process)
    sampler = Sampler("consistency", Consistency(), Uniform(t_end=1e-3))
    x = jump(function, source.initial(), 1.0, NO_CONDITIONS)
    once = sampler.sample(function, source, 1).images
    torch.testing.assert_close(once, x, rtol=1e-13, atol=0)
    middle = float(sampler.times(process, 2)[1])
    law = process.marginal(torch.tensor(middle, dtype=torch.float64))
    x = jump(function, law.perturb(x, source.step(0)), middle, NO_CONDITIONS)
    torch.testing.assert_close(sampler.sample(function, source, 2).images, x, rtol=1e-13, atol=1e-14)


def test_masks_keep_what_is_known():
    conditions = given(mask=True)
    sampler = Sampler("consistency", Consistency(), Leaving(), clip=True, mask=True)
    images = sampler.sample(function_on_a_bridge(), noise(0), 3, conditions).images
    known = conditions.mask.expand_as(images) == 0.0
    assert torch.equal(images[known], conditions.endpoint[known])
    assert not torch.equal(images[~known], conditions.endpoint[~known])
    assert float(images[~known].abs().max()) <= 1.0


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (lambda: Sampler("dbim", DBIM(), Leaving()).check(frozenset({"jump"})), "dbim needs data"),
        (lambda: Sampler("ddim", DDIM(), Uniform()).check(frozenset({"jump"})), "ddim needs data, noise"),
        (lambda: Sampler("consistency", Consistency(), Leaving()).check(DDBM.gives), "consistency needs jump"),
        (lambda: Sampler("consistency", Consistency(), Explicit([0.9, 0.5])).times(BRIDGE, 2), "put 1 before"),
        (lambda: encode(function_on_a_bridge(), given().endpoint, Leaving(), 4, given()), "encoding needs the data"),
        (lambda: encode(Mixture(VP(), [1.0], [0.0], [1.0]), noise(0).initial(), Uniform(), 4), "grid.t_end=0"),
    ],
)
def test_refused(refused, named):
    with pytest.raises(ConfigError, match=named):
        refused()


def test_slerp_goes_along_the_circle():
    """Its angle to the first noise grows evenly, lengths of equal noises stay, and both ends are exact."""
    a, b = (source.initial() for source in (noise(0), noise(1)))
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    unit = [(x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True)).reshape(x.shape) for x in (a, b)]
    whole = (unit[0] * unit[1]).flatten(1).sum(1).acos()
    for share in (0.1, 0.5, 0.8):
        between = slerp(*unit, share)
        torch.testing.assert_close(between.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close((unit[0] * between).flatten(1).sum(1).acos(), share * whole)
    assert torch.equal(slerp(a, a, 0.3), 0.7 * a + 0.3 * a)
    near = a + 1e-9 * b
    torch.testing.assert_close(slerp(a, near, 0.5), 0.5 * (a + near), rtol=1e-14, atol=1e-14)
    single = slerp(a.float(), b.float(), 0.5)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), slerp(a, b, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", ["consistency", "dbim", "ddim"])
def test_the_ends_of_an_interpolation_are_the_plain_samples(which):
    conditions = given() if which != "ddim" else NO_CONDITIONS
    denoiser = {
        "consistency": function_on_a_bridge,
        "dbim": mixture_on_a_bridge,
        "ddim": lambda: Mixture(VP(), [0.4, 0.6], [-0.5, 0.6], [0.25, 0.15]),
    }[which]()
    stepper = {"consistency": Consistency(), "dbim": DBIM(eta=0.5), "ddim": DDIM()}[which]
    sampler = Sampler(which, stepper, Uniform(t_end=1e-3) if which == "ddim" else Leaving())
    ends = [sampler.sample(denoiser, noise(seed), 4, conditions).images for seed in (0, 1)]
    for share, end in zip((0.0, 1.0), ends, strict=True):
        assert torch.equal(sampler.sample(denoiser, BetweenNoise(noise(0), noise(1), share), 4, conditions).images, end)
    middle = sampler.sample(denoiser, BetweenNoise(noise(0), noise(1), 0.5), 4, conditions).images
    assert not any(torch.equal(middle, end) for end in ends)


def test_the_middle_of_an_interpolation_is_likelier_than_the_mean_of_pixels():
    """Data of 16 pixels at one of two far places: halfway in noise one is at one of them, halfway in pixels at none."""
    centre, std = 1.0, 0.1
    denoiser = Mixture(BRIDGE, [0.5, 0.5], [-centre, centre], [std, std], elementwise=False, shape=(1, 4, 4))
    conditions = Conditions(endpoint=torch.zeros(64, 1, 4, 4, dtype=torch.float64))
    sampler = Sampler("dbim", DBIM(), Leaving())

    def drawn(share: float) -> Tensor:
        return sampler.sample(denoiser, BetweenNoise(noise(0, 64), noise(1, 64), share), 40, conditions).images

    def log_density(x: Tensor) -> Tensor:
        squares = torch.stack([(x - side * centre).square().flatten(1).sum(1) for side in (-1.0, 1.0)])
        size = 16 * math.log(std * math.sqrt(2.0 * math.pi))
        return torch.logsumexp(-0.5 * squares / std**2, dim=0) - math.log(2.0) - size

    first, middle, last = drawn(0.0), drawn(0.5), drawn(1.0)
    apart = (first.mean((1, 2, 3)) * last.mean((1, 2, 3))) < 0.0
    assert int(apart.sum()) > 10
    gain = log_density(middle) - log_density(0.5 * (first + last))
    assert float(gain[apart].median()) > 100.0
    assert float(gain.mean()) > 0.0


def coded(case: str, n: int) -> tuple[float, float]:
    """Errors of a round trip in n steps: of the noise read from an image, and of the image made of that noise."""
    source = noise(0)
    if case == "bridge":
        denoiser, conditions, grid, stepper = mixture_on_a_bridge(), given(), Leaving(), DBIM()
    else:
        denoiser = Mixture(VP(), [0.4, 0.6], [-0.5, 0.6], [0.25, 0.15])
        conditions, grid, stepper = NO_CONDITIONS, Power(2.0, t_end=1e-3), DDIM()
    images = Sampler("", stepper, grid).sample(denoiser, source, n, conditions).images
    before = denoiser.evaluations
    z = encode(denoiser, images, grid, n, conditions)
    assert denoiser.evaluations - before == n * len(z)
    again = Sampler("", stepper, grid).sample(denoiser, FixedNoise(z, [z] * n), n, conditions).images
    first = source.step(0) if case == "bridge" else source.initial()
    return float((z - first).abs().max()), float((again - images).abs().max())


@pytest.mark.parametrize("case", ["bridge", "vp"])
def test_encoding_is_undone_by_sampling(case):
    """The better the more steps, with the first order of both."""
    noises, images = zip(*(coded(case, n) for n in (50, 100, 200)), strict=True)
    for errors in (noises, images):
        orders = torch.tensor(errors).log2().diff().neg()
        assert float(orders.min()) > 0.75
        assert float(orders.max()) < 1.25
    assert images[-1] < 0.02


def test_the_noise_of_an_image_is_its_own():
    """Whatever the batch: the strips of an interpolation can be cut anywhere."""
    whole = BetweenNoise(noise(0), noise(1), 0.25)
    part = BetweenNoise(KeyedNoise(0, [2], (1, 4, 4)), KeyedNoise(1, [2], (1, 4, 4)), 0.25)
    torch.testing.assert_close(part.step(3)[0].double(), whole.step(3)[2], rtol=0, atol=1e-6)
    assert random.normal(0, "sample/step", [2], (1, 4, 4), 3).shape == (1, 1, 4, 4)
