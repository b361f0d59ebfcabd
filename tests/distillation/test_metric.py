"""Distances of images: their formulas and their gradients."""

from __future__ import annotations

import pytest
import torch

from diffexp.core import random
from diffexp.distillation.metric import HUBER, L1, L2, PseudoHuber


def images(stream: str, shape=(3, 8, 8)) -> torch.Tensor:
    return random.normal(0, stream, range(4), shape).tanh()


def test_formulas():
    a, b = images("a"), images("b")
    off = (a - b).flatten(1)
    torch.testing.assert_close(L2()(a, b), (off**2).mean(1))
    torch.testing.assert_close(L1()(a, b), off.abs().mean(1))
    c = HUBER * (3 * 8 * 8) ** 0.5
    torch.testing.assert_close(PseudoHuber()(a, b), (off.square().sum(1) + c**2).sqrt() - c, rtol=1e-12, atol=0)


def test_pseudo_huber_keeps_its_digits_where_images_are_close():
    """sqrt(d^2 + c^2) - c = d^2 / 2 c for d << c, which the difference of roots would lose in float32."""
    a = images("a").float()
    b = a.clone()
    b[:, 0, 0, 0] = a[:, 0, 0, 0] + 2.0**-20
    d = (b - a)[:, 0, 0, 0].double()
    c = HUBER * (3 * 8 * 8) ** 0.5
    torch.testing.assert_close(PseudoHuber()(a, b).double(), d**2 / (2 * c), rtol=1e-4, atol=0)


@pytest.mark.parametrize("metric", [L2(), L1(), PseudoHuber()])
def test_equal_images_have_distance_zero_and_a_finite_gradient(metric):
    a = images("a").requires_grad_(True)
    distance = metric(a, a.detach())
    assert torch.equal(distance, torch.zeros(4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    assert torch.equal(gradient, torch.zeros_like(gradient))
