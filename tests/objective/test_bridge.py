"""The denoising objective on bridges: end points, times, masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.objective.batch import conditions_of, data_and_noise
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Stratified, Uniform
from diffexp.objective.weighting import Constant, Plain
from diffexp.prediction.bridge import DDBM
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP

SHAPE = (2, 4, 4)


class Zero(nn.Module):
    """Says nothing, so that x^ = c_skip x_t."""

    def forward(self, u, time, labels=None):
        return torch.zeros_like(u[:, : SHAPE[0]])


def batch(n: int = 16, **more: Tensor) -> dict[str, Tensor]:
    position = torch.arange(n)
    image, end = (random.normal(seed, "test/batch", position, SHAPE) for seed in (1, 2))
    return {"image": image, "endpoint": end, "position": position, **more}


def expected(process, head, data: dict[str, Tensor], t: Tensor) -> Tensor:
    """The squared data error of a network that says nothing, (B, C, H, W)."""
    x0, noise = data_and_noise(process, data, 5)
    a, b, c = (number.reshape(-1, 1, 1, 1) for number in process.abc(t))
    skip = head.coefficients(process.marginal(t))[0].reshape(-1, 1, 1, 1)
    return (skip * (a * data["endpoint"] + b * x0 + c * noise) - x0).square()


@pytest.mark.parametrize("cov", [0.0, 0.1])
def test_the_plain_loss_weighs_the_data_error_with_c_out(cov):
    process, head, data = BridgeVP(), DDBM(cov=cov), batch()
    times = Uniform(None)
    t = times.draw(process, 5, data["position"])
    error = expected(process, head, data, t).flatten(1).mean(1)
    denoiser = NetworkDenoiser(Zero(), head, process)
    weighted = (error / head.coefficients(process.marginal(t))[2].square()).mean()
    torch.testing.assert_close(Denoising(Plain(), times)(denoiser, data, 5), weighted, rtol=1e-10, atol=0)
    torch.testing.assert_close(Denoising(Constant(), times)(denoiser, data, 5), error.mean(), rtol=1e-10, atol=0)


def test_errors_outside_the_mask_do_not_count_but_their_pixels_do():
    process, head = BridgeVP(), DDBM()
    mask = (random.uniform(0, "test/mask", range(16 * 16)) > 0.7).to(torch.float64).reshape(16, 1, 4, 4)
    data = batch(mask=mask)
    times = Uniform(None)
    t = times.draw(process, 5, data["position"])
    wanted = (expected(process, head, data, t) * mask).flatten(1).sum(1) / 32
    denoiser = NetworkDenoiser(Zero(), head, process)
    found = Denoising(Constant(), times, masked=True)(denoiser, data, 5)
    torch.testing.assert_close(found, wanted.mean(), rtol=1e-10, atol=0)
    without = {name: value for name, value in data.items() if name != "mask"}
    with pytest.raises(ConfigError, match=r"objective\.masked=true: the data set has no masks"):
        Denoising(Constant(), times, masked=True)(denoiser, without, 5)


def test_times_fill_the_bridge_from_its_epsilon_on():
    process, position = BridgeVE(20.0, 0.0005), torch.arange(4000)
    for law in (Uniform(None), Stratified(40, None)):
        law.check(process)
        t = law.draw(process, 0, position)
        assert 0.0005 <= float(t.min()) < 0.1
        assert 19.9 < float(t.max()) <= 20.0
        assert float(t.mean()) == pytest.approx(10.0, abs=0.3)


def test_the_loss_is_finite_at_both_ends():
    process, data = BridgeVP(), batch(2)
    denoiser = NetworkDenoiser(Zero(), DDBM(), process)
    x0, noise = data_and_noise(process, data, 5)
    t = torch.tensor([1e-4, 1.0], dtype=torch.float64)
    losses = Denoising(Plain(), Uniform(None)).losses(denoiser, x0, noise, t, conditions_of(data, 5))
    assert bool(torch.isfinite(losses).all())
    # At the end point x^ = 0 for cov = 0: the error is the data's own size, with weight 4.
    assert float(losses[1]) == pytest.approx(4.0 * float(x0[1].square().mean()), rel=1e-12)


def test_an_end_point_that_is_missing_is_named():
    data = batch(2)
    del data["endpoint"]
    with pytest.raises(ValueError, match=r"conditions\.endpoint"):
        Denoising(Plain(), Uniform(None))(NetworkDenoiser(Zero(), DDBM(), BridgeVP()), data, 5)


def test_conditions_of_a_batch():
    label, mask = torch.arange(16) % 3, torch.ones(16, 1, 4, 4)
    data = batch(label=label, mask=mask, condition=torch.zeros(16, *SHAPE))
    found = conditions_of(data, 5)
    assert found.given == {"labels", "endpoint", "image", "mask"}
    assert found.endpoint is data["endpoint"]
    assert torch.equal(found.labels, label)
    dropped = conditions_of(data, 5, 0.5).labels
    assert 3 <= int((dropped == -1).sum()) <= 13
    assert bool(((dropped == label) | (dropped == -1)).all())
    assert torch.equal(conditions_of(data, 5, 0.5).labels, dropped)
