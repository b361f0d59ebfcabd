"""UNet: starts at zero, every parameter learns, labels and time matter; precision, device and layout are respected."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffexp.core.errors import DiffexpError
from diffexp.core.random import seeded
from diffexp.network.resampling import FirConvDown
from diffexp.network.spec import UNetSpec

PD_LIKE = UNetSpec(
    channels=16, multipliers=[1, 2], blocks=1, attention=[4], num_heads=2, max_groups=8, class_conditional=True
)
NCSNPP_LIKE = UNetSpec(
    channels=16,
    multipliers=[1, 2, 2],
    blocks=2,
    attention=[4],
    num_heads=1,
    attention_up="once",
    embedding="fourier",
    conditioning="add",
    skip_scale=True,
    resampling="fir",
    shortcut="width_or_resample",
    progressive_input="residual",
    min_group_size=4,
    initialisation="xavier_uniform",
)
CONV_LIKE = UNetSpec(
    channels=16, multipliers=[1, 1], blocks=1, attention=[8], head_dim=8, max_groups=4, resampling="conv"
)
ADM_LIKE = UNetSpec(
    channels=16,
    multipliers=[1, 2],
    blocks=1,
    attention=[4],
    head_dim=8,
    attention_order="legacy",
    embedding="timestep",
    class_conditional=True,
    label_bias=False,
    max_groups=8,
    initialisation="pytorch",
)
SPECS = {"pd": PD_LIKE, "ncsnpp": NCSNPP_LIKE, "conv": CONV_LIKE, "adm": ADM_LIKE}


@pytest.fixture(params=SPECS)
def spec(request) -> UNetSpec:
    return SPECS[request.param]


def fresh(spec: UNetSpec, in_channels: int = 3, out_channels: int = 4) -> nn.Module:
    with seeded(0, "test"):
        return spec.build(in_channels, out_channels, 8, 5)


def randomised(spec: UNetSpec) -> nn.Module:
    """A network without zeros, so that every path matters."""
    network = fresh(spec)
    with seeded(1, "test"), torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 3, 8, 8, generator=generator)
    time = 1.0 + 900.0 * torch.rand(batch, generator=generator)
    return x, time, torch.arange(batch) % 5


def test_a_fresh_network_returns_exactly_zero_and_then_every_parameter_learns(spec):
    network, (x, time, labels) = fresh(spec), inputs(5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    assert torch.count_nonzero(network(x, time, labels)) == 0
    # The zeros open from the output inwards: the last convolution, then the blocks' last layers, then the rest.
    for _ in range(3):
        optimizer.zero_grad()
        (network(x, time, labels) - x.repeat(1, 2, 1, 1)[:, :4]).square().sum().backward()
        optimizer.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert dead == []


def test_without_zero_init_the_fresh_output_is_not_zero():
    options = {field: getattr(PD_LIKE, field) for field in PD_LIKE.__dataclass_fields__}
    x, time, labels = inputs()
    output = fresh(UNetSpec(**{**options, "zero_init": False}))(x, time, labels)
    assert 0.1 < output.std() < 10.0


def test_lecun_normal_has_variance_one_over_fan_in_and_stays_within_two_deviations():
    weight = UNetSpec(64, [1], 1, [], num_heads=1).build(3, 3, 8).middle1.conv1.weight.detach()
    fan_in = 64 * 9
    # 36,864 draws: the relative error of the variance is about sqrt(2 / n) = 0.7 %.
    assert weight.var().item() * fan_in == pytest.approx(1.0, rel=0.04)
    assert weight.abs().max() <= 2.0 / 0.8796 / fan_in**0.5


def test_xavier_uniform_treats_query_key_and_value_as_three_layers():
    spec = UNetSpec(64, [1], 1, [], num_heads=1, initialisation="xavier_uniform")
    for weight in spec.build(3, 3, 8).middle_attention.qkv.weight.detach().chunk(3):
        assert weight.abs().max().item() == pytest.approx((6.0 / 128) ** 0.5, rel=0.01)


def test_the_pytorch_law_is_that_of_the_layers_and_a_table_of_labels_is_standard_normal():
    network = UNetSpec(64, [1], 1, [], num_heads=1, class_conditional=True, initialisation="pytorch").build(3, 3, 8, 99)
    layer, bound = network.middle1.conv1, (64 * 9) ** -0.5  # uniform in +-1 / sqrt(fan_in), weight and bias
    assert 0.99 * bound < layer.weight.abs().max().item() <= bound
    assert 0.5 * bound < layer.bias.abs().max().item() <= bound
    # 25,344 draws: three standard errors of the deviation are 1.3 %.
    assert network.embedding.label.weight.std().item() == pytest.approx(1.0, rel=0.02)


def test_the_label_changes_the_output_and_its_absence_is_refused():
    network, (x, time, labels) = randomised(PD_LIKE), inputs()
    difference = network(x, time, labels) - network(x, time, torch.tensor([0, 1, 3]))
    assert torch.count_nonzero(difference[:2]) == 0
    assert difference[2].abs().max() > 1e-3
    with pytest.raises(DiffexpError, match="needs labels"):
        network(x, time)


def test_a_network_without_classes_ignores_labels():
    network, (x, time, labels) = randomised(CONV_LIKE), inputs()
    assert torch.equal(network(x, time, labels), network(x, time))


def test_time_changes_only_its_own_image(spec):
    network, (x, time, labels) = randomised(spec), inputs()
    moved = network(x, time * torch.tensor([1.0, 1.1, 1.0]), labels) - network(x, time, labels)
    assert moved[1].abs().max() > 1e-3
    assert moved[[0, 2]].abs().max() == 0


def test_images_of_a_batch_do_not_meet(spec):
    network, (x, time, labels) = randomised(spec).double(), inputs()
    x, time = x.double(), time.double()
    alone = torch.cat([network(x[i : i + 1], time[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, time, labels), alone, rtol=1e-10, atol=1e-12)


def test_the_pyramid_carries_the_input_to_every_level():
    network, (x, time, _) = randomised(NCSNPP_LIKE), inputs()
    with torch.no_grad():
        before = network(x, time)
        pyramids = [level.pyramid for level in network.down]
        assert [isinstance(pyramid, FirConvDown) for pyramid in pyramids] == [True, True, False]
        assert [pyramid.conv.in_channels for pyramid in pyramids[:2]] == [3, 16]
        for pyramid in pyramids[:2]:
            kept = pyramid.conv.weight.clone()
            pyramid.conv.weight.zero_()
            assert (network(x, time) - before).abs().max() > 1e-3
            pyramid.conv.weight.copy_(kept)


def test_attention_sits_where_the_papers_put_it():
    down = {name: [len(level.attention) for level in fresh(spec).down] for name, spec in SPECS.items()}
    up = {name: [len(level.attention) for level in fresh(spec).up] for name, spec in SPECS.items()}
    assert down == {"pd": [0, 1], "ncsnpp": [0, 2, 0], "conv": [1, 0], "adm": [0, 1]}
    assert up == {"pd": [2, 0], "ncsnpp": [0, 1, 0], "conv": [0, 2], "adm": [2, 0]}


def test_float32_agrees_with_float64(spec):
    network, (x, time, labels) = randomised(spec), inputs()
    single = network(x, time, labels)
    double = network.double()(x.double(), time.double(), labels)
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    # Angles reach 2 pi 40 log(900) = 1,700 rad, where float32 is spaced by 1e-4.
    assert (single - double).abs().max() < 1e-3 * double.abs().max()


def test_autocast_to_bfloat16_stays_near_float32_and_keeps_the_embedding_exact(spec):
    network, (x, time, labels) = randomised(spec), inputs()
    exact, embedding = network(x, time, labels), network.embedding(time, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, cast_embedding = network(x, time, labels), network.embedding(time, labels)
        assert network.conv_in(x).dtype == torch.bfloat16
    assert output.dtype == torch.float32
    assert torch.equal(embedding, cast_embedding)
    # bfloat16 has 8 bits, 4e-3 relative, and a dozen layers add up.
    assert (output - exact).abs().max() < 0.1 * exact.abs().max()
    assert (output - exact).abs().max() > 1e-5 * exact.abs().max()


def test_channels_last_gives_the_same_numbers(spec):
    network, (x, time, labels) = randomised(spec).double(), inputs()
    plain = network(x.double(), time.double(), labels)
    last = network.to(memory_format=torch.channels_last)
    output = last(x.double().contiguous(memory_format=torch.channels_last), time.double(), labels)
    torch.testing.assert_close(output, plain, rtol=1e-10, atol=1e-12)


def test_the_meta_device_gives_the_shape_of_the_output(spec):
    with torch.device("meta"):
        network = spec.build(3, 4, 8, 5)
        output = network(torch.empty(2, 3, 8, 8), torch.empty(2), torch.zeros(2, dtype=torch.int64))
    assert output.shape == (2, 4, 8, 8)


def test_weights_travel_with_their_fourier_frequencies_and_the_same_seed_gives_the_same_network():
    network, twin = fresh(NCSNPP_LIKE), fresh(NCSNPP_LIKE)
    for value, other in zip(network.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(value, other)
    other = NCSNPP_LIKE.build(3, 4, 8)
    other.load_state_dict(randomised(NCSNPP_LIKE).state_dict(), strict=True)
    x, time, _ = inputs()
    assert torch.equal(other.eval()(x, time), randomised(NCSNPP_LIKE)(x, time))
    assert "embedding.features.frequencies" in network.state_dict()
    assert not any("kernel" in name for name in network.state_dict())


def test_dropout_acts_in_training_only():
    options = {field: getattr(CONV_LIKE, field) for field in CONV_LIKE.__dataclass_fields__}
    network, (x, time, _) = randomised(UNetSpec(**{**options, "dropout": 0.5})), inputs()
    assert torch.equal(network(x, time), randomised(CONV_LIKE)(x, time))
    assert (network.train()(x, time) - network.eval()(x, time)).abs().max() > 1e-2


def test_one_time_for_all_images_is_the_same_time_for_each() -> None:
    """Sampling gives one time: no matrix product over the batch is left whose rounding would depend on its size."""
    network = UNetSpec(channels=8, multipliers=[1, 2], blocks=1, attention=[], num_heads=1, zero_init=False)
    model = network.build(1, 1, 8).eval()
    x = torch.linspace(-1.0, 1.0, 9 * 64).reshape(9, 1, 8, 8)
    with torch.no_grad():
        shared = model(x, torch.tensor([300.0]))
        each = model(x, torch.full((9,), 300.0))
    assert float(shared.std()) > 1e-3
    torch.testing.assert_close(shared, each, rtol=1e-5, atol=1e-5)
