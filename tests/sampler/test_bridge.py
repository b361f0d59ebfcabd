"""Bridge samplers: their coefficients, their orders on an exact denoiser, limits, the mask, and what they refuse."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.bridge_i2sb import BridgeI2SB, BridgeI2SBDiscrete
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.process.vp import VP
from diffexp.sampler.dbim import DBIM, _extrapolation
from diffexp.sampler.ddbm_heun import DDBMHeun
from diffexp.sampler.grid import Uniform
from diffexp.sampler.grid_bridge import BridgeKarras, Leaving
from diffexp.sampler.grid_snr import Karras, LogSNR
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from tests.quantiles import Flow, walked

BRIDGES = [BridgeVP(), BridgeVE(3.0), Brownian(0.8), BridgeI2SB()]
every_bridge = pytest.mark.parametrize("process", BRIDGES, ids=lambda process: process.name)
SHAPE = (1, 4, 4)


def _f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def flow(process) -> Flow:
    return Flow(process, _f64(0.35, 0.65), _f64(0.45, -0.4), _f64(0.5, -0.3), _f64(0.2, 0.3))


@every_bridge
@pytest.mark.parametrize(
    ("stepper", "low", "high"),
    [
        (DBIM(), 0.9, 1.15),
        (DBIM(order=2), 1.7, 2.7),
        (DBIM(order=3), 1.7, 2.7),
        (DBIM(order=2, lower_order_final=False), 1.8, 2.7),
        (DDBMHeun(churn=0.0, final="heun"), 1.7, 2.3),
    ],
    ids=["dbim1", "dbim2", "dbim3", "dbim2_final", "heun"],
)
def test_convergence_to_the_exact_flow(process, stepper, low, high):
    """Order 3 starts with a step of order 1, whose error is of second order."""
    exact, oracle = flow(process), flow(process).oracle()
    y = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64).reshape(5, 1, 1, 1)
    t, s = process.t_max * _f64(0.8, 0.1)
    start = process.marginal(t).perturb(0.3 * y, random.normal(0, "test/start", range(5), (1, 1, 1)), y)
    wanted, errors = exact.moved(start, t, s, y), []
    for n in (70, 140, 280):  # multiples of 7: a time falls on I2SB's turn at 1 / 2
        times = torch.linspace(float(t), float(s), n + 1, dtype=torch.float64)
        found = walked(stepper, oracle, times, start, Conditions(endpoint=y))
        errors.append(float((found - wanted).abs().max()))
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(low < order < high for order in orders), (orders, errors)
    assert errors[-1] < (0.03 if high < 1.5 else 2e-3)


@every_bridge
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_keeps_the_law_of_the_bridge(process, eta):
    """For the true data the state stays a y + b x0 + c e: k^2 c_t^2 + omega^2 = c_s^2, also from the end point."""
    t = process.t_max * _f64(1.0, 0.999, 0.6, 0.5001, 0.2)
    s = process.t_max * _f64(0.999, 0.6, 0.5999, 0.1, 1e-4)
    step = DBIM(eta).coefficients(process, t, s)
    k, omega = step.state.value, step.fresh.value
    (a_t, b_t, c_t), (a_s, b_s, c_s) = process.abc(t), process.abc(s)
    torch.testing.assert_close(k**2 * c_t**2 + omega**2, c_s**2, rtol=1e-13, atol=0)
    torch.testing.assert_close(k * b_t + step.data.value, b_s, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(k * a_t + step.second.value, a_s, rtol=1e-13, atol=1e-15)
    assert float(k[0]) == 0.0
    if eta == 0.0:
        assert omega[1:].tolist() == [0.0] * 4
    if eta == 1.0:  # the Markovian step does not look at the end point
        torch.testing.assert_close(step.second.value[1:], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-13)


def test_the_last_step_leaves_its_noise_out_and_keeps_its_contraction():
    process, times = BridgeVP(), _f64(1.0, 0.999, 0.5, 1e-4)
    plan, stepper = DBIM(0.7).plan(process, times, "state"), DBIM(0.7)
    plain = stepper.coefficients(process, times[:-1], times[1:])
    assert torch.equal(plan.state.value, plain.state.value)
    assert plan.fresh.value.tolist() == [*plain.fresh.value[:2].tolist(), 0.0]
    assert float(plan.state.value[-1]) < float(DBIM(0.0).coefficients(process, times[2], times[3]).state.value)


def test_far_from_its_end_point_a_bridge_is_an_ordinary_process():
    """The end point of a variance exploding bridge at T = 1e7 has no part in steps at times of order 1: DDIM."""
    step = DBIM().coefficients(BridgeVE(1e7), _f64(2.0), _f64(0.5))
    found = torch.cat([step.state.value, step.data.value, step.second.value])
    torch.testing.assert_close(found, _f64(0.25, 0.75, 0.0), rtol=0, atol=1e-12)


def test_without_noise_a_brownian_bridge_is_flow_matching():
    """On the line between data and end point the step is Euler's with velocity y - x^."""
    data, y, t, s = 0.3, -0.8, _f64(0.7), _f64(0.4)
    step = DBIM().coefficients(Brownian(1e-9), t, s)
    x = 0.7 * y + 0.3 * data
    moved = step.state.value * x + step.data.value * data + step.second.value * y
    torch.testing.assert_close(moved, x + (s - t) * (y - data), rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [2, 3])
