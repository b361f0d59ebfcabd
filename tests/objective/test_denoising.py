"""The denoising objective: weights, keyed draws, and the exact minimum on Gaussian data."""

from __future__ import annotations

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.objective.denoising import Denoising
from diffexp.objective.weighting import SNR, Constant, Plain, SNRPlusOne, TruncatedSNR
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps, V
from diffexp.process.cosine import Cosine
from diffexp.process.vp import VP


class Zero(torch.nn.Module):
    def forward(self, x, time, labels=None):
        return torch.zeros_like(x)


def batch(n: int = 64, first: int = 0) -> dict[str, torch.Tensor]:
    position = torch.arange(first, first + n)
    return {"image": random.normal(9, "data", position, (1, 4, 4)), "position": position}


def loss(head, weighting, process, data, network=None, t_min=0.05):
    return Denoising(weighting, t_min)(NetworkDenoiser(network or Zero(), head, process), data, seed=5)


@pytest.mark.parametrize("weighting", [Constant(), SNR(), TruncatedSNR(), SNRPlusOne()], ids=lambda w: w.name)
def test_one_weighting_gives_one_loss_whatever_the_network_predicts(weighting):
    """A network that knows nothing (x^ = 0) in each of the three parameterisations."""

    class NoData(torch.nn.Module):
        """Outputs the head's value for x^ = 0: eps = u / sigma, v = u alpha / sigma."""

        def __init__(self, kind, process):
            super().__init__()
            self.kind, self.process = kind, process

        def forward(self, x, time, labels=None):
            t = time.double() / 999.0
            alpha, sigma = (op(t).value.reshape(-1, 1, 1, 1) for op in (self.process.signal, self.process.factor))
            return {"x0": 0.0 * x, "eps": x / sigma, "v": x * alpha / sigma}[self.kind]

    process, data = Cosine(), batch()
    losses = [float(loss(h, weighting, process, data, NoData(h.name, process))) for h in (X0(), Eps(), V())]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)  # the network sees times in float32
    t = Denoising(weighting, 0.05).times(process, 5, data["position"])
    expected = (weighting.data_weight(process.log_snr(t)) * data["image"].square().flatten(1).mean(1)).mean()
    assert losses[0] == pytest.approx(float(expected), rel=1e-12)


def test_weights_are_the_papers_functions_of_snr():
    log_snr = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    snr = log_snr.exp()
    assert Constant().data_weight(log_snr).tolist() == [1.0] * 3
    assert SNR().data_weight(log_snr).tolist() == snr.tolist()
    assert TruncatedSNR().data_weight(log_snr).tolist() == [1.0, 1.0, float(snr[2])]
    assert SNRPlusOne().data_weight(log_snr).tolist() == (1 + snr).tolist()


def test_plain_loss_of_a_silent_eps_network_is_the_noise_it_was_given():
    data = batch()
    noise = random.normal(5, "train/noise", data["position"], (1, 4, 4))
    assert float(loss(Eps(), Plain(), VP(), data)) == pytest.approx(float(noise.square().mean()), rel=1e-12)


def test_draws_belong_to_the_position_not_to_the_batch():
    whole = float(loss(V(), Plain(), VP(), batch(64)))
    parts = [float(loss(V(), Plain(), VP(), batch(16, first))) for first in range(0, 64, 16)]
    assert sum(parts) / 4 == pytest.approx(whole, rel=1e-12)
    assert len(set(parts)) == 4


def test_times_fill_their_interval_uniformly():
    t = Denoising(Plain(), 0.2).times(VP(), 1, torch.arange(4000))
    assert float(t.min()) >= 0.2
    assert float(t.max()) <= 1.0
    assert float(t.mean()) == pytest.approx(0.6, abs=4 * 0.8 / (12 * 4000) ** 0.5)


def test_impossible_times_are_refused():
    with pytest.raises(ConfigError, match="t_min=-1"):
        Denoising(Plain(), -1.0)
    with pytest.raises(ConfigError, match="below the time of the prior"):
        Denoising(Plain(), 1.0).check(VP())
