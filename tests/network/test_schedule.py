"""Schedule networks: one ratio for each sample, whatever its rank, its size and its neighbours; DiffWave's size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.network.diffwave import DiffWave
from diffexp.network.schedule.base import ScheduleNetwork
from diffexp.network.schedule.convolutional import VGG11, Small
from diffexp.network.schedule.galr import GALR

SMALL_GALR = {"dim": 16, "hidden": 8, "segment": 8, "low_dim": 4, "heads": 4}
CASES = {
    "vgg11": (lambda: VGG11(3), (3, 32, 32)),
    "vgg11, 28 pixels": (lambda: VGG11(1), (1, 28, 28)),
    "small, 1 axis": (lambda: Small(1, dimensions=1), (1, 50)),
    "small, 2 axes": (lambda: Small(2), (2, 8, 12)),
    "small, 3 axes": (lambda: Small(1, (4, 8), dimensions=3), (1, 5, 6, 7)),
    "galr": (lambda: GALR(**SMALL_GALR), (1, 101)),
    "galr, 2 blocks": (lambda: GALR(blocks=2, **SMALL_GALR), (1, 64)),
}


def made(name: str) -> tuple[ScheduleNetwork, Tensor]:
    """The network with weights of one seed, and three noisy samples for it."""
    make, shape = CASES[name]
    with random.seeded(0, "weights"):
        network = make().eval()
    return network, random.normal(1, "samples", range(3), shape).float()


def weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_ratio_is_a_sigmoid_of_the_logit_and_belongs_to_its_sample(name):
    network, x = made(name)
    logit, ratio = network(x), network.ratio(x)
    assert (logit.shape, logit.dtype, ratio.shape, ratio.dtype) == ((3,), torch.float32, (3,), torch.float64)
    assert torch.equal(ratio, 1.0 / (1.0 + torch.exp(-logit.double())))
    assert len(set(ratio.tolist())) == 3  # it sees the sample
    alone = torch.cat([network.ratio(x[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(alone, ratio, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(network.ratio(x.double()), ratio, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_autocast_changes_nothing(name):
    network, x = made(name)
    wanted = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x), wanted)


@torch.no_grad()
def test_a_ratio_near_one_does_not_reach_it():
    network = Small(1)
    nn.init.constant_(network.out.bias, 20.0)
    nn.init.zeros_(network.out.weight)
    ratio = network.ratio(torch.zeros(1, 1, 8, 8))
    assert 0.0 < 1.0 - float(ratio) < 1e-8  # a float32 sigmoid is 1 here


def test_ratios_of_new_convolutional_networks_start_in_the_middle():
    for name in ("vgg11", "small, 2 axes"):
        network, x = made(name)
        assert (network.ratio(x) - 0.5).abs().max() < 0.1


def test_gradients_reach_every_weight():
    for name in CASES:
        network, x = made(name)
        network(x).sum().backward()
        idle = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert idle == [], name


def test_sizes_are_those_of_the_released_networks():
    """BDDM's specification: GALR with one and two blocks, DiffWave with 128 channels; VGG11 without its classifier."""
    assert (weights(GALR()), weights(GALR(blocks=2))) == (383_050, 748_562)
    assert weights(DiffWave()) == 6_914_297
    assert weights(VGG11(3)) == 9_220_480 + 513


def test_waveforms_may_come_without_their_channel_and_end_anywhere():
    network, _ = made("galr")
    for length in (1, 3, 4, 5, 63):
        x = random.normal(2, "samples", range(2), (1, length)).float()
        assert torch.equal(network(x), network(x[:, 0]))


def test_diffwave_says_nothing_at_first_and_needs_enough_frames():
    network = DiffWave(residual=4, skip=4, layers=2, cycle=2, embedding=(4, 4, 4), mels=3)
    x, mel = torch.ones(2, 1, 500), torch.ones(2, 3, 2)
    assert not network(x, torch.tensor([0.5, 3.0]), mel).any()
    with pytest.raises(ValueError, match="1 frames are too few for 500 samples"):
        network(x, torch.tensor([0.5, 3.0]), mel[..., :1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VGG11(0), "channels=0"),
        (lambda: Small(1, ()), r"widths=\[\]"),
        (lambda: Small(1, dimensions=4), "must be 1, 2 or 3"),
        (lambda: GALR(window=7), "window=7"),
        (lambda: GALR(dim=20), "multiple of heads=8"),
        (lambda: DiffWave(embedding=(3, 4, 4)), "must be even"),
    ],
)
def test_options_that_make_no_network_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