def test_extrapolation_is_exact_for_polynomials_in_lambda(order):
    """The step integrates e^(lambda - end) x^(lambda); x^ = (lambda - c)^m, m < order, by Gauss's rule."""
    clock = _f64(-1.3, -0.9, -0.2, 0.4)[3 - order :]
    here, past = _extrapolation(clock, torch.tensor(1.0, dtype=torch.float64))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    low, high = clock[-2:].tolist()
    places = torch.from_numpy(0.5 * (high - low) * nodes + 0.5 * (high + low))
    for power in range(order):
        values = (clock[:-1] - 0.1) ** power
        found = here * values[-1] + (past * values[:-1].flip(0)).sum()
        integrand = (places - high).exp() * (places - 0.1) ** power
        wanted = 0.5 * (high - low) * float((torch.from_numpy(weights) * integrand).sum())
        assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_images_own_their_noise():
    """The same samples whatever the batch; the first draw belongs to the step from the end point."""
    oracle = Mixture(BridgeVP(), [0.5, 0.5], [-0.5, 0.5], [0.1, 0.1])
    y = random.normal(4, "test/end", range(4), SHAPE)
    sampler = Sampler("dbim", DBIM(0.5), Leaving())

    def run(indices: range) -> Tensor:
        noise = KeyedNoise(7, indices, SHAPE, torch.float64)
        return sampler.sample(oracle, noise, 6, Conditions(endpoint=y[indices.start : indices.stop])).images

    whole = run(range(4))
    torch.testing.assert_close(torch.cat([run(range(1)), run(range(1, 4))]), whole, rtol=1e-13, atol=1e-13)
    assert float((whole[0] - whole[1]).abs().max()) > 0.1


@pytest.mark.parametrize("stepper", [DBIM(), DBIM(1.0), DBIM(order=3)], ids=["eta0", "eta1", "order3"])
def test_known_pixels_come_back(stepper):
    """Outside the mask the sample is the end point's, up to what noise and time are left at t_min."""
    process = BridgeI2SB()
    oracle = Mixture(process, [0.5, 0.5], [-0.5, 0.5], [0.1, 0.1])
    y = random.normal(4, "test/end", range(3), SHAPE).clamp(-1.0, 1.0)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    mask[:, :, 1:3, 1:3] = 1.0
    noise = KeyedNoise(7, range(3), SHAPE, torch.float64)
    sampler = Sampler("dbim", stepper, Leaving(), mask=True)
    found = sampler.sample(oracle, noise, 20, Conditions(endpoint=y, mask=mask)).images
    outside = (found - y)[(mask == 0.0).expand_as(y)]
    inside = found[(mask == 1.0).expand_as(y)]
    assert float(outside.abs().max()) < 0.02
    assert bool(((inside.abs() > 0.1) & (inside.abs() < 0.95)).all())


