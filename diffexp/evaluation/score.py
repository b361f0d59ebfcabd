"""Paired metrics: each generated image against the target of its pair, both as bytes; values are means over images."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.core.image import to_float
from diffexp.core.precision import exact_float32
from diffexp.evaluation.features import file_sha256

VGG = "vgg16-397923af.pth"
VGG_URL = f"https://download.pytorch.org/models/{VGG}"
_SMALL, _SIDE = 256, 224  # pixels: smaller images are enlarged for LPIPS, as DBIM evaluates


class Score(abc.ABC):
    """One paired metric.

    Attributes:
        metric: its name in the results.
        weights: hash of the weights; empty without any.
        resize: how images come to a network's size.
    """

    metric: str
    weights: str = ""
    resize: str = "none"

    @property
    def kind(self) -> str:
        """Which variant it is, for the protocol."""
        return "pixels"

    def check(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - most take every image
        """Refuse images (C, H, W) that it has no meaning for, and missing weights: ConfigError, DiffexpError."""

    def on(self, device: torch.device) -> Score:
        """Ready for images on a device; return self."""
        return self

    @abc.abstractmethod
    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """One value for each image: two uint8 (B, C, H, W) -> float64 (B,)."""


class MSE(Score):
    """Mean squared error of pixels in [-1, 1]."""

    metric = "mse"

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        return _squared_error(images, targets) / 127.5**2


class PSNR(Score):
    """Peak signal-to-noise ratio in dB, of each image by itself.

    The mean squared error counts as at least that of rounding, 1/12 of a squared grey level: a copy has 58.92 dB.
    """

    metric = "psnr"

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        return 10.0 * torch.log10(255.0**2 / _squared_error(images, targets).clamp_min(1.0 / 12.0))


def _squared_error(images: Tensor, targets: Tensor) -> Tensor:
    """In grey levels, (B,)."""
    return (images.double() - targets.double()).square().flatten(1).mean(1)


class SSIM(Score):
    """Structural similarity (Wang et al. 2004, eq. 13): Gaussian window of 11 pixels, sigma 1.5; mean of channels.

    Only windows that lie in the image count, as in the authors' code (torchmetrics reflects the borders instead).
    Images below 11 pixels have a uniform window of 7.
    """

    metric = "ssim"
    window = 11

    @property
    def kind(self) -> str:
        return "gaussian window 11" if self.window == 11 else "uniform window 7"

    def check(self, shape: tuple[int, int, int]) -> None:
        side = min(shape[1:])
        if side < 7:
            raise ConfigError(f"evaluation.metrics: ssim needs images of 7 pixels or more, not {side}")
        self.window = 11 if side >= 11 else 7

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        self.check(tuple(images.shape[1:]))
        a, b = (pixels.double().flatten(0, 1)[:, None] for pixels in (images, targets))
        stacked = torch.cat([a, b, a * a, b * b, a * b])
        mean_a, mean_b, square_a, square_b, product = F.conv2d(stacked, self._window().to(a.device)).chunk(5)
        c1, c2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
        both, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
        alike = (2.0 * both + c1) * (2.0 * (product - both) + c2)
        whole = (squares + c1) * (square_a + square_b - squares + c2)
        return (alike / whole).reshape(len(images), -1).mean(1)

    def _window(self) -> Tensor:
        """(1, 1, w, w), of unit sum."""
        places = torch.arange(self.window, dtype=torch.float64) - self.window // 2
        line = torch.exp(-places.square() / (2.0 * 1.5**2)) if self.window == 11 else torch.ones_like(places)
        return torch.outer(line, line)[None, None] / line.sum() ** 2


class LPIPS(Score):
    """Learned perceptual distance (Zhang et al. 2018) with VGG-16, by torchmetrics; grey images as three channels.

    The learned weights come with torchmetrics, those of VGG-16 do not. Nothing is downloaded.
    """

    metric = "lpips"
    resize = f"bilinear to {_SIDE} below {_SMALL}"
    kind = "vgg16"

    def __init__(self) -> None:
        self._network: Any = None

    def check(self, shape: tuple[int, int, int]) -> None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / VGG
        if not path.is_file():
            raise DiffexpError(
                f"evaluation.metrics: lpips needs VGG-16's weights: download {VGG_URL} to {path}, or leave lpips out"
            )
        digest = file_sha256(path)
        if not digest.startswith(VGG[6:14]):
            raise DiffexpError(f"evaluation.metrics: {path} is damaged (SHA-256 {digest[:8]}); download it again")
        self.weights = digest[:12]

    def on(self, device: torch.device) -> LPIPS:
        if self._network is None:
            try:
                from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                self._network = LearnedPerceptualImagePatchSimilarity(net_type="vgg").net
            except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises RuntimeError
                reason = str(error).splitlines()[0]
                raise DiffexpError(
                    f"evaluation.metrics: lpips needs torchvision ({reason}); pip install 'diffexp[fid]'"
                ) from error
        self._network = self._network.to(device).eval()
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        with exact_float32():
            return self._network(_seen(images), _seen(targets)).reshape(len(images)).double()


def _seen(images: Tensor) -> Tensor:
    """Bytes as VGG sees them: float32 (B, 3, H, W) in [-1, 1], at least 224 pixels."""
    shown = to_float(images.expand(-1, 3, -1, -1))
    if min(shown.shape[-2:]) < _SMALL:
        shown = F.interpolate(shown, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return shown


SCORES: dict[str, type[Score]] = {score.metric: score for score in (MSE, PSNR, SSIM, LPIPS)}
