"""Guidance mixes two answers and costs two evaluations; clipping comes after it."""

from __future__ import annotations

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.network.spec import UNetSpec
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, V
from diffexp.prediction.oracle.finite import Finite
from diffexp.prediction.wrapper import NO_LABEL, Clipped, Guided
from diffexp.process.cosine import Cosine
from diffexp.process.vp import VP
from diffexp.sampler.grid import Uniform
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise

U = random.normal(0, "test/state", range(4), (2, 2, 2))
LABELS = torch.tensor([0, 3, 1, 2])
TIME = torch.tensor([0.4], dtype=torch.float64)


class Shift(torch.nn.Module):
    """An output that shows its label: label / 10 + 0.1 times the state; -1 shows as -0.1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x, time, labels):
        shown = 0.1 * x + labels.to(x.dtype).reshape(-1, 1, 1, 1) / 10.0
        return shown.repeat(1, self.channels // x.shape[1], 1, 1)


def denoiser(head, process=None):
    return NetworkDenoiser(Shift(head.out_channels(2)), head, process or Cosine(), unconditional=True)


@pytest.mark.parametrize("head", [Eps(), X0(), V(), Both()], ids=lambda head: head.name)
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_every_quantity_is_guided_alike(head, scale):
    plain, guided = denoiser(head), Guided(denoiser(head), scale)
    (point,) = plain.prepare(TIME, torch.float64, "cpu")
    found = guided(U, point, Conditions(labels=LABELS))
    given = plain(U, point, Conditions(labels=LABELS))
    none = plain(U, point, Conditions(labels=torch.full_like(LABELS, NO_LABEL)))
    for name in ("data", "noise"):
        expected = getattr(none, name) + scale * (getattr(given, name) - getattr(none, name))
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-12, atol=1e-12)
    assert guided.evaluations == 2 * len(U)
    with pytest.raises(ValueError, match="needs labels"):
        guided(U, point)


def test_clipping_holds_the_guided_data():
    clipped = Clipped(Guided(denoiser(X0()), 50.0))
    (point,) = clipped.prepare(TIME, torch.float64, "cpu")
    found = clipped(U, point, Conditions(labels=LABELS))
    assert found.data.unique().tolist() == [1.0]  # a label is at least 0.1 above none: 50 times that
    explained = Cosine().marginal(TIME[0]).perturb(found.data, found.noise)
    torch.testing.assert_close(explained, U, rtol=0, atol=1e-12)
    assert clipped.evaluations == 2 * len(U)


def test_guidance_doubles_the_budget_and_odd_ones_are_refused():
    ddim, heun = (Sampler(s.__name__, s(), Uniform(t_end=0.1), guidance=1.5) for s in (DDIM, Heun))
    assert ddim.steps(10) == 5
    assert heun.steps(10) == 3  # 2 (2 n - 1)
    with pytest.raises(ConfigError, match="nfe=7 is not reachable with sampler DDIM: choose 6 or 8"):
        ddim.steps(7)
    with pytest.raises(ConfigError, match="nfe=8 is not reachable with sampler Heun: choose 6 or 10"):
        heun.steps(8)
    source = denoiser(Eps(), VP())
    result = ddim.sample(source, KeyedNoise(0, range(4), (2, 2, 2)), 10, Conditions(labels=LABELS))
    assert (result.nfe, source.evaluations) == (10, 40)


def test_guidance_needs_a_model_that_answers_without_labels():
    sampler = Sampler("ddim", DDIM(), Uniform(t_end=0.1), guidance=1.5)
    plain = NetworkDenoiser(Shift(2), Eps(), VP())
    with pytest.raises(ConfigError, match=r"sampler.guidance=1.5: .*objective.label_dropout=0.1"):
        sampler.sample(plain, KeyedNoise(0, range(4), (2, 2, 2)), 10, Conditions(labels=LABELS))


def test_strong_guidance_leads_to_the_class():
    """Two images, one of each class: unguided sampling of class 1 finds it, and so does guidance from the mixture."""
    process, images = VP(), torch.stack([torch.full((1, 2, 2), -0.5), torch.full((1, 2, 2), 0.5)])
    oracle = Finite(process, images, torch.tensor([0, 1]))
    noise = KeyedNoise(0, range(6), (1, 2, 2), torch.float64)
    sampler = Sampler("ddim", DDIM(), Uniform(t_end=1e-3), guidance=1.0)
    found = sampler.sample(oracle, noise, 20, Conditions(labels=torch.ones(6, dtype=torch.int64))).images
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=0.05)


def test_no_label_is_the_bias_alone_and_leaves_the_others_as_they_are():
    sizes = {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "num_heads": 1, "max_groups": 4}
    spec = UNetSpec(**sizes, class_conditional=True)
    with random.seeded(0, "test/init"):
        network = spec.build(1, 1, 4, 3)
    label = network.embedding.label
    found = label(torch.tensor([2, -1]))
    torch.testing.assert_close(found[0], label.weight[:, 2] + label.bias, rtol=0, atol=0)
    torch.testing.assert_close(found[1], label.bias, rtol=0, atol=0)
