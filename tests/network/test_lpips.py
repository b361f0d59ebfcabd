"""LPIPS on weights from a file: what it is, what it refuses, and how its features are halved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.network.lpips import LPIPS, VGG

NAMES = ("objective.perceptual", "objective=ddm_v1")


def images(stream: str, shape: tuple[int, int, int], n: int = 2) -> torch.Tensor:
    return random.normal(0, stream, range(n), shape).tanh().float()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a VGG-16 that has learned nothing."""
    from torchvision.models import vgg16

    with random.seeded(0, "test/vgg"):
        network = vgg16(weights=None)
    file = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save(network.state_dict(), file)
    return str(file)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        LPIPS().prepare((3, 64, 64), *NAMES)
    assert str(refused.value) == (
        f"objective.perceptual: no VGG-16 weights at {tmp_path}/checkpoints/{VGG}: put torchvision's {VGG} there, name "
        "it with objective.perceptual.weights=, or use objective=ddm_v1"
    )
    with pytest.raises(ConfigError, match="1 or 3 channels, not 2: use objective=ddm_v1"):
        LPIPS().prepare((2, 64, 64), *NAMES)
    with pytest.raises(ConfigError, match=r"needs 16 pixels, not 8x32: use objective.perceptual.enlarge=true or"):
        LPIPS(enlarge=False).prepare((3, 8, 32), *NAMES)
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(ConfigError, match=r"objective.perceptual.weights: .* is not torchvision's VGG-16"):
        LPIPS(str(other)).prepare((3, 64, 64), *NAMES)
    with pytest.raises(ValueError, match="call prepare first"):
        LPIPS()(images("a", (3, 8, 8)), images("b", (3, 8, 8)))


@pytest.mark.parametrize(("pool", "enlarge", "shape"), [("average", True, (1, 8, 8)), ("max", False, (3, 16, 24))])
def test_it_measures_with_a_networks_features(
    weights: str, pool: str, enlarge: bool, shape: tuple[int, int, int]
) -> None:
    """Zero for equal images, symmetric, larger for a larger change; gradients flow, the network stays frozen."""
    metric = LPIPS(weights, pool, enlarge)
    assert metric.networks() == []
    metric.prepare(shape, *NAMES)
    a = images("a", shape).requires_grad_(True)
    near, far = (a.detach() + share * images("b", shape) for share in (0.01, 0.3))
    assert torch.equal(metric(a, a.detach()), torch.zeros(2))
    torch.testing.assert_close(metric(a, far), metric(far, a))
    assert bool((metric(a, near) < metric(a, far)).all())
    metric(a, far).sum().backward()
    assert a.grad is not None
    assert float(a.grad.abs().max()) > 0.0
    (inner,) = metric.networks()
    assert not any(parameter.requires_grad for parameter in inner.parameters())


def test_it_is_torchmetrics_own_distance_where_nothing_is_enlarged(weights: str) -> None:
    """torchmetrics reads the same weights, pools by maxima and takes images as they are."""
    from torchmetrics.functional.image.lpips import _LPIPS

    own = _LPIPS(pretrained=True, net="vgg", pnet_rand=True, eval_mode=True)
    state = {name.removeprefix("features."): value for name, value in torch.load(weights).items() if "features" in name}
    slices = [own.net.slice1, own.net.slice2, own.net.slice3, own.net.slice4, own.net.slice5]
    for part in slices:
        part.load_state_dict({name: state[name] for name in part.state_dict()})
    a, b = images("a", (3, 32, 32)), images("b", (3, 32, 32))
    found = LPIPS(weights, "max", enlarge=False)
    found.prepare((3, 32, 32), *NAMES)
    with torch.no_grad():
        torch.testing.assert_close(found(a, b), own(a, b).reshape(2), rtol=1e-4, atol=1e-7)
        wide = found(a.double(), b.double())
    assert wide.dtype == torch.float64  # the states' type, computed in the network's
    torch.testing.assert_close(wide.float(), found(a, b))
