"""The objective of two heads: what it draws, what it refuses, its mask, and its learned distance.

Its weights, reductions and pairings are compared with official numbers in tests/parity/test_ddm_losses.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.distillation.metric import L2
from diffexp.network.lpips import LPIPS
from diffexp.objective.decoupled import DecoupledDenoising
from diffexp.objective.denoising import Denoising
from diffexp.objective.reconstruction import Reconstruction
from diffexp.objective.times import Discrete, End, Stratified, Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps
from diffexp.prediction.two_head import SingleHead, TwoHead
from diffexp.process.attenuation import Attenuation, Constant, Linear, Quadratic
from diffexp.process.decoupled import Decoupled
from diffexp.process.vp import VP

SHAPE = (2, 4, 4)
TIMES = Uniform(1.0e-2)


def images(stream: str, n: int = 6) -> Tensor:
    return random.normal(0, f"test/{stream}", range(n), SHAPE).tanh()


class Affine(nn.Module):
    """Another number times the state, plus another one, for each output channel."""

    def __init__(self, out: int) -> None:
        super().__init__()
        numbers = torch.linspace(-0.6, 0.7, 2 * out, dtype=torch.float64).reshape(2, out, 1, 1)
        self.gain, self.shift = nn.Parameter(numbers[0].clone()), nn.Parameter(numbers[1].clone())

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.gain * u[:, :1] + self.shift


def denoiser_of(attenuation: Attenuation, head: TwoHead | SingleHead) -> NetworkDenoiser:
    process = Decoupled(attenuation)
    made = head.on(process)
    return NetworkDenoiser(Affine(made.out_channels(SHAPE[0])), made, process)


@pytest.mark.parametrize("head", [TwoHead(), SingleHead()], ids=lambda head: head.name)
@pytest.mark.parametrize("attenuation", [Constant(), Linear(), Quadratic()], ids=lambda made: made.name)
def test_the_loss_of_a_batch_is_that_of_what_was_drawn_for_its_positions(attenuation, head):
    """All three terms from their definitions, with the time, the noise and the drawn image of each position."""
    net, objective = denoiser_of(attenuation, head), DecoupledDenoising(TIMES, reconstruction=Reconstruction())
    objective.check(net.head, net.process)
    batch = {"image": images("image"), "position": torch.tensor([3, 0, 11, 7, 20, 1])}
    loss = objective(net, batch, seed=5)
    loss.backward()
    assert all(bool((parameter.grad != 0.0).any()) for parameter in net.network.parameters())

    t = TIMES.draw(net.process, 5, batch["position"])
    x0, noise = batch["image"], random.normal(5, "train/noise", batch["position"], SHAPE)
    drawn = random.normal(5, "train/attenuation", batch["position"], SHAPE).clamp(-1.0, 1.0)
    phi = {
        "const": lambda: -x0,
        "linear": lambda: torch.cat([drawn, -x0 - 0.5 * drawn], dim=1),
        "quadratic": lambda: -2.0 * x0,
    }[attenuation.name]()
    time = t.reshape(-1, 1, 1, 1)
    u = x0 + attenuation.H(t, phi) + time.sqrt() * noise
    law = net.process.marginal(t)
    output = net.output(net.input_scale(t).apply(u), net.time_input(t))
    said, own = net.head.heads(law, output, u)
    expected = (said - phi).square().flatten(1).mean(1) / t
    expected = expected + (own - noise).square().flatten(1).mean(1) / (1.0 - t + 1.0e-2)
    found = u - attenuation.H(t, said) - time.sqrt() * own
    expected = expected + (1.0 - t).square() * (found - x0).abs().flatten(1).mean(1)
    assert float(loss.detach()) == pytest.approx(float(expected.detach().mean()), rel=1e-12)


def test_every_image_has_the_loss_of_its_position_in_any_batch():
    """What two processes need to average the gradients of one loss; the official pairing is another for each batch."""
    net = denoiser_of(Linear(), TwoHead())
    batch = {"image": images("image"), "position": torch.arange(6)}
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, 6))]
    for pairing, same in (("per_sample", True), ("official", False)):
        objective = DecoupledDenoising(TIMES, reconstruction=Reconstruction(), pairing=pairing)
        whole, parts = objective(net, batch, 0), sum(objective(net, half, 0) for half in halves) / 2.0
        assert (abs(float((whole - parts).detach())) < 1e-13 * abs(float(whole.detach()))) is same


def test_the_image_head_alone_says_what_it_has_taken_away():
    """-H_1(phi) is the image for every attenuation, whatever the noise head says."""
    x0, drawn, t = images("image"), images("drawn"), torch.full((6,), 0.3, dtype=torch.float64)
    for attenuation in (Constant(), Linear(), Quadratic()):
        phi = attenuation.parameters(x0, drawn)
        found = Reconstruction("image_head").image(attenuation, torch.zeros_like(x0), t, phi)
        torch.testing.assert_close(found, x0, rtol=0, atol=1e-15)


def test_errors_outside_the_mask_do_not_count():
    net, mask = denoiser_of(Constant(), TwoHead()), torch.zeros(6, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1.0
    objective = DecoupledDenoising(TIMES, reconstruction=Reconstruction(perceptual=L2()), masked=True, l1="mean")
    x0, noise, t = images("image"), images("noise"), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    terms = objective.terms(net, x0, noise, t, Conditions(mask=mask))
    other = (1.0 - mask) * images("other")
    moved = objective.terms(net, x0 + other, noise + other, t, Conditions(mask=mask))
    for name in ("heads", "reconstruction"):
        torch.testing.assert_close(getattr(moved, name), getattr(terms, name), rtol=1e-13, atol=0)
    whole = objective.terms(net, x0, noise, t, Conditions(mask=torch.ones_like(mask)))
    assert bool((whole.heads > terms.heads).all())
    with pytest.raises(ConfigError, match=r"objective.masked=true: the data set has no masks"):
        objective.terms(net, x0, noise, t)


def test_without_reconstruction_the_heads_are_all():
    net = denoiser_of(Constant(), TwoHead())
    objective = DecoupledDenoising(TIMES, reduce="sum", l1="sum", weights="none")
    x0, noise, t = images("image"), images("noise"), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    terms = objective.terms(net, x0, noise, t)
    law = net.process.marginal(t)
    u = law.perturb(x0, noise)
    phi, own = net.head.heads(law, net.output(net.input_scale(t).apply(u), net.time_input(t)), u)
    errors = torch.cat([phi + x0, own - noise], dim=1).flatten(1)
    torch.testing.assert_close(objective.total(terms), 0.5 * (errors.square() + errors.abs()).sum(1).mean())
    assert objective.networks() == []


@pytest.mark.parametrize(
    ("weights", "time_weight"),
    [("v1", "square"), ("v2c", "linear"), ("v2t", "square"), ("de", "linear"), ("none", "log")],
)
def test_times_at_which_a_weight_is_infinite_are_refused(weights, time_weight):
    head, process = TwoHead(), Decoupled(Constant())
    made = [
        DecoupledDenoising(times, weights, reconstruction=Reconstruction(time_weight=time_weight))
        for times in (Uniform(0.0), Uniform(1.0e-4))
    ]
    with pytest.raises(ConfigError, match=r"objective.times: starts at t=0, where a weight is infinite: use .*t_min"):
        made[0].check(head, process)
    made[1].check(head, process)
    DecoupledDenoising(Uniform(0.0), "none").check(head, process)


def test_other_predictions_and_empty_reconstructions_are_refused():
    objective = DecoupledDenoising(TIMES)
    for head in (Eps(), X0()):
        with pytest.raises(ConfigError, match=rf"compares the heads of prediction=ddm, which {head.name} does not"):
            objective.check(head, Decoupled(Constant()))
        with pytest.raises(ConfigError, match="compares the heads"):
            objective.check(head, VP())
    with pytest.raises(ConfigError, match=r"objective.reconstruction: compares nothing"):
        Reconstruction(mae=None)
    with pytest.raises(ConfigError, match=r"objective.label_dropout=1.0"):
        DecoupledDenoising(TIMES, label_dropout=1.0)


@pytest.mark.parametrize("head", [Eps(), X0()], ids=lambda head: head.name)
def test_heads_of_other_families_train_on_the_same_process(head):
    process = Decoupled(Constant(), t_prior=0.999)
    net = NetworkDenoiser(Affine(SHAPE[0]), head, process)
    objective = Denoising(Plain(), TIMES)
    objective.check(head, process)
    loss = objective(net, {"image": images("image"), "position": torch.arange(6)}, 0)
    loss.backward()
    assert all(bool((parameter.grad != 0.0).any()) for parameter in net.network.parameters())


def test_a_learned_distance_is_read_before_a_training_and_may_be_another(tmp_path):
    objective = DecoupledDenoising(TIMES, reconstruction=Reconstruction(perceptual=LPIPS(str(tmp_path / "none.pth"))))
    with pytest.raises(
        ConfigError,
        match=r"^objective.reconstruction.perceptual: no VGG-16 weights at .*none.pth: .* with "
        r"objective.reconstruction.perceptual.weights=, or use an objective without one \(ddm_v1, ddm_v2\)$",
    ):
        objective.prepare((3, 64, 64))
    frozen = nn.Conv2d(2, 2, 1)

    class Other(L2):
        def networks(self) -> list[nn.Module]:
            return [frozen]

    objective = DecoupledDenoising(TIMES, reconstruction=Reconstruction(mae=None, perceptual=Other()))
    objective.prepare(SHAPE)
    assert objective.networks() == [frozen]
    a, b = images("a"), images("b")
    torch.testing.assert_close(objective.reconstruction.losses(a, b), (a - b).square().flatten(1).mean(1))


def test_a_law_of_times_says_where_it_starts():
    process = Decoupled(Constant())
    assert Uniform(None).start(process) == 0.0
    assert Stratified(4, 0.1).start(process) == 0.1
    assert Discrete(10).start(process) == 0.1
    assert End().start(process) == 1.0
