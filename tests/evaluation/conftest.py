"""A model whose samples are known in closed form, and a data set that it fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffexp.dataset.split import ArraySplit
from diffexp.evaluation.protocol import Provenance
from diffexp.evaluation.settings import Arm, EvaluationSettings
from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.form import Form
from diffexp.process.combination import Combination
from diffexp.process.vp import VP
from diffexp.sampler.adaptive import Adaptive, DormandPrince
from diffexp.sampler.grid import Ends, Uniform
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler

SHAPE = (1, 8, 8)
SPREAD = 0.3


class GaussianDenoiser(Denoiser):
    """The posterior mean for pixels that are independent N(0, SPREAD^2): x^ = a s^2 u / (a^2 s^2 + sigma^2)."""

    def form(self, marginal):
        return Form(marginal, data=Combination({1: marginal.signal.identity()}))

    def parts(self, u, point, conditions=None):
        self.evaluations += len(u)
        ones, zeros = torch.ones_like(u), torch.zeros_like(u)
        alpha, sigma = point.marginal.perturb(ones, zeros), point.marginal.perturb(zeros, ones)
        return u, alpha * SPREAD**2 * u / (alpha**2 * SPREAD**2 + sigma**2)


class PixelFeatures:
    """Features that need no weights: eight averages of pixels."""

    name, metric, dim, hash, resize, shape = "pixels", "fd_pixels", 8, "none", "none", SHAPE

    def prepare(self):
        return self

    def to(self, device):
        return self

    def __call__(self, images):
        return images.double().mean(dim=(1, 2))


class GaussianImages:
    """A data set of the law that `GaussianDenoiser` knows."""

    name, shape, num_classes = "gaussian", SHAPE, 0

    def __init__(self, train=600, test=200):
        pixels = np.random.default_rng(0).standard_normal((train + test, *SHAPE)) * SPREAD
        images = np.clip(np.rint(pixels * 127.5 + 127.5), 0, 255).astype(np.uint8)
        self._splits = {"train": ArraySplit(images[:train], None), "test": ArraySplit(images[train:], None)}

    def prepare(self):
        pass

    def split(self, name):
        return self._splits[name]


@pytest.fixture
def denoiser():
    return GaussianDenoiser(VP(beta_min=0.1, beta_max=20.0))


@pytest.fixture
def dataset():
    return GaussianImages()


@pytest.fixture
def samplers():
    grid = Uniform(t_end=1e-3)
    return {
        "ddim": Sampler("ddim", DDIM(), grid),
        "ddpm": Sampler("ddpm", Ancestral(), grid),
        "heun": Sampler("heun", Heun(), grid),
        "rk45": Adaptive("rk45", DormandPrince(1e-3, 1e-3), Ends(1e-3)),
    }


@pytest.fixture
def arms(samplers):
    return [Arm(samplers["ddim"], (2, 6)), Arm(samplers["heun"], (3, 5))]


@pytest.fixture
def settings():
    return EvaluationSettings(
        n=120, seeds=[0, 1], batch_size=50, extractor=PixelFeatures(), controls=["real", "noise", "mean"], grid_images=4
    )


@pytest.fixture
def provenance():
    return Provenance("toy", "vp", "x0", "oracle", "step_7@ema_0.9", commit="abc1234", versions={"torch": "2.x"})
