"""Residual block and group norm against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from diffexp.network.block import ResidualBlock
from diffexp.network.norm import GroupNorm
from diffexp.network.resampling import BoxDown, FirUp


def test_scale_shift_block_follows_progressive_distillation():
    torch.manual_seed(0)
    block = ResidualBlock(8, 12, 5, groups=(4, 6), resample=BoxDown()).double()
    x, embedding = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    h = block.conv1(F.avg_pool2d(F.silu(block.norm1(x)), 2))
    scale, shift = block.project(embedding).chunk(2, dim=1)
    h = F.silu(block.norm2(h) * (1.0 + scale[:, :, None, None]) + shift[:, :, None, None])
    torch.testing.assert_close(block(x, embedding), block.skip(F.avg_pool2d(x, 2)) + block.conv2(h))


def test_additive_block_follows_ncsnpp():
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 5, (4, 4), "add", resample=FirUp(), skip_conv=True, gain=math.sqrt(0.5)).double()
    x, embedding = torch.randn(2, 8, 4, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    h = block.conv1(FirUp()(F.silu(block.norm1(x)))) + block.project(embedding)[:, :, None, None]
    want = (block.skip(FirUp()(x)) + block.conv2(F.silu(block.norm2(h)))) / math.sqrt(2.0)
    torch.testing.assert_close(block(x, embedding), want)


def test_the_skip_has_a_convolution_only_where_it_is_asked_for():
    assert ResidualBlock(8, 8, 5, (4, 4)).skip is None
    assert ResidualBlock(8, 8, 5, (4, 4), skip_conv=True).skip.weight.shape == (8, 8, 1, 1)
    assert ResidualBlock(8, 4, 5, (4, 4)).skip.weight.shape == (4, 8, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_norm_has_zero_mean_and_unit_variance_per_group(dtype):
    x = torch.randn(3, 8, 5, 5, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 7.0 + 3.0
    y = GroupNorm(2, 8, eps=1e-6).to(dtype)(x).reshape(3, 2, -1)
    torch.testing.assert_close(y.mean(2), torch.zeros(3, 2, dtype=dtype), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(2, correction=0), torch.ones(3, 2, dtype=dtype), rtol=1e-5, atol=0)


def test_group_norm_of_bfloat16_is_computed_in_float32():
    norm = GroupNorm(2, 8)
    x = (torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)) + 20.0).bfloat16()
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, norm(x.float()).bfloat16())
