"""Oracles on bridges: the law of the data given the end point, and the end point itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.finite import Finite
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.prediction.oracle.spec import OracleDataset, OracleMixture
from diffexp.process.bridge_i2sb import BridgeI2SB
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.process.vp import VP

SHAPE = (2, 3, 3)
U, Y, IMAGES = (random.normal(seed, "test/oracle", range(4), SHAPE) for seed in range(3))
WEIGHTS, MEANS, SLOPES, STDS = [0.3, 0.7], [-0.6, 0.5], [0.4, -0.2], [0.15, 0.3]
BRIDGES = [BridgeVP(), BridgeVE(3.0), Brownian(0.5), BridgeI2SB()]
every_bridge = pytest.mark.parametrize("process", BRIDGES, ids=lambda process: process.name)


def _f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@every_bridge
def test_a_gaussian_given_the_end_point(process):
    """D = (m c^2 + v b (x - a y)) / (c^2 + v b^2), m = 0.2 + 0.7 y."""
    oracle = Mixture(process, [1.0], [0.2], [0.5], slopes=[0.7])
    t = process.t_max * _f64(0.9, 0.5, 0.01)
    for k, point in enumerate(oracle.prepare(t, torch.float64, "cpu")):
        a, b, c = (float(value[k]) for value in process.abc(t))
        mean = 0.2 + 0.7 * Y
        wanted = (mean * c**2 + 0.25 * b * (U - a * Y)) / (c**2 + 0.25 * b**2)
        found = oracle(U, point, Conditions(endpoint=Y))
        torch.testing.assert_close(found.data, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            process.marginal(t)[k].perturb(found.data, found.noise, Y), U, rtol=1e-11, atol=1e-11
        )


@every_bridge
def test_the_noise_is_the_score_of_the_state_given_the_end_point(process):
    oracle = Mixture(process, WEIGHTS, MEANS, STDS, slopes=SLOPES)
    t = process.t_max * _f64(0.99, 0.4, 0.02)
    weight, mean, slope, std = (_f64(*numbers) for numbers in (WEIGHTS, MEANS, SLOPES, STDS))
    for k, point in enumerate(oracle.prepare(t, torch.float64, "cpu")):
        a, b, c = (value[k] for value in process.abc(t))
        state = U.clone().requires_grad_()
        centre = a * Y[..., None] + b * (mean + slope * Y[..., None])
        law = torch.distributions.Normal(centre, (b**2 * std**2 + c**2).sqrt())
        density = torch.logsumexp(weight.log() + law.log_prob(state[..., None]), -1).sum()
        (score,) = torch.autograd.grad(density, state)
        found = oracle(U, point, Conditions(endpoint=Y)).noise
        torch.testing.assert_close(found, -c * score, rtol=1e-10, atol=1e-11)


@every_bridge
def test_at_the_end_point_the_answer_is_the_mean_given_y(process):
    """And close to it almost the same: lambda falls to minus infinity."""
    oracle = Mixture(process, WEIGHTS, MEANS, STDS, slopes=SLOPES)
    wanted = sum(w * (m + q * Y) for w, m, q in zip(WEIGHTS, MEANS, SLOPES, strict=True))
    at, near = oracle.prepare(process.t_max * _f64(1.0, 1.0 - 1e-10), torch.float64, "cpu")
    given = Conditions(endpoint=Y)
    torch.testing.assert_close(oracle(Y, at, given).data, wanted, rtol=1e-14, atol=1e-14)
    assert torch.equal(oracle(Y, at, given).noise, torch.zeros_like(Y))
    law = process.marginal(process.t_max * _f64(1.0 - 1e-10))[0]
    beside = law.perturb(torch.zeros_like(Y), U, Y)
    torch.testing.assert_close(oracle(beside, near, given).data, wanted, rtol=0, atol=2e-3)


@every_bridge
def test_a_finite_data_set_is_a_mixture_without_width(process):
    t, given = process.t_max * _f64(1.0, 0.9, 0.3), Conditions(endpoint=Y)
    finite = Finite(process, IMAGES)
    whole = Mixture(process, [1.0] * 4, IMAGES, [0.0] * 4, elementwise=False)
    points = zip(*(oracle.prepare(t, torch.float64, "cpu") for oracle in (finite, whole)), strict=True)
    for k, (one, other) in enumerate(points):
        state = Y if k == 0 else U
        found, wanted = finite(state, one, given), whole(state, other, given)
        torch.testing.assert_close(found.data, wanted.data, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.noise, wanted.noise, rtol=1e-8, atol=1e-9)
        if k == 0:
            torch.testing.assert_close(found.data, IMAGES.mean(0).expand_as(Y), rtol=1e-13, atol=1e-14)


def test_the_end_point_tells_images_apart():
    """r_i also has the factor exp(-|y - y_i|^2 / (2 h^2)): alone at the end point, beside the state's own elsewhere."""
    process, h = BridgeVP(), 1.5
    ends = random.normal(9, "test/ends", range(4), SHAPE)
    oracle = Finite(process, IMAGES, endpoints=ends, endpoint_std=h)
    t, given = _f64(1.0, 0.6), Conditions(endpoint=Y)
    near = -0.5 * (Y[:, None] - ends).flatten(2).square().sum(2) / h**2
    for k, point in enumerate(oracle.prepare(t, torch.float64, "cpu")):
        a, b, c = (value[k] for value in process.abc(t))
        own = 0.0 if k == 0 else -0.5 * ((U - a * Y)[:, None] - b * IMAGES).flatten(2).square().sum(2) / c**2
        wanted = torch.einsum("bi,i...->b...", torch.softmax(near + own, 1), IMAGES)
        torch.testing.assert_close(oracle(Y if k == 0 else U, point, given).data, wanted, rtol=1e-9, atol=1e-10)
    with pytest.raises(ConfigError, match=r"network\.endpoint_std=0.0: must be > 0"):
        Finite(process, IMAGES, endpoints=ends, endpoint_std=0.0)
    with pytest.raises(ConfigError, match="process vp has no end point"):
        OracleDataset(endpoint_std=0.5).check(VP(), SHAPE)


def test_slopes_need_an_end_point():
    with pytest.raises(ConfigError, match=r"network\.slopes: process vp has no end point"):
        Mixture(VP(), WEIGHTS, MEANS, STDS, slopes=SLOPES)
    spec = OracleMixture(WEIGHTS, MEANS, STDS, slopes=SLOPES)
    spec.check(BridgeVP(), SHAPE)
    assert spec.build(BridgeVP(), SHAPE, None).slopes.tolist() == SLOPES
    with pytest.raises(ConfigError, match="no end point"):
        spec.check(VP(), SHAPE)
    oracle = Mixture(BridgeVP(), WEIGHTS, MEANS, STDS)
    (point,) = oracle.prepare(_f64(0.5), torch.float64, "cpu")
    with pytest.raises(ValueError, match="second image"):
        oracle(U, point)
