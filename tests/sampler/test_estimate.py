"""Regression as a sampler: one evaluation at the end point is the sample."""

from __future__ import annotations

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import End
from diffexp.objective.weighting import Plain
from diffexp.prediction.bridge import DDBM
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP
from diffexp.sampler.estimate import Estimate
from diffexp.sampler.grid import Uniform
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise

SHAPE = (2, 4, 4)


class Linear(torch.nn.Module):
    """0.3 state + 0.1 source - 0.05 time: what it is shown can be told from its answer."""

    def forward(self, u, time, labels=None):
        state, source = u.chunk(2, dim=1)
        return 0.3 * state + 0.1 * source - 0.05 * time.reshape(-1, 1, 1, 1)


@pytest.fixture(params=[BridgeVP(beta_min=0.1, beta_d=2.0), BridgeVE()], ids=["vp", "ve"])
def denoiser(request) -> NetworkDenoiser:
    return NetworkDenoiser(Linear(), DDBM(), request.param)


def _sources(n: int = 3) -> torch.Tensor:
    return random.normal(0, "test/sources", range(n), SHAPE).tanh()


def test_the_sample_is_the_data_estimate_at_the_end_point(denoiser) -> None:
    """There c_skip = 0, c_in = 1 / 0.5 and c_out = 0.5 for cov = 0 and sigma_data = 0.5, up to a = 1."""
    process, y = denoiser.process, _sources()
    sampler = Sampler("estimate", Estimate(), Explicit([process.t_max]))
    noise = KeyedNoise(0, range(3), SHAPE, torch.float64)
    found = sampler.sample(denoiser, noise, 1, Conditions(endpoint=y))
    told = float(denoiser.time_input(torch.tensor([process.t_max], dtype=torch.float64)))
    wanted = 0.5 * (0.3 * 2.0 * y + 0.1 * y - 0.05 * told)
    torch.testing.assert_close(found.images, wanted, rtol=1e-12, atol=1e-12)
    assert (found.nfe, denoiser.evaluations) == (1, 3)
    other = sampler.sample(denoiser, KeyedNoise(9, range(3), SHAPE, torch.float64), 1, Conditions(endpoint=y))
    assert torch.equal(other.images, found.images)  # no noise enters


def test_training_at_the_end_is_plain_regression_on_the_source(denoiser) -> None:
    """loss = mean (F - 2 x0)^2 = mean (x^ - x0)^2 / c_out^2."""
    process, y = denoiser.process, _sources(5)
    x0 = random.normal(0, "test/images", range(5), SHAPE).tanh()
    batch = {"image": x0, "endpoint": y, "position": torch.arange(5)}
    assert End().draw(process, 0, batch["position"]).tolist() == [process.t_max] * 5
    loss = Denoising(Plain(), End())(denoiser, batch, 0)
    sampler = Sampler("estimate", Estimate(), Explicit([process.t_max]))
    noise = KeyedNoise(0, range(5), SHAPE, torch.float64)
    estimate = sampler.sample(denoiser, noise, 1, Conditions(endpoint=y)).images
    assert float(loss) == pytest.approx(float((estimate - x0).square().mean()) / 0.25, rel=1e-10)


def test_more_than_one_evaluation_and_other_times_are_refused(denoiser) -> None:
    process = denoiser.process
    with pytest.raises(ConfigError, match="takes one evaluation, not 4"):
        Sampler("estimate", Estimate(), Uniform()).times(process, 4)
    with pytest.raises(ConfigError, match="nfe=2 is not reachable with sampler estimate: choose 1, the 1 steps"):
        Sampler("estimate", Estimate(), Explicit([process.t_max])).times(process, 2)
    with pytest.raises(ConfigError, match=f"looks at the end point, t = {process.t_max:g}, but the grid starts at 0.5"):
        Sampler("estimate", Estimate(), Explicit([0.5])).times(process, 1)
