"""Paired metrics against formulas written out, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.score import LPIPS, MSE, PSNR, SCORES, SSIM, VGG


def _images(seed: int, size: int = 16, channels: int = 3) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (4, channels, size, size), dtype=np.uint8))


def test_mse_is_that_of_pixels_in_minus_one_to_one() -> None:
    images, targets = _images(0), _images(1)
    difference = (images.double() / 127.5 - 1) - (targets.double() / 127.5 - 1)
    torch.testing.assert_close(MSE()(images, targets), difference.square().mean((1, 2, 3)))
    assert MSE()(images, images).tolist() == [0.0] * 4


def test_psnr_has_the_range_of_bytes_and_a_copy_is_as_good_as_rounding() -> None:
    images = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    off = images.clone()
    off[1] += 10
    values = PSNR()(off, images)
    assert values[1].item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-12)
    assert values[0].item() == pytest.approx(10 * math.log10(255**2 * 12), abs=1e-12)
    assert values[0].item() == pytest.approx(58.92, abs=0.01)


def _ssim(x: np.ndarray, y: np.ndarray, kernel: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13, over all places where the window lies in the image."""
    size, (height, width) = len(kernel), x.shape
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for row in range(height - size + 1):
        for column in range(width - size + 1):
            a, b = (image[row : row + size, column : column + size] for image in (x, y))
            ma, mb = (kernel * a).sum(), (kernel * b).sum()
            va, vb = (kernel * a * a).sum() - ma**2, (kernel * b * b).sum() - mb**2
            cov = (kernel * a * b).sum() - ma * mb
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def _gaussian() -> np.ndarray:
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    line /= line.sum()
    return np.outer(line, line)


@pytest.mark.parametrize(("size", "kernel"), [(16, _gaussian()), (11, _gaussian()), (8, np.full((7, 7), 1 / 49))])
def test_ssim_is_the_formula_in_windows_inside_the_image(size: int, kernel: np.ndarray) -> None:
    images = _images(2, size, 1)
    noise = _images(3, size, 1)
    mixed = (0.7 * images.double() + 0.3 * noise.double()).round().to(torch.uint8)
    values = SSIM()(mixed, images)
    wanted = [_ssim(a[0].double().numpy(), b[0].double().numpy(), kernel) for a, b in zip(mixed, images, strict=True)]
    assert values.tolist() == pytest.approx(wanted, rel=1e-6)
    assert 0.3 < wanted[0] < 0.99
    assert SSIM()(images, images).tolist() == pytest.approx([1.0] * 4, abs=1e-12)


def test_the_window_is_named_and_tiny_images_are_refused() -> None:
    for size, kind in ((8, "uniform window 7"), (11, "gaussian window 11")):
        score = SSIM()
        score.check((1, size, size))
        assert score.kind == kind
    with pytest.raises(ConfigError, match="ssim needs images of 7 pixels or more, not 6"):
        SSIM().check((3, 6, 6))


def test_values_do_not_depend_on_the_batch() -> None:
    for score in (MSE(), PSNR(), SSIM()):
        together = score(_images(4), _images(5))
        alone = torch.cat([score(_images(4)[i : i + 1], _images(5)[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


def test_lpips_says_how_to_get_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DiffexpError, match=rf"download https://.*{VGG} to {tmp_path}/checkpoints/{VGG}, or leave"):
        LPIPS().check((3, 64, 64))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / VGG).write_bytes(b"no weights")
    with pytest.raises(DiffexpError, match="is damaged"):
        LPIPS().check((3, 64, 64))


def test_lpips_enlarges_small_images_and_shows_grey_ones_in_colour() -> None:
    """The network itself needs weights that are not at hand: a stand-in sees what it would."""
    seen = []

    def network(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return (images - targets).abs().mean((1, 2, 3), keepdim=True)

    score = LPIPS()
    score._network = network
    for size, channels, wanted in ((8, 1, 224), (64, 3, 224), (256, 3, 256)):
        images, targets = _images(6, size, channels), _images(7, size, channels)
        values = score(images, targets)
        assert seen[-1].shape == (4, 3, wanted, wanted)
        assert seen[-1].dtype == torch.float32
        assert float(seen[-1].min()) >= -1.0
        assert values.shape == (4,)
        assert values.dtype == torch.float64
    assert score(images, images).tolist() == [0.0] * 4


def test_every_score_has_a_meaning() -> None:
    better = {name: (meaning(name).paired, meaning(name).higher) for name in SCORES}
    assert better == {"mse": (True, False), "psnr": (True, True), "ssim": (True, True), "lpips": (True, False)}
    assert (meaning("fid").paired, meaning("fid").better) == (False, "lower is better")
    assert [meaning("mse").spell(0.00372), meaning("psnr").spell(19.281), meaning("fid").spell(128.27)] == [
        "0.0037", "19.28", "128.3"
    ]  # fmt: skip
