"""Consistency training where the answer is known: a mixture of numbers given y, whose flow keeps quantiles."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.distillation.consistency import CBD, CBT, Pair
from diffexp.distillation.metric import L2
from diffexp.distillation.schedule import Constant
from diffexp.objective.distilled import Distilled
from diffexp.prediction.bridge import DDBM, I2SB
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.process.bridge import Bridge
from diffexp.process.bridge_i2sb import BridgeI2SB
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.process.flow import ode_step
from tests.quantiles import Flow

BRIDGES = {"vp": BridgeVP(), "ve": BridgeVE(3.0), "brownian": Brownian(), "i2sb": BridgeI2SB()}


def flow_on(process: Bridge) -> Flow:
    """x0 given y: two components whose means lean on y."""
    numbers = ([0.4, 0.6], [-0.5, 0.6], [0.3, -0.2], [0.25, 0.15])
    return Flow(process, *(torch.tensor(values, dtype=torch.float64) for values in numbers))


def conditions(n: int) -> Conditions:
    return Conditions(endpoint=random.normal(0, "test/y", range(n), (1, 1, 1)).tanh())


def drawn(flow: Flow, y: Tensor, seed: int = 0) -> Tensor:
    """Data given y."""
    n = len(y)
    which = (random.uniform(seed, "test/which", range(n)) > float(flow.weights[0])).long().reshape(y.shape)
    z = random.normal(seed, "test/data", range(n), (1, 1, 1))
    return flow.means[which] + flow.slopes[which] * y + flow.stds[which] * z


def posterior(flow: Flow, u: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(shares, means, standard deviations) of x0's components given states at times of their own (B,), and y."""
    a, b, c = (number.reshape(-1, 1, 1, 1) for number in flow.process.abc(t))
    weights, means, slopes, stds = (
        values.reshape(-1, 1, 1, 1, 1) for values in (flow.weights, flow.means, flow.slopes, flow.stds)
    )
    centres, spread = means + slopes * y, (b * stds).square() + c.square()
    off = u - a * y - b * centres
    shares = torch.softmax(weights.log() - 0.5 * (spread.log() + off.square() / spread), dim=0)
    return shares, centres + b * stds.square() / spread * off, stds * c / spread.sqrt()


@pytest.mark.parametrize("name", BRIDGES)
def test_the_target_of_distillation_is_off_by_the_square_of_the_step(name):
    """CBD with the exact teacher: one step, then the exact flow to the end."""
    flow, given = flow_on(BRIDGES[name]), conditions(16)
    y, whole = given.endpoint, flow.process.t_max
    t, end = torch.tensor(0.6 * whole, dtype=torch.float64), torch.tensor(flow.process.t_min, dtype=torch.float64)
    u = flow.process.marginal(t).perturb(drawn(flow, y), random.normal(0, "test/z", range(16), (1, 1, 1)), y)
    oracle = flow.oracle()
    data = oracle(u, oracle.at(t.expand(16), u.dtype, "cpu"), given).data
    exact, steps, errors = flow.moved(u, t, end, y), [0.04, 0.02, 0.01, 0.005], []
    for step in steps:
        r = t - step * whole
        stepped = ode_step(flow.process, u, t, r, data, y)
        errors.append(float((flow.moved(stepped, r, end, y) - exact).abs().max()))
    slopes = torch.tensor(errors).log2().diff().neg()
    assert slopes[-1].item() == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("name", BRIDGES)
def test_the_target_of_training_is_that_of_distillation_on_average(name):
    """Over x0 given (x_t, y), with the z that belongs to it: by Gauss-Hermite quadrature in each component."""
    flow, given = flow_on(BRIDGES[name]), conditions(8)
    y, process = given.endpoint, flow.process
    t = torch.tensor(0.7 * process.t_max, dtype=torch.float64).expand(8)
    r = 0.8 * t
    u = process.marginal(t).perturb(drawn(flow, y), random.normal(0, "test/z", range(8), (1, 1, 1)), y)
    (a, b, c), (share, middle, width) = process.abc(t[:1]), posterior(flow, u, t, y)
    places, weights = (torch.tensor([0.5773502691896257, -0.5773502691896257]) * 3.0**0.5, torch.tensor([0.5, 0.5]))
    average = torch.zeros_like(u)
    for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
        for k in range(len(share)):
            x0 = middle[k] + place * width[k]
            z = (u - a * y - b * x0) / c
            pair = Pair(process, x0, z, t, r, given)
            torch.testing.assert_close(pair.u, u, rtol=1e-12, atol=1e-12)
            average += share[k] * weight * CBT(Constant(), L2()).earlier(pair, None)
    oracle = flow.oracle()
    stepped = ode_step(process, u, t, r, oracle(u, oracle.at(t, u.dtype, "cpu"), given).data, y)
    torch.testing.assert_close(average, stepped, rtol=1e-10, atol=1e-10)


