"""UNetSpec: published parameter counts, the YAML files, and one-line refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from diffexp.core.errors import ConfigError
from diffexp.network.spec import UNetSpec

CONF = Path(__file__).parents[2] / "conf" / "network"
SMALL = {"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4], "num_heads": 2, "max_groups": 8}


def from_yaml(name: str, **changes: object) -> UNetSpec:
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert options.pop("_target_") == "diffexp.network.spec.UNetSpec"
    return UNetSpec(**{**options, **changes})


def parameters(spec: UNetSpec, *sizes: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in spec.build(*sizes).parameters())


def test_progressive_distillation_cifar10_has_the_published_size():
    assert parameters(from_yaml("pd_cifar10"), 3, 3, 32) == 60_004_099


def test_progressive_distillation_imagenet64_has_the_published_size():
    assert parameters(from_yaml("pd_imagenet64"), 3, 6, 64, 1000) == 295_905_222


def test_progressive_distillation_lsun128_has_the_published_size():
    assert parameters(from_yaml("pd_lsun128"), 3, 6, 128) == 139_578_502


def test_ncsnpp_deep_has_about_108_million_parameters():
    spec = from_yaml("ncsnpp_deep")
    assert parameters(spec, 3, 3, 32) == 107_586_947
    # CLD: three more input channels in the stem and in the first step of the pyramid, three more output channels.
    assert parameters(spec, 6, 6, 32) - 107_586_947 == 3 * 128 * 9 * 3 + 3


def test_small_image_fits_digits_and_small_pictures():
    spec = from_yaml("small_image")
    for resolution in (8, 28, 32):
        assert 200_000 < parameters(spec, 1, 1, resolution) < 400_000


def test_classes_of_an_unconditional_network_are_ignored():
    assert parameters(UNetSpec(**SMALL), 3, 3, 8, 10) == parameters(UNetSpec(**SMALL), 3, 3, 8)
    grown = parameters(UNetSpec(**SMALL, class_conditional=True), 3, 3, 8, 10) - parameters(UNetSpec(**SMALL), 3, 3, 8)
    assert grown == 64 * 10 + 64  # a dense layer with bias on the one-hot label


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"num_heads": None}, "exactly one of num_heads and head_dim"),
        ({"head_dim": 8}, "exactly one of num_heads and head_dim"),
        ({"dropout": 1.0}, r"dropout=1.0: a probability in \[0, 1\)"),
        ({"multipliers": []}, "one integer >= 1 for every level"),
        ({"blocks": 0}, "blocks=0: an integer >= 1"),
        ({"channels": 15}, "channels=15: positional embedding needs an even width"),
        ({"resampling": "firr"}, "resampling='firr' is not known; did you mean 'fir'"),
        ({"embedding": "sine"}, "embedding='sine' is not known; choose from: fourier, positional"),
        ({"norm_eps": 0.0}, "must be greater than 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, fix):
    with pytest.raises(ConfigError, match=fix) as caught:
        UNetSpec(**{**SMALL, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "resolution", "fix"),
    [
        ({"multipliers": [1, 1, 1], "attention": []}, 30, "multiple of 4, but it is 30"),
        ({"attention": [16]}, 8, r"attention=16 does not occur: the levels' resolutions are \[8, 4\]"),
        ({"num_heads": 5}, 8, "num_heads=5 does not divide the 32 channels"),
        ({"num_heads": None, "head_dim": 24}, 8, "head_dim=24 does not divide the 32 channels"),
        ({"max_groups": 5}, 8, "5 norm groups do not divide 16 channels"),
        ({"max_groups": 32}, 8, "32 norm groups do not divide 48 channels"),
        ({"class_conditional": True}, 8, "at least 2 classes, not 0"),
    ],
)
def test_a_spec_that_does_not_fit_the_data_is_refused(changes, resolution, fix):
    spec = UNetSpec(**{**SMALL, **changes})
    with pytest.raises(ConfigError, match=fix) as caught:
        spec.build(3, 3, resolution)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count", "sizes"),
    [
        ("adm_edges2handbags", 295_136_451, (6, 3, 64)),
        ("adm_diode", 552_814_083, (6, 3, 256)),
        ("adm_imagenet256", 553_838_083, (6, 3, 256, 1000)),
    ],
)
def test_bridge_networks_have_the_counted_size(name, count, sizes):
    """The numbers were counted on the official U-Nets, whose input is state and source."""
    assert parameters(from_yaml(name), *sizes) == count
