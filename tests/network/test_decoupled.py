"""The network of decoupled diffusion: counted sizes, the gate in closed form, heads that do not meet, augmentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.random import seeded
from diffexp.network.decouple import Branch, SpatialGate
from diffexp.network.decoupled import DecoupledSpec
from diffexp.network.decoupled_unet import DecoupledUNet
from diffexp.network.spec import UNetSpec

CONF = Path(__file__).parents[2] / "conf" / "network"
SMALL = {
    "channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_dim": 12, "embedding": "timestep",
    "min_group_size": 4, "initialisation": "pytorch", "augment_dim": 3,
}  # fmt: skip
CELEBA = {"channels": 96, "multipliers": [1, 2, 3, 4], "attention": [32, 16], "augment_dim": None}
CELEBA_T = {"channels": 128, "attention": [16, 8], "augment_dim": None, "decoders": 1}


def options(name: str) -> dict:
    """What a file says, with the one that it starts from; the order is that of Hydra."""
    found = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    base = {key: value for other in found.pop("defaults", []) for key, value in options(other).items()}
    found.pop("_target_", None)
    return {**base, **found}


def parameters(spec: DecoupledSpec, *sizes: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in spec.build(*sizes).parameters())


@pytest.mark.parametrize(
    ("name", "changes", "sizes", "count"),
    [
        ("ddm_cifar10", {}, (3, 6, 32), 216_141_136),
        ("ddm_cifar10", {}, (3, 9, 32), 216_146_323),  # two parameters of the image: the linear attenuation
        ("ddm_cifar10_single", {}, (3, 3, 32), 129_704_072),
        ("ddm_t_cifar10", {}, (3, 3, 32), 90_095_048),
        ("ddm_cifar10", CELEBA, (3, 6, 64), 121_053_232),
        ("ddm_cifar10", {**CELEBA, "decoders": 1}, (3, 3, 64), 71_029_832),
        ("ddm_cifar10", CELEBA_T, (3, 3, 64), 57_681_544),
    ],
)
def test_the_networks_have_the_sizes_counted_on_the_official_code(name, changes, sizes, count):
    """Section 5.1 of the specification."""
    assert parameters(DecoupledSpec(**{**options(name), **changes}), *sizes) == count


def test_one_small_decoder_is_as_large_as_the_small_network():
    """So that a comparison of predictions at quick scale can be one of equal parameters."""
    single = parameters(DecoupledSpec(**{**options("small_decoupled"), "decoders": 1}), 1, 1, 8)
    with torch.device("meta"):
        plain = sum(p.numel() for p in UNetSpec(**options("small_image")).build(1, 1, 8).parameters())
    assert single == pytest.approx(plain, rel=0.05)


def fresh(**changes: object) -> DecoupledUNet:
    with seeded(0, "test"):
        return DecoupledSpec(**{**SMALL, **changes}).build(2, 5, 8)


def randomised(**changes: object) -> DecoupledUNet:
    """A network without zeros, so that every path matters; float64."""
    network = fresh(**changes)
    with seeded(1, "test"), torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.double().eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 2, 8, 8, generator=generator, dtype=torch.float64)
    time = torch.linspace(0.01, 1.0, batch, dtype=torch.float64).log()
    return x, time, torch.randn(batch, 3, generator=generator, dtype=torch.float64)


def test_the_gate_is_the_attention_of_one_channel():
    x = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gate = SpatialGate(4).double()
    with torch.no_grad():
        found = gate(x)
        a = torch.einsum("c,nchw->nhw", gate.map.weight[0, :, 0, 0], x) + gate.map.bias
        query, key = (layer.weight.item() * a + layer.bias.item() for layer in (gate.query, gate.key))
        for image in range(2):
            for place, q in enumerate(query[image].flatten()):
                share = (q * key[image].flatten()).exp()
                mixed = (share * a[image].flatten()).sum() / share.sum()
                wanted = x[image].flatten(1)[:, place] * mixed / (1.0 + mixed.abs())
                torch.testing.assert_close(found[image].flatten(1)[:, place], wanted, rtol=1e-12, atol=1e-12)


def test_a_branch_adds_the_gated_convolution():
    branch, h = Branch(4).double(), torch.ones(1, 4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(branch(h) - h, branch.gate(branch.conv(h)))
        branch.gate.map.weight.zero_()
        branch.gate.map.bias.fill_(3.0)  # the same number everywhere: softsign(3) = 0.75
        torch.testing.assert_close(branch(h) - h, 0.75 * branch.conv(h))


def test_the_image_comes_first_and_each_head_has_its_own_decoder():
    network, (x, time, _) = randomised(), inputs()
    before = network(x, time)
    assert before.shape == (3, 5, 8, 8)
    with torch.no_grad():
        network.decoders[1].middle1.conv1.weight.add_(0.1)
    moved = (network(x, time) - before).abs().amax((0, 2, 3))
    assert moved[:3].max() == 0.0
    assert moved[3:].min() > 1e-3
    network.zero_grad()
    network(x, time)[:, :3].square().sum().backward()
    assert not any(bool(p.grad.any()) for p in network.decoders[1].parameters())
    assert network.conv_in.weight.grad.abs().max() > 0.0


def test_one_decoder_gives_all_channels():
    network = randomised(decoders=1)
    assert [decoder.conv_out.out_channels for decoder in network.decoders] == [5]
    assert DecoupledSpec(**{**SMALL, "decoders": 1}).build(2, 2, 8).out_channels == 2


def test_every_parameter_learns_and_the_first_output_has_full_size():
    network, (x, time, augment) = fresh().double(), inputs(5)
    assert not bool(network.embedding.augment.weight.any())
    for decoder in network.decoders:
        fan_in = decoder.conv_out.weight[0].numel()
        assert decoder.conv_out.weight.abs().max().item() <= (3.0 / fan_in) ** 0.5
        assert decoder.conv_out.weight.var().item() * fan_in == pytest.approx(1.0, rel=0.2)  # of 288 draws
    assert network(x, time).std().item() > 0.1
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):  # the zeros open from the output inwards
        optimizer.zero_grad()
        (network(x, time, None, augment) - x.repeat(1, 3, 1, 1)[:, :5]).square().mean().backward()
        optimizer.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12]
    # What a key's bias adds is the same for all positions, and a softmax does not see it.
    assert dead == [f"decoders.{number}.branch.gate.key.bias" for number in (0, 1)]


@pytest.mark.parametrize("spec", [DecoupledSpec(**SMALL), UNetSpec(**{**SMALL, "head_dim": 16})])
def test_augmentation_changes_its_own_image_and_nothing_said_is_zeros(spec):
    x, time, augment = inputs()
    with seeded(1, "test"), torch.no_grad():
        network = spec.build(2, 5, 8).double().eval()
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain = network(x, time)
    assert torch.equal(plain, network(x, time, None, torch.zeros_like(augment)))
    augment[1] = 0.0
    moved = (network(x, time, None, augment) - plain).abs().amax((1, 2, 3))
    assert moved[1] == 0.0
    assert moved[[0, 2]].min() > 1e-3
    network.zero_grad()
    network(x, time).sum().backward()
    assert not bool(network.embedding.augment.weight.grad.any())  # there, and zero: ranks can average it


def test_images_of_a_batch_do_not_meet_and_share_a_time():
    network, (x, time, augment) = randomised(), inputs()
    alone = [network(x[i : i + 1], time[i : i + 1], None, augment[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(network(x, time, None, augment), torch.cat(alone), rtol=1e-10, atol=1e-12)
    each, shared = network(x, time[:1].expand(3)), network(x, time[:1])
    torch.testing.assert_close(each, shared, rtol=1e-10, atol=1e-12)


def test_lower_precision_and_other_layouts_stay_near():
    network, (x, time, augment) = randomised(), inputs()
    exact = network(x, time, None, augment)
    last = network.to(memory_format=torch.channels_last)(
        x.contiguous(memory_format=torch.channels_last), time, None, augment
    )
    torch.testing.assert_close(last, exact, rtol=1e-10, atol=1e-12)
    network = network.float()
    single = network(x.float(), time.float(), None, augment.float())
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(x.float(), time.float(), None, augment.float())
    assert half.dtype == torch.float32
    # bfloat16 has 8 bits, 4e-3 relative, and a dozen layers add up.
    assert (half - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"decoders": 3}, r"decoders=3: there is one decoder \(1\), or one for each head \(2\)"),
        ({"progressive_input": "residual"}, "has no pyramid; use none"),
        ({"augment_dim": 0}, "augment_dim=0: an integer >= 1"),
        ({"head_dim": 64}, "32 channels at an attention cannot be shared by 0 heads"),
        ({"head_dim": None, "num_heads": 5}, "32 channels at an attention cannot be shared by 5 heads"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, fix):
    with pytest.raises(ConfigError, match=fix) as caught:
        DecoupledSpec(**{**SMALL, **changes}).build(2, 5, 8)
    assert "\n" not in str(caught.value)


def test_two_decoders_need_something_to_divide():
    with pytest.raises(ConfigError, match=r"a prediction of 2 channels .* use prediction=ddm, or network.decoders=1"):
        DecoupledSpec(**SMALL).build(2, 2, 8)


def test_the_stem_is_as_wide_as_the_first_level():
    network = DecoupledSpec(**{**SMALL, "multipliers": [2, 2]}).build(2, 5, 8)
    assert network.conv_in.out_channels == 32
    assert network(torch.zeros(1, 2, 8, 8), torch.zeros(1)).shape == (1, 5, 8, 8)
