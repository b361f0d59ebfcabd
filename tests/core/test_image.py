"""Bytes and floats: exact round trip, clipping, and the bias of truncation."""

from __future__ import annotations

import pytest
import torch

from diffexp.core.image import to_float, to_uint8


def test_rounding_gives_every_grey_level_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    image = to_float(levels)
    assert image.dtype == torch.float32
    assert (image[0], image[255]) == (-1.0, 1.0)
    assert torch.allclose(image.double(), torch.arange(256).double() / 127.5 - 1, atol=1e-7)
    assert torch.equal(to_uint8(image), levels)
    assert torch.equal(to_uint8(image.double()), levels)


def test_values_outside_are_clipped() -> None:
    image = torch.tensor([-7.0, -1.001, 1.001, 7.0])
    assert to_uint8(image).tolist() == [0, 0, 255, 255]
    assert to_uint8(image, "truncate").tolist() == [0, 0, 255, 255]


def test_known_values() -> None:
    image = torch.tensor([-0.999, 0.0, 0.004, 0.5, 0.999])  # 0.1275, 127.5, 128.01, 191.25, 254.87 grey levels
    assert to_uint8(image).tolist() == [0, 128, 128, 191, 255]
    assert to_uint8(image, "truncate").tolist() == [0, 127, 128, 191, 254]


def test_truncation_darkens_by_half_a_grey_level() -> None:
    image = torch.linspace(-0.99, 0.99, 100_001, dtype=torch.float64)
    exact = image * 127.5 + 127.5
    assert (to_uint8(image, "truncate") - exact).mean() == pytest.approx(-0.5, abs=0.005)
    assert (to_uint8(image, "round") - exact).mean() == pytest.approx(0.0, abs=0.005)


def test_half_precision_is_widened_first() -> None:
    image = torch.tensor([0.75, -0.25], dtype=torch.bfloat16)  # 223.125 and 95.625; bfloat16 would give 223 and 95.5
    assert to_uint8(image).tolist() == [223, 96]


def test_input_is_not_changed_and_modes_are_checked() -> None:
    image = torch.tensor([0.3])
    to_uint8(image)
    to_uint8(image, "truncate")
    assert image.item() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="choose from round, truncate"):
        to_uint8(image, "floor")
