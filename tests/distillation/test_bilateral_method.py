"""BDDM as a distillation: what is trained and what is not, its loss for teachers of every kind, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffexp.core import random
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.distillation.bilateral.method import Bilateral
from diffexp.distillation.bilateral.pair import pairs
from diffexp.distillation.bilateral.scheduled import Scheduled
from diffexp.network.schedule.convolutional import Small as Convolutions
from diffexp.network.schedule.spec import GALRSpec, SmallSpec, VGG11Spec
from diffexp.objective.denoising import Denoising
from diffexp.objective.distilled import Distilled
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, V
from diffexp.prediction.two_head import TwoHead
from diffexp.process.attenuation import Constant, Linear
from diffexp.process.blurring import Blurring
from diffexp.process.bridge_schedule import BridgeVP
from diffexp.process.cld import CLD
from diffexp.process.ddpm import DDPM
from diffexp.process.decoupled import Decoupled
from diffexp.process.vp import VP
from diffexp.training.ema import EMA, EMASettings
from tests.distillation.standin import Small, View

SHAPE, B = (1, 4, 4), 6
D = math.prod(SHAPE)


def batch() -> dict[str, torch.Tensor]:
    return {"image": 0.5 * random.normal(0, "test/x0", range(B), SHAPE), "position": torch.arange(B)}


def dressed(method: Bilateral, score: nn.Module, weights: str = "test/weights") -> Scheduled:
    with random.seeded(0, weights):
        return method.dressed(score, SHAPE).double()


def loss(method: Bilateral, score: nn.Module, head, process, reduce="sum"):
    """(the loss, its figures, the gradient of the schedule network)."""
    network = dressed(method, score)
    student = NetworkDenoiser(network, head, process)
    found = method.loss(student, None, Distilled(reduce=reduce), 10)
    assert found.figures() == {}
    value = found(student, batch(), 3)
    value.backward()
    return value.detach(), found.figures(), torch.cat([w.grad.flatten() for w in network.schedule.parameters()])


def test_only_the_schedule_network_is_trained_averaged_and_in_training_mode():
    network = Scheduled(Small(1, 1, dropout=0.5), Convolutions(1))
    network.train()
    assert not network.score.training
    assert network.schedule.training
    x, t = random.normal(0, "test/x", range(2), SHAPE).float(), torch.tensor([3.0])
    assert torch.equal(network(x, t, None), network(x, t, None))  # no dropout, though it has one
    assert torch.equal(network(x, t, None), network.score.eval()(x, t))
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert trained == {f"schedule.{name}" for name, _ in network.schedule.named_parameters()}
    assert set(EMA(network, EMASettings([0.9])).state_dict()["profiles"]["decay_0.9"]) == trained
    assert set(network.state_dict()) == trained | {f"score.{name}" for name in network.score.state_dict()}
    assert not network.eval().schedule.training


def test_it_starts_with_the_teachers_weights_and_its_own():
    method, teacher = Bilateral(SmallSpec(), 10), Small(1, 1, seed=7)
    network = method.dressed(Small(1, 1), SHAPE)
    before = {name: value.clone() for name, value in network.schedule.state_dict().items()}
    method.start(network, teacher)
    for name, value in network.score.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name])
    assert all(torch.equal(value, before[name]) for name, value in network.schedule.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit Small"):
        method.start(network, Small(1, 2))


@pytest.mark.parametrize(
    ("process", "time", "scale"), [(DDPM(200), "index", 1.0), (VP(), "999t", 999.0)], ids=["ddpm", "vp"]
)
def test_every_view_of_one_model_trains_alike(process, time, scale):
    heads, found = {"eps": Eps, "x0": X0, "v": V, "both": Both}, {}
    for kind, head in heads.items():
        found[kind] = loss(Bilateral(SmallSpec(), 10, times=200), View(process, kind, scale), head(time), process)
    assert float(found["eps"][2].abs().max()) > 1e-3
    for kind in heads:
        value, figures, gradient = found[kind]
        torch.testing.assert_close(value, found["eps"][0], rtol=1e-9, atol=0.0)
        torch.testing.assert_close(gradient, found["eps"][2], rtol=1e-6, atol=1e-9)
        assert float(figures["kl"]) == pytest.approx(float(found["eps"][1]["kl"]), rel=1e-9)


def test_two_heads_train_as_one():
    """On u = (1 - t) x0 + sqrt(t) e: the attenuation's and the noise's head, or the data's alone."""
    process, method = Decoupled(Constant()), Bilateral(SmallSpec(), 20, times=200)
    two = loss(method, View(process, "ddm"), TwoHead("none", "t"), process)
    one = loss(method, View(process, "x0"), X0("t"), process)
    torch.testing.assert_close(two[0], one[0], rtol=1e-9, atol=0.0)
    torch.testing.assert_close(two[2], one[2], rtol=1e-6, atol=1e-9)


