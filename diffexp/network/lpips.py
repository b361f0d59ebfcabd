"""LPIPS as losses use it (Zhang et al. 2018): features of VGG-16 at five depths, compared at every place.

The features have unit length at every place, and the squares of their differences learned non-negative weights. There
are two customs: consistency models (Song et al. 2023) bring images below 256 pixels to 224 and pool by averages, latent
diffusion's first stages and DDM take images as they are and VGG-16's own maxima.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.network.metric import Metric

VGG = "vgg16-397923af.pth"
"""torchvision's name of the VGG-16 that LPIPS was fitted to."""

_DEPTHS = (4, 9, 16, 23, 30)  # behind relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
_SMALL, _SIDE = 256, 224
_LEAST = 16  # four times halved, one pixel is left

Pool = Literal["average", "max"]


class LPIPS(Metric):
    """The learned perceptual distance of VGG-16; about as expensive as a small network.

    Args:
        weights: file with torchvision's VGG-16; None: where torch.hub keeps it. Nothing is downloaded.
        pool: how features are halved: "average", or VGG-16's own "max".
        enlarge: bring images below 256 pixels to 224; else they need 16 pixels.
    """

    def __init__(self, weights: str | None = None, pool: Pool = "average", enlarge: bool = True) -> None:
        self.weights = weights
        self.pool: Pool = pool
        self.enlarge = enlarge
        self._network: _Perceptual | None = None

    def prepare(self, shape: tuple[int, int, int], key: str, instead: str) -> None:
        if shape[0] not in (1, 3):
            raise ConfigError(f"{key}: LPIPS compares images of 1 or 3 channels, not {shape[0]}: use {instead}")
        if not self.enlarge and min(shape[1:]) < _LEAST:
            size = f"{shape[1]}x{shape[2]}"
            raise ConfigError(f"{key}: LPIPS needs {_LEAST} pixels, not {size}: use {key}.enlarge=true or {instead}")
        self._network = _Perceptual(*self._read(key, instead), self.pool, self.enlarge)

    def networks(self) -> list[nn.Module]:
        return [] if self._network is None else [self._network]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        if self._network is None:
            raise ValueError("LPIPS has not read its weights: call prepare first")
        return self._network(first, second)

    def _read(self, key: str, instead: str) -> tuple[nn.Sequential, dict[str, Tensor]]:
        """VGG-16's layers, and the learned weights, which torchmetrics ships."""
        try:
            from torchmetrics.functional.image import lpips
            from torchvision.models import vgg16
        except ImportError as error:
            raise ConfigError(
                f"{key}: LPIPS needs {error.name}: pip install 'diffexp[cifar10]', or use {instead}"
            ) from error
        path = Path(self.weights) if self.weights else Path(torch.hub.get_dir()) / "checkpoints" / VGG
        if not path.is_file():
            raise ConfigError(
                f"{key}: no VGG-16 weights at {path}: put torchvision's {VGG} there, name it with {key}.weights=, or "
                f"use {instead}"
            )
        network = vgg16(weights=None)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:150]
            raise ConfigError(f"{key}.weights: {path} is not torchvision's VGG-16: {reason}") from error
        shares = Path(lpips.__file__).parent / "lpips_models" / "vgg.pth"
        return network.features, torch.load(shares, map_location="cpu", weights_only=True)


class _Perceptual(nn.Module):
    """The distance; frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential, shares: dict[str, Tensor], pool: Pool, enlarge: bool) -> None:
        super().__init__()
        self.enlarge = enlarge
        halve = nn.AvgPool2d if pool == "average" else nn.MaxPool2d
        layers = [halve(2, 2) if isinstance(layer, nn.MaxPool2d) else layer for layer in features]
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the features are kept
        starts = (0, *_DEPTHS[:-1])
        self.parts = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in zip(starts, _DEPTHS, strict=True))
        # ImageNet's mean and deviation, for images in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1))
        for depth in range(len(_DEPTHS)):
            self.register_buffer(f"share{depth}", shares[f"lin{depth}.model.1.weight"])
        self.requires_grad_(False).eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        kind = self.shift.dtype  # states may be wider
        total = torch.zeros(len(first), dtype=kind, device=first.device)
        a, b = self._seen(first.to(kind)), self._seen(second.to(kind))
        for depth, part in enumerate(self.parts):
            a, b = part(a), part(b)
            weighted = (_unit(a) - _unit(b)).square() * getattr(self, f"share{depth}")
            total = total + weighted.sum(1).mean((1, 2))
        return total.to(first.dtype)

    def _seen(self, images: Tensor) -> Tensor:
        if self.enlarge and min(images.shape[-2:]) < _SMALL:
            images = nn.functional.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        return (images - self.shift) / self.scale


def _unit(features: Tensor) -> Tensor:
    """Features of unit length at every place."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1.0e-10)
