"""Blurring: the law of every frequency after sampling, exactly, for Gaussian data.

Noise estimates of Gaussian data are linear in the state, so a sample is a linear map of the numbers that were drawn.
Fed with one of them at a time, the sampler itself gives this map, and with it the variance of every frequency: no Monte
Carlo, no network.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.blurring import GDDIMBlurring
from diffexp.process.dct import DCT
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Power
from diffexp.sampler.linear import Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.stepper import Stepper

STD, SIDE, END = 0.5, 32, 1e-5
BUDGETS = (10, 20, 50, 100, 200, 500, 1000)


class Singles:
    """Noise of which each image of the batch has one draw and no other: the initial one, then those of the steps."""

    def __init__(self, unit: Tensor, images: int) -> None:
        self.unit, self.images = unit, images

    def initial(self) -> Tensor:
        return self.step(-1)

    def step(self, k: int) -> Tensor:
        batch = torch.zeros(self.images, *self.unit.shape[1:], dtype=self.unit.dtype)
        batch[1 + k] = self.unit[0]
        return batch


class Spectrum:
    """Data whose frequencies are independent and N(0, STD^2), on gDDIM's blurring process at the paper's image size."""

    def __init__(self) -> None:
        shape = (1, SIDE, SIDE)
        self.process = GDDIMBlurring().on(shape)
        self.oracle = Mixture(self.process, [1.0], [0.0], [STD], elementwise=False, shape=shape)
        self.unit = DCT().backward(torch.ones(1, *shape, dtype=torch.float64))  # one in every frequency

    def error(self, stepper: Stepper, nfe: int, draws: bool) -> float:
        """Root mean square over the frequencies of the Wasserstein-2 distance, which is that of standard deviations."""
        sampler = Sampler("lab", stepper, Power(p=2.0, t_end=END))
        noise = Singles(self.unit, 1 + nfe if draws else 1)
        found = sampler.sample(self.oracle, noise, nfe).images
        std = DCT().forward(found).square().sum(0).sqrt()
        return float((std - self._exact).square().mean().sqrt())

    @property
    def _exact(self) -> Tensor:
        at = self.process.marginal(torch.tensor(END, dtype=torch.float64))
        gain = DCT().forward(at.signal.apply(self.unit))[0]
        noise = DCT().forward(at.factor.apply(self.unit))[0]
        return (STD**2 * gain.square() + noise.square()).sqrt()


def curves() -> dict[str, list[float]]:
    """Errors at BUDGETS of gDDIM of orders 1 to 3 and of ancestral sampling."""
    spectrum = Spectrum()
    found = {f"gDDIM, order {q}": [spectrum.error(GDDIM(q), n, False) for n in BUDGETS] for q in (1, 2, 3)}
    found["ancestral"] = [spectrum.error(Ancestral(), n, True) for n in BUDGETS]
    return found


def equal_budget(errors: list[float], wanted: float) -> float:
    """The NFE at which a curve over BUDGETS reaches an error, by lines in logarithms; nan when out of reach."""
    for (n0, e0), (n1, e1) in pairwise(zip(BUDGETS, errors, strict=True)):
        if e0 >= wanted >= e1:
            share = math.log(e0 / wanted) / math.log(e0 / e1)
            return math.exp(math.log(n0) + share * math.log(n1 / n0))
    return 1.0 * BUDGETS[0] if errors[0] < wanted else math.nan
