"""Gradients scaled by min(1, limit / norm), the norm being that of all of them together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffexp.training.clipping import clip_gradients


def parameters() -> list[nn.Parameter]:
    """Gradients (3, 4) and (12,), of norm 13 together; a third parameter has none."""
    values = [torch.tensor([3.0, 4.0]).double(), torch.tensor([12.0]).double(), None]
    found = [nn.Parameter(torch.zeros(2).double()), nn.Parameter(torch.zeros(1).double()), nn.Parameter(torch.zeros(4))]
    for parameter, value in zip(found, values, strict=True):
        parameter.grad = value
    return found


@pytest.mark.parametrize(("limit", "scale"), [(1.0, 1 / 13), (13.0, 1.0), (20.0, 1.0), (None, 1.0)])
def test_gradients_are_scaled_together_and_exactly(limit, scale):
    found = parameters()
    assert float(clip_gradients(found, limit)) == 13.0
    assert found[0].grad.tolist() == pytest.approx([3.0 * scale, 4.0 * scale], rel=1e-15)
    assert found[1].grad.tolist() == pytest.approx([12.0 * scale], rel=1e-15)
    assert found[2].grad is None


def test_gradients_of_zero_stay_zero():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.zeros(2)
    assert float(clip_gradients([parameter], 1.0)) == 0.0
    assert parameter.grad.tolist() == [0.0, 0.0]
    assert float(clip_gradients([nn.Parameter(torch.ones(2))], 1.0)) == 0.0


def test_what_is_not_finite_is_reported():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(float(clip_gradients([parameter], 1.0)))
