"""Resampling: what the filters do to constants, impulses and pyramids."""

from __future__ import annotations

import pytest
import torch

from diffexp.network.resampling import BoxDown, BoxUp, ConvDown, ConvUp, FirConvDown, FirDown, FirUp

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_box_down_is_the_mean_and_undoes_box_up():
    x = noise(2, 3, 4, 6)
    assert torch.equal(BoxUp()(x)[:, :, ::2, 1::2], x)
    torch.testing.assert_close(BoxDown()(BoxUp()(x)), x)
    torch.testing.assert_close(BoxDown()(x)[1, 2, 1, 2], x[1, 2, 2:4, 4:6].mean())


@pytest.mark.parametrize("resample", [FirDown(), FirUp()])
def test_fir_keeps_a_constant_inside_the_image(resample):
    y = resample(torch.full((1, 2, 8, 8), 1.7, dtype=torch.float64))
    torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.full_like(y[:, :, 1:-1, 1:-1], 1.7))
    # At a corner the filter sees zeros outside: 7 of its 8 parts, in each direction (6 of 8 when doubling: 3/4).
    share = (7 / 8) ** 2 if isinstance(resample, FirDown) else (3 / 4) ** 2
    assert y[0, 0, 0, 0].item() == pytest.approx(1.7 * share, rel=1e-12)


def test_fir_up_spreads_an_impulse_as_the_filter():
    x = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    x[0, 0, 2, 3] = 1.0
    y = FirUp()(x)
    want = torch.outer(TAPS, TAPS) / 16.0  # unit sum of squares per direction: (1 + 9 + 9 + 1) / 16
    torch.testing.assert_close(y[0, 0, 3:7, 5:9], want)
    assert y.sum().item() == pytest.approx(4.0, rel=1e-12)
    assert y.square().sum().item() == pytest.approx((20 / 16) ** 2, rel=1e-12)


def test_fir_down_weighs_the_four_nearest_pixels():
    x = noise(1, 2, 8, 8)
    want = (torch.outer(TAPS, TAPS) / 64.0 * x[0, 1, 3:7, 1:5]).sum()
    torch.testing.assert_close(FirDown()(x)[0, 1, 2, 1], want)


def test_fir_down_is_a_quarter_of_the_adjoint_of_fir_up():
    x, y = noise(2, 3, 8, 8), noise(2, 3, 4, 4)
    torch.testing.assert_close((FirUp()(y) * x).sum(), 4.0 * (y * FirDown()(x)).sum())


def test_fir_down_removes_the_highest_frequency():
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4).expand(1, 1, 8, 8)
    assert FirDown()(stripes)[:, :, :, 1:-1].abs().max() < 1e-15


def test_conv_down_pads_right_and_bottom_only():
    layer = ConvDown(1, 1).double()
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.copy_(torch.arange(9.0).reshape(1, 1, 3, 3))
    x = noise(1, 1, 4, 4)
    kernel = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    y = layer(x)
    assert y.shape == (1, 1, 2, 2)
    torch.testing.assert_close(y[0, 0, 0, 0], (kernel * x[0, 0, :3, :3]).sum())
    torch.testing.assert_close(y[0, 0, 1, 1], (kernel[:2, :2] * x[0, 0, 2:, 2:]).sum())


def test_conv_up_repeats_then_convolves():
    layer = ConvUp(2, 3).double()
    x = noise(1, 2, 3, 3)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    want = torch.nn.functional.conv2d(doubled, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), want)


def test_fir_conv_down_filters_before_it_strides():
    layer = FirConvDown(2, 3).double()
    x = noise(1, 2, 8, 8)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2)).unfold(2, 4, 1).unfold(3, 4, 1)
    filtered = torch.einsum("bchwij,ij->bchw", padded, torch.outer(TAPS, TAPS) / 64.0)
    want = torch.nn.functional.conv2d(filtered, layer.conv.weight, layer.conv.bias, stride=2)
    y = layer(x)
    assert y.shape == (1, 3, 4, 4)
    torch.testing.assert_close(y, want)
