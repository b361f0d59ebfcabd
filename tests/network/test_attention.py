"""Self-attention against a softmax written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.network.attention import SelfAttention


@pytest.mark.parametrize(("heads", "gain"), [(1, 1.0), (3, math.sqrt(0.5))])
def test_attention_equals_the_softmax_formula(heads, gain):
    torch.manual_seed(0)
    layer = SelfAttention(12, heads, groups=4, gain=gain).double()
    x = torch.randn(2, 12, 3, 5, dtype=torch.float64)
    width = 12 // heads
    h = layer.norm(x)
    want = torch.empty_like(x)
    for image in range(2):
        tokens = h[image].reshape(12, 15).t()
        rows = zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
        query, key, value = (tokens @ weight.t() + bias for weight, bias in rows)
        parts = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = query[:, own] @ key[:, own].t() / math.sqrt(width)
            parts.append(torch.softmax(scores, dim=1) @ value[:, own])
        mixed = torch.cat(parts, dim=1) @ layer.out.weight.t() + layer.out.bias
        want[image] = (x[image] + mixed.t().reshape(12, 3, 5)) * gain
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)


def test_attention_commutes_with_a_permutation_of_the_pixels():
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, groups=2).double()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    order = torch.randperm(16)
    moved = x.flatten(2)[:, :, order].unflatten(2, (4, 4))
    torch.testing.assert_close(layer(moved), layer(x).flatten(2)[:, :, order].unflatten(2, (4, 4)))


def test_the_legacy_order_is_the_new_one_with_its_rows_moved():
    torch.manual_seed(0)
    new, legacy = SelfAttention(12, 3, groups=4).double(), SelfAttention(12, 3, groups=4, order="legacy").double()
    legacy.load_state_dict(new.state_dict())
    x = torch.randn(2, 12, 3, 5, dtype=torch.float64)
    assert (legacy(x) - new(x)).abs().max() > 1e-3
    # Row (part p, head h, channel c) of the new order is row (h, p, c) of the legacy one.
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(new.qkv, name).unflatten(0, (3, 3, 4)).transpose(0, 1).flatten(0, 2)
            getattr(legacy.qkv, name).copy_(rows)
    torch.testing.assert_close(legacy(x), new(x), rtol=1e-12, atol=1e-12)