class Exact(NetworkDenoiser):
    """A teacher that knows the posterior mean."""

    def __init__(self, flow: Flow, student: NetworkDenoiser) -> None:
        super().__init__(student.network, student.head.head, flow.process)
        self.flow = flow

    def __call__(self, u, point, conditions):
        shares, means, _ = posterior(self.flow, u, point.marginal.t, conditions.endpoint)
        return SimpleNamespace(data=(shares * means).sum(0))


class Numbers(nn.Module):
    """Two hidden layers on (state, end point, time)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        with random.seeded(0, "test/numbers"):
            layers = [nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, shown: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        clock = (0.003 * time.to(shown.dtype)).reshape(-1, 1).expand(len(shown), 1)
        return self.layers(torch.cat([shown.flatten(1), clock], dim=1)).reshape(-1, 1, 1, 1)


def trained(flow: Flow, method: CBD | CBT, head: Consistency, steps: int = 500, size: int = 256) -> NetworkDenoiser:
    """A small net after a short training on the mixture; every pixel is an image of its own here."""
    student = NetworkDenoiser(Numbers().double(), head, flow.process)
    method.check(head, flow.process, Distilled())
    loss = method.loss(student, Exact(flow, student), Distilled(), steps)
    optimizer = torch.optim.Adam(student.network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    numbers = random.normal(0, "test/all", range(steps), (3, size, 1, 1, 1))  # drawn at once: one by one takes longer
    shares = (torch.arange(size) + random.uniform(0, "test/times", range(steps))[:, None]) / size
    for step, ((y, z, e), share) in enumerate(zip(numbers, shares, strict=True)):
        y = y.tanh()
        which = (torch.arange(size) % 5 > 1).long().reshape(y.shape)  # 0.4 and 0.6
        x0 = flow.means[which] + flow.slopes[which] * y + flow.stds[which] * e
        loss.begin_step(step)
        t, r = method.schedule.pairs(share, *loss.limits, step, steps)
        optimizer.zero_grad()
        order = torch.from_numpy(np.random.Generator(np.random.PCG64(step)).permutation(size))
        pair = Pair(flow.process, x0, z, t[order], r[order], Conditions(endpoint=y))
        loss.losses(student, pair).mean().backward()
        optimizer.step()
        schedule.step()
    return student


def distance(flow: Flow, function: NetworkDenoiser, share: float) -> float:
    """Root mean square of h - (the exact end of the flow) at one time, over data and y."""
    n = 256
    given = conditions(n)
    y, process = given.endpoint, flow.process
    t = torch.tensor(share * process.t_max, dtype=torch.float64)
    u = process.marginal(t).perturb(drawn(flow, y, 10**6), random.normal(1, "test/z", range(n), (1, 1, 1)), y)
    exact = flow.moved(u, t, torch.tensor(process.t_min, dtype=torch.float64), y)
    with torch.no_grad():
        found = function(u, function.at(t.expand(n), u.dtype, "cpu"), given).jump
    return float((found - exact).square().mean().sqrt())


@pytest.mark.parametrize(("name", "kind"), [("vp", CBD), ("i2sb", CBT)])
def test_small_nets_approach_the_exact_consistency_function(name, kind):
    """After 500 steps they are less than half as far from it as at first."""
    flow, head = flow_on(BRIDGES[name]), Consistency(I2SB() if name == "i2sb" else DDBM())
    student = trained(flow, kind(Constant(0.2), L2()), head)
    untrained = NetworkDenoiser(Numbers().double(), head, flow.process)
    for share in (0.6, 0.9):
        first, last = (distance(flow, function, share) for function in (untrained, student))
        assert last < 0.5 * first
