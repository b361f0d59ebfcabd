"""What extractors for RGB pictures share: the check of their input, the resize, the weights that are read once."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.core.precision import exact_float32
from diffexp.evaluation.features import Shape, file_sha256

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def check_rgb(images: Tensor, name: str) -> None:
    """Refuse anything but uint8 images (B, 3, H, W) (DiffexpError)."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        given = f"{images.dtype} of shape {'x'.join(map(str, images.shape[1:]))}"
        raise DiffexpError(f"extractor '{name}' takes uint8 RGB images, got {given}")


class PictureFeatures(abc.ABC):
    """A network of ImageNet-like pictures, in float32 without reduced precision.

    Images come to its size by bicubic interpolation with antialiasing, which keeps no byte rounding in between (EDM2's
    recipe for DINOv2); pictures that are not square are stretched.

    Args:
        weights: a file; None: where the extractor looks for it.
    """

    shape: Shape = (3, None, None)
    mean, std = _IMAGENET
    """Of each channel in [0, 1], subtracted and divided by."""

    name: str
    dim: int
    size: int

    def __init__(self, weights: str | None = None) -> None:
        self._weights = None if weights is None else Path(weights)
        self.hash = ""
        self._network: Any = None

    @property
    def metric(self) -> str:
        """The Frechet distance in its features."""
        return f"fd_{self.name}"

    @property
    def resize(self) -> str:
        """The resize, for the protocol."""
        return f"bicubic_antialias_{self.size}"

    @abc.abstractmethod
    def _find(self) -> Path:
        """The file of the weights; DiffexpError says how to get it."""

    @abc.abstractmethod
    def _read(self, path: Path, digest: str) -> Any:
        """The network with the weights of `path`, whose SHA-256 is `digest`; sets `name`, `dim`, `size`."""

    def prepare(self) -> PictureFeatures:
        """Read the weights and return self; DiffexpError when they, or what they need, are missing or damaged."""
        if self._network is None:
            path = self._find()
            digest = file_sha256(path)
            self._network = self._read(path, digest).eval().requires_grad_(False)
            self.hash = digest[:12]
        return self

    def to(self, device: torch.device | str) -> PictureFeatures:
        """Move the network to `device`; return self."""
        self.prepare()._network.to(device)
        return self

    def _input(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, size, size), normalised."""
        check_rgb(images, self.name)
        shown = images.float()
        if tuple(images.shape[2:]) != (self.size, self.size):
            shown = F.interpolate(shown, size=(self.size, self.size), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return (shown / 255.0 - mean) / std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, dim)."""
        network = self.prepare()._network
        with exact_float32():
            return network(self._input(images))


def missing(path: Path, what: str, how: str) -> DiffexpError:
    """The refusal of weights that are not there."""
    return DiffexpError(
        f"evaluation.extractor: {what} weights {path} not found; {how}, or name a file with "
        "evaluation.extractor.weights=..."
    )
