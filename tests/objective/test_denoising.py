"""The denoising objective: weights, keyed draws, and the exact minimum on Gaussian data."""

from __future__ import annotations

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Discrete, Stratified, Uniform
from diffexp.objective.weighting import SNR, Constant, Diffusion, Likelihood, Plain, SNRPlusOne, TruncatedSNR
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
    return Denoising(weighting, Uniform(t_min))(NetworkDenoiser(network or Zero(), head, process), data, seed=5)


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
    t = Uniform(0.05).draw(process, 5, data["position"])
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
    t = Uniform(0.2).draw(VP(), 1, torch.arange(4000))
    assert float(t.min()) >= 0.2
    assert float(t.max()) <= 1.0
    assert float(t.mean()) == pytest.approx(0.6, abs=4 * 0.8 / (12 * 4000) ** 0.5)


def test_impossible_times_are_refused():
    for t_min in (-1.0, 1.0):
        with pytest.raises(ConfigError, match=rf"t_min={t_min}: must lie in \[0.0, 1.0\)"):
            Denoising(Plain(), Uniform(t_min)).check(Eps(), VP())
    with pytest.raises(ConfigError, match="process vp has no table"):
        Denoising(Plain(), Discrete()).check(Eps(), VP())
    with pytest.raises(ConfigError, match="strata=0"):
        Stratified(0)


def test_stratified_times_have_one_in_every_interval_and_belong_to_their_image():
    law = Stratified(16, t_min=0.2)
    t = law.draw(VP(), 3, torch.arange(32, 48))
    assert ((t - 0.2) / 0.8 * 16).floor().tolist() == list(range(16))
    assert law.draw(VP(), 3, torch.arange(40, 48)).tolist() == t[8:].tolist()
    many = law.draw(VP(), 3, torch.arange(16000)).reshape(-1, 16).mean(1)
    # variance of the mean: (width / strata)^2 / 12 / strata, against width^2 / 12 / strata for independent times
    assert float(many.var()) == pytest.approx((0.8 / 16) ** 2 / 12 / 16, rel=0.2)


def test_discrete_times_are_those_of_an_n_step_sampler():
    law = Discrete(4)
    t = law.draw(Cosine(), 3, torch.arange(4000))
    assert sorted(set(t.tolist())) == [0.25, 0.5, 0.75, 1.0]
    counts = torch.bincount((4 * t).long())[1:]
    assert float((counts - 1000).abs().max()) < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_likelihood_and_diffusion_weights_are_those_of_the_score_error():
    """lambda |s_theta - s|^2 with lambda = G^2 / 2, s = -e / sigma; and the same times sigma^2."""
    process, t = VP(), torch.tensor([0.1, 0.6], dtype=torch.float64)
    beta, sigma = 0.1 + 19.9 * t, process.factor(t).value
    for head, factor in ((Eps(), 1.0), (X0(), process.log_snr(t).exp())):
        assert Diffusion().weight(head, process, t).tolist() == pytest.approx((0.5 * beta * factor).tolist())
        expected = 0.5 * beta * factor / sigma**2
        assert Likelihood().weight(head, process, t).tolist() == pytest.approx(expected.tolist())


def test_the_sum_over_pixels_is_the_mean_times_their_number():
    process, data = VP(), batch()
    denoiser = NetworkDenoiser(Zero(), Eps(), process)
    values = [Denoising(Plain(), Uniform(0.05), reduce=how)(denoiser, data, seed=5) for how in ("mean", "sum")]
    assert float(values[1]) == pytest.approx(16 * float(values[0]), rel=1e-12)


def test_labels_are_dropped_at_the_stated_rate_by_position():
    seen = []

    class Recorder(Zero):
        def forward(self, x, time, labels=None):
            seen.append(labels)
            return super().forward(x, time)

    data = {**batch(2000), "label": torch.arange(2000) % 10}
    denoiser = NetworkDenoiser(Recorder(), Eps(), VP())
    objective = Denoising(Plain(), Uniform(0.05), label_dropout=0.2)
    objective(denoiser, data, seed=5)
    objective(denoiser, {key: value[500:] for key, value in data.items()}, seed=5)
    dropped = seen[0] == -1
    assert float(dropped.double().mean()) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 2000) ** 0.5)
    assert torch.equal(seen[0][~dropped], data["label"][~dropped])
    assert torch.equal(seen[1], seen[0][500:])
