"""A schedule network that sees only noisy samples learns, from the step loss, the best ratio of each level."""

from __future__ import annotations

import torch

from diffexp.core import random
from diffexp.distillation.bilateral.loss import CODE, StepLoss
from diffexp.distillation.bilateral.pair import pair
from diffexp.distillation.bilateral.score import Score
from diffexp.network.schedule.convolutional import Small
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.ddpm import DDPM

SHAPE, STD, TAU, BATCH = (1, 8, 8), 0.2, 66, 16


def test_a_small_network_finds_the_root_of_each_level():
    """e2 r (1 + 1 / (1 - r)^2) = 2 log_coef with e2 of white data: r rises from 0.57 to 0.79 over the levels drawn."""
    process = DDPM(200)
    loss = StepLoss(Score(Mixture(process, [1.0], [0.0], [STD])), TAU)
    with random.seeded(0, "test/weights"):
        network = Small(1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, amsgrad=True)
    for step in range(400):
        indices = range(BATCH * step, BATCH * (step + 1))
        x0, noise = (random.normal(0, f"test/{stream}", indices, SHAPE).float() for stream in ("x0", "noise"))
        terms = loss(network, STD * x0, noise, random.uniform(0, "test/share", indices))
        optimiser.zero_grad()
        terms.loss.mean().backward()
        optimiser.step()
    for index in (66.0, 100.0, 133.0):
        t = torch.full((256,), index, dtype=torch.float64)
        levels = pair(process, t, t + TAU)
        deviation = (levels.alpha**2 * STD**2 + levels.delta).sqrt().reshape(-1, 1, 1, 1)
        with torch.no_grad():
            ratio = float(network.ratio(deviation * random.normal(1, "test/state", range(256), SHAPE)).mean())
        e2 = float((levels.alpha[0] * STD) ** 2 / deviation.flatten()[0] ** 2)
        slope = e2 * (1.0 + 1.0 / (1.0 - ratio) ** 2) * ratio - 2.0 * CODE  # rises through 0 at the root
        steepness = e2 * (1.0 + 1.0 / (1.0 - ratio) ** 2 + 2.0 * ratio / (1.0 - ratio) ** 3)
        assert abs(slope / steepness) < 0.05  # one step of Newton's: how far the root is
