"""The paper's claims with exact noise estimates in the network's place: what is left is the samplers' own error."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.base import Process
from diffexp.process.cld import CLD
from diffexp.process.vp import VP
from diffexp.sampler.euler import EulerMaruyama
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Power
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from diffexp.sampler.stepper import Stepper
from experiments.gddim_cld.oracle.laws import Law, pixel_law

LAMBDAS = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
ORDERS = (1, 2, 3)
END = 1e-3
IMAGES, SIDE = 4, 128
DATA = {  # weights, means, standard deviations of every pixel
    "one value": ([1.0], [0.5], [0.0]),
    "a Gaussian": ([1.0], [0.2], [0.5]),
    "two wide modes": ([0.3, 0.7], [-0.6, 0.5], [0.15, 0.15]),
    "a narrow and a wide mode": ([0.3, 0.7], [-0.9, 0.7], [0.02, 0.2]),
}
SHOWN = "two wide modes"


class Lab:
    """One law of the pixels on one process, with its exact noise estimates.

    Args:
        data: a key of DATA.
        process: the forward process.
    """

    def __init__(self, data: str, process: Process) -> None:
        self.process = process
        self.oracle = Mixture(process, *DATA[data])
        self.law: Law = pixel_law(process, *DATA[data], END)
        shape = process.state_shape((1, SIDE, SIDE))
        self.noise = KeyedNoise(0, range(IMAGES), shape, torch.float64)

    def run(self, stepper: Stepper, nfe: int, on_step=None) -> Tensor:
        """The positions at t = END, from the same noise for every stepper."""
        sampler = Sampler("lab", stepper, Power(p=2.0, t_end=END))
        return sampler.sample(self.oracle, self.noise, nfe, on_step=on_step).images

    def distance(self, stepper: Stepper, nfe: int) -> float:
        """Wasserstein-1 from the exact law of a pixel at t = END."""
        return self.law.distance(self.run(stepper, nfe))

    @cached_property
    def flow(self) -> Tensor:
        """Where the probability flow leads: fourth order, 1000 steps."""
        return self.run(GDDIM(4), 1000)

    def path_error(self, stepper: Stepper, nfe: int) -> float:
        """Root mean square distance from `flow`; the noise is the same, so there is no Monte-Carlo floor."""
        return float((self.run(stepper, nfe) - self.flow).square().mean().sqrt())

    @cached_property
    def floor(self) -> float:
        """What Monte Carlo leaves of `distance`."""
        return self.law.floor(IMAGES * SIDE * SIDE)


def stochasticity(nfe: int) -> list[tuple[float, float, float, float]]:
    """(lambda, gDDIM of order 1 on CLD, Euler-Maruyama on CLD, gDDIM of order 1 on VP): distances at one budget."""
    cld, vp = Lab(SHOWN, CLD()), Lab(SHOWN, VP())
    return [
        (lam, cld.distance(GDDIM(1, lam), nfe), cld.distance(EulerMaruyama(lam), nfe), vp.distance(GDDIM(1, lam), nfe))
        for lam in LAMBDAS
    ]


def factors(data: str, budgets: tuple[int, ...]) -> list[tuple[int, int, list[float]]]:
    """(NFE, order, [path error R, L, distance R, L]) with one and the same oracle."""
    lab = Lab(data, CLD())
    found = []
    for nfe in budgets:
        for order in ORDERS:
            steppers = GDDIM(order), GDDIM(order, factor="cholesky")
            errors = [lab.path_error(stepper, nfe) for stepper in steppers]
            found.append((nfe, order, errors + [lab.distance(stepper, nfe) for stepper in steppers]))
    return found


def drift(data: str, steps: int = 400) -> tuple[float, float]:
    """How far the noise estimate walks along exact trajectories, in R and in L: the mean length of its path.

    For R it stays where it is when the data are one value, which is what a large step relies on.
    """
    lab, states = Lab(data, CLD()), []
    lab.run(GDDIM(4), steps, on_step=lambda k, u: states.append(u.clone()))
    times = Power(p=2.0, t_end=END).times(lab.process, steps)[1:]
    points = lab.oracle.prepare(times, torch.float64, "cpu")
    turn = lab.process.factor(times, "cholesky").inverse() @ lab.process.factor(times, "R")
    in_r = [lab.oracle(u, point).noise for u, point in zip(states, points, strict=True)]
    in_l = [turn[k].apply(noise) for k, noise in enumerate(in_r)]
    return _length(in_r), _length(in_l)


def _length(path: list[Tensor]) -> float:
    """The mean over pixels of the length of a path of (position's noise, velocity's noise)."""
    total = sum((b - a).unflatten(1, (2, -1)).square().sum(1).sqrt().mean() for a, b in pairwise(path))
    return float(total) if isinstance(total, Tensor) else math.nan
