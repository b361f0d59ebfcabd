"""Distances of images: their formulas, their gradients, and LPIPS on weights from a file."""

from __future__ import annotations

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.distillation.lpips import LPIPS, VGG
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


def test_lpips_without_weights_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=f"no VGG-16 weights at {tmp_path}/checkpoints/{VGG}: put torchvision's"):
        LPIPS().prepare((3, 64, 64))
    with pytest.raises(ConfigError, match="1 or 3 channels, not 2"):
        LPIPS().prepare((2, 64, 64))
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(ConfigError, match="is not torchvision's VGG-16"):
        LPIPS(str(other)).prepare((3, 64, 64))


def test_lpips_measures_with_a_networks_features(tmp_path):
    """Zero for equal images, symmetric, larger for a larger change; gradients flow, the network stays frozen."""
    from torchvision.models import vgg16

    with random.seeded(0, "test/vgg"):
        network = vgg16(weights=None)
    file = tmp_path / "vgg.pth"
    torch.save(network.state_dict(), file)
    metric = LPIPS(str(file))
    metric.prepare((1, 8, 8))
    a = images("a", (1, 8, 8))[:2].float().requires_grad_(True)
    near, far = (a.detach() + share * images("b", (1, 8, 8))[:2].float() for share in (0.01, 0.3))
    assert torch.equal(metric(a, a.detach()), torch.zeros(2))
    torch.testing.assert_close(metric(a, far), metric(far, a))
    assert bool((metric(a, near) < metric(a, far)).all())
    metric(a, far).sum().backward()
    assert a.grad is not None
    assert float(a.grad.abs().min()) >= 0.0
    assert float(a.grad.abs().max()) > 0.0
    (inner,) = metric.networks()
    assert not any(parameter.requires_grad for parameter in inner.parameters())