def test_times_of_the_bridge_grids():
    process = BridgeVE(80.0)
    times = Leaving().times(process, 3)
    torch.testing.assert_close(times, _f64(80.0, 79.999, 0.5 * (79.999 + 0.002), 0.002), rtol=1e-14, atol=0)
    assert times.tolist()[::3] == [80.0, 0.002]
    karras = BridgeKarras().times(process, 4)
    roots = torch.linspace(79.9999 ** (1 / 7), 0.002 ** (1 / 7), 4, dtype=torch.float64)
    torch.testing.assert_close(karras, torch.cat([roots**7, _f64(0.0)]), rtol=1e-12, atol=0)
    assert BridgeKarras().times(process, 1).tolist() == [80.0 - 1e-4, 0.0]
    assert Uniform().times(process, 2).tolist() == pytest.approx([80.0, 40.001, 0.002])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DBIM(1.5), r"sampler\.stepper\.eta=1.5: must be between 0"),
        (lambda: DBIM(order=4), r"sampler\.stepper\.order=4: must be between 1 and 3"),
        (lambda: DBIM(0.5, order=2), r"order=2: is deterministic; set sampler\.stepper\.eta=0"),
        (lambda: DDBMHeun(1.0), r"sampler\.stepper\.churn=1.0: must lie in"),
        (lambda: Leaving(0.0), r"grid\.gamma=0.0: must be > 0"),
        (lambda: BridgeKarras(0.0), r"grid\.rho=0.0: must be > 0"),
        (lambda: LogSNR().times(BridgeVP(), 3), "grid log_snr: process bridge_vp has no noise level at its end point"),
        (lambda: Karras().times(BridgeVE(), 3), "grid karras: process bridge_ve has no noise level at its end point"),
        (lambda: Leaving().times(VP(), 3), "grid bridge is for bridges, and process vp is none: use grid=uniform"),
        (lambda: Leaving(2.0).times(BridgeVP(), 3), r"grid\.gamma=2: leaves no time between 0.0001 and 1"),
        (lambda: BridgeKarras(t_end=0.1).times(BridgeVP(), 3), r"grid\.t_end=0.1: must be below 0.0001"),
        (
            lambda: Sampler("dbim", DBIM(order=3), Leaving()).steps(3),
            "nfe=3 is not reachable with sampler dbim: choose 4",
        ),
        (lambda: Sampler("dbim", DBIM(), Leaving()).steps(1), "nfe=1 is not reachable with sampler dbim: choose 2"),
        (
            lambda: Sampler("h", DDBMHeun(final="heun"), BridgeKarras()).times(BridgeVP(), 6),
            "final=heun: the score is infinite at the data",
        ),
        (
            lambda: Sampler("d", DBIM(order=2), Leaving()).plan(BridgeI2SBDiscrete(100), 200),
            r"sampler\.stepper\.order=2: two times of 200 steps have the same noise",
        ),
        (
            lambda: Sampler("ddim", DDIM(), Uniform(), mask=True).check_conditions(VP(), {"mask"}),
            "mask=true: process vp is no bridge",
        ),
        (
            lambda: Sampler("dbim", DBIM(), Leaving(), mask=True).check_conditions(BridgeVP(), {"endpoint"}),
            "mask=true: the data have no masks",
        ),
        (
            lambda: Sampler("dbim", DBIM(), Leaving()).check_conditions(BridgeVP(), set()),
            "bridge_vp is a bridge, whose data need end points",
        ),
    ],
)
def test_misfits_are_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_a_missing_mask_is_refused_before_anything_is_evaluated():
    oracle = Mixture(BridgeVP(), [1.0], [0.0], [0.5])
    y = torch.zeros(2, *SHAPE, dtype=torch.float64)
    sampler = Sampler("dbim", DBIM(), Leaving(), mask=True)
    with pytest.raises(ConfigError, match="the data have no masks"):
        sampler.sample(oracle, KeyedNoise(0, range(2), SHAPE, torch.float64), 4, Conditions(endpoint=y))
    assert oracle.evaluations == 0