def test_the_figures_are_those_of_the_batch():
    """KL - L = (D / 2 - D log_coef) log(delta / b) for each sample: where nothing is bounded, b = sigma delta."""
    process = DDPM(200)
    for tau, log_coef in ((66, 0.25), (66, 0.4), (20, 0.25)):
        method = Bilateral(SmallSpec(), tau, log_coef)
        value, figures, _ = loss(method, View(process, "eps", 1.0), Eps("index"), process)
        levels = pairs(process, tau, random.uniform(3, "train/time", range(B)))
        limits = levels.limit
        assert float(figures["bounded"]) == float((limits < 1.0).double().mean())
        assert (float(figures["bounded"]) > 0.5) == (tau == 20)
        # The first network says nearly the same of every sample, so that the mean of the logarithms is that of sigma.
        ratio = float(figures["sigma"])
        assert 0.4 < ratio < 0.6
        gap = D * (0.5 - log_coef) * float(-(ratio * limits).log().mean())
        assert float(figures["kl"] - value) == pytest.approx(gap, rel=1e-3)
        assert not any(figure.requires_grad for figure in figures.values())
        mean = loss(method, View(process, "eps", 1.0), Eps("index"), process, "mean")
        assert float(mean[0]) == pytest.approx(float(value) / D, rel=1e-12)
        assert float(mean[1]["kl"]) == float(figures["kl"])


@pytest.mark.parametrize(
    ("process", "head", "reason"),
    [
        (CLD(), Eps(), "process cld has more than one number for each noise level: choose a teacher on"),
        (BridgeVP(), Eps(), "process bridge_vp starts from an image, not from noise: choose a teacher on"),
        (Blurring(VP(), 3.0, 0.001).on(SHAPE), Eps(), "process blurring has more than one number"),
        (Decoupled(Linear()), TwoHead(), "process ddm_linear draws a second image with its data"),
        (VP(), Consistency(Eps(), 0.01), "prediction=consistency tells no noise at every level: choose a teacher"),
    ],
    ids=["cld", "bridge", "blurring", "drawn", "consistency"],
)
def test_teachers_without_a_noise_level_are_refused(process, head, reason):
    with pytest.raises(ConfigError, match=f"distillation=bilateral: {reason}"):
        Bilateral(SmallSpec(), 10).check(head, process, Distilled())


def test_what_else_is_refused():
    method = Bilateral(SmallSpec(), 100)
    with pytest.raises(ConfigError, match=r"distillation.tau=100: must lie between 1 and 99, as T = 200"):
        method.check(Eps("index"), DDPM(200), Distilled())
    method.check(Eps("index"), DDPM(1000), Distilled())
    with pytest.raises(ConfigError, match="add objective=distilled"):
        method.check(Eps("index"), DDPM(1000), Denoising(Plain(), Uniform()))
    with pytest.raises(ConfigError, match=r"distillation\.log_coef=0\.0: must be > 0"):
        Bilateral(SmallSpec(), 10, log_coef=0.0)
    with pytest.raises(ConfigError, match=r"distillation\.times=2: must be at least 3"):
        Bilateral(SmallSpec(), 1, times=2)
    trained = {"distillation": {"_target_": "diffexp.distillation.bilateral.method.Bilateral"}, "teacher": "runs/x"}
    with pytest.raises(CheckpointError, match="has a schedule network already; its own teacher is runs/x"):
        method.check_teacher(trained, "here")
    method.check_teacher({"distillation": None}, "here")


def test_schedule_networks_fit_their_data():
    x = random.normal(0, "test/x", range(2), (3, 8, 8)).float()
    for spec in (VGG11Spec(), SmallSpec((4, 8))):
        assert spec.build((3, 8, 8))(x).shape == (2,)
    assert SmallSpec((4, 8)).build((2, 64))(x.reshape(2, 2, -1)[..., :64]).shape == (2,)
    assert GALRSpec(dim=8, hidden=4).build((1, 192))(x.reshape(2, 1, -1)).shape == (2,)
    with pytest.raises(ConfigError, match=r"GALR reads waveforms \(1, L\), these samples are \(3, 8, 8\): use"):
        GALRSpec().build((3, 8, 8))
    with pytest.raises(ConfigError, match=r"VGG11 reads images, not \(1, 64\): use small"):
        VGG11Spec().build((1, 64))
