"""Feature extractors: uint8 images in, float features out.

A distance between sets of images is a distance between their features, so an extractor has a name and a hash of its
weights, and both stand in the protocol of every number. `DigitsFeatures` is a small classifier of scikit-learn's 8x8
digits whose weights ship with the package (trained by experiments/digits_features/train.py); the Inception network is
in `inception.py`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError, DiffexpError

DIGITS_WEIGHTS = Path(__file__).parent / "weights" / "digits_classifier.safetensors"
DIGITS_SHA256 = "0de04c5e9d458a534fab989964a963c344afdf930d0f14fd283b5dadd9dc9402"

Shape = tuple[int, "int | None", "int | None"]


@runtime_checkable
class Extractor(Protocol):
    """What evaluation needs of a feature extractor.

    Attributes:
        name: short name, e.g. ``"digits"``.
        metric: name of the Frechet distance in its features: ``"fd_digits"``; ``"fid"`` is kept for Inception's
            weights.
        dim: number of features.
        hash: first 12 hex digits of the SHA-256 of the weights.
        resize: how images come to the network's size, named in the protocol.
        shape: (C, H, W) of the images it takes; None where any size will do.
    """

    name: str
    metric: str
    dim: int
    hash: str
    resize: str
    shape: Shape

    def prepare(self) -> Extractor:
        """Read and verify the weights, so that the attributes are final; idempotent; return self."""
        ...

    def to(self, device: torch.device | str) -> Extractor:
        """Move to a device and return self."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) -> features (B, dim), float32 or float64, on the images' device."""
        ...


@runtime_checkable
class Classifier(Extractor, Protocol):
    """An extractor whose features end in a classifier.

    Attributes:
        num_classes: number of classes.
    """

    num_classes: int

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images (B, C, H, W) -> features (B, dim), class scores before the softmax (B, num_classes)."""
        ...


def num_classes_of(extractor: Extractor) -> int:
    """How many classes an extractor tells apart; 0 for one that has features only."""
    return int(getattr(extractor, "num_classes", 0))


def check_shape(extractor: Extractor, shape: tuple[int, int, int], dataset: str) -> None:
    """Refuse images (C, H, W) of data set `dataset` that the extractor was not made for (ConfigError)."""
    fits = all(want is None or want == got for want, got in zip(extractor.shape, shape, strict=True))
    if not fits:
        raise ConfigError(
            f"evaluation.extractor: '{extractor.name}' takes images of shape {_spell(extractor.shape)}, "
            f"data set '{dataset}' has {_spell(shape)}; use evaluation=default (Inception) for RGB images, "
            "or evaluation=pictures for samples without a distance"
        )


def _spell(shape: Shape) -> str:
    return "x".join("any" if size is None else str(size) for size in shape)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class DigitsClassifier(nn.Module):
    """A convolutional classifier of 8x8 grey digits, 48 thousand parameters.

    `features(x)` maps (B, 1, 8, 8) in [-1, 1] to the (B, 48) inputs of the last layer; calling it gives (B, 10) logits.
    """

    dim = 48

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, self.dim),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.dim, 10)

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the last layer, (B, 48); smooth and not rectified, so that a Gaussian fits them tolerably."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10)."""
        return self.classify(self.features(x))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, 10) of features (B, 48)."""
        return self.head(self.dropout(nn.functional.silu(features)))


class DigitsFeatures:
    """The 48 features of the digits classifier that ships with diffexp, computed in float64.

    Float64 costs nothing at 8x8 and makes the features equal on any device and for any batch size to about 1e-12,
    whatever the settings for reduced precision of the machine's convolutions are.

    Args:
        weights: safetensors file of `DigitsClassifier`; None: the file in the package, whose SHA-256 is checked.
    """

    shape: Shape = (1, 8, 8)
    dim = DigitsClassifier.dim
    resize = "none"
    num_classes = 10

    def __init__(self, weights: str | None = None) -> None:
        self._path = None if weights is None else Path(weights)
        self.name, self.metric, self.hash = "digits", "fd_digits", DIGITS_SHA256[:12]
        self._network: DigitsClassifier | None = None

    def prepare(self) -> DigitsFeatures:
        """Read and verify the weights and return self; DiffexpError when they are missing or damaged."""
        if self._network is None:
            path = self._path or DIGITS_WEIGHTS
            digest = _verified(path, None if self._path else DIGITS_SHA256)
            if digest != DIGITS_SHA256:
                self.name, self.hash = f"digits_{digest[:8]}", digest[:12]
                self.metric = f"fd_{self.name}"
            self._network = _read(path)
        return self

    def to(self, device: torch.device | str) -> DigitsFeatures:
        """Move the network to `device`; return self."""
        self.prepare()._network.to(device)
        return self

    def _input(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            raise DiffexpError(
                f"extractor '{self.name}' takes uint8 images of shape {_spell(self.shape)}, "
                f"got {images.dtype} of {'x'.join(map(str, images.shape[1:]))}"
            )
        return images.to(torch.float64) / 127.5 - 1

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 1, 8, 8) -> float64 (B, 48)."""
        return self.prepare()._network.features(self._input(images))

    @torch.no_grad()
    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 1, 8, 8) -> features (B, 48), class scores (B, 10), both float64."""
        features = self(images)
        return features, self._network.classify(features)


def _verified(path: Path, expected: str | None) -> str:
    """The SHA-256 of the weights at `path`; DiffexpError when there is no file or it is not the expected one."""
    if not path.is_file():
        raise DiffexpError(f"evaluation.extractor: weights file {path} does not exist")
    digest = file_sha256(path)
    if expected is not None and digest != expected:
        raise DiffexpError(
            f"evaluation.extractor: {path} is damaged (SHA-256 {digest[:12]}, expected {expected[:12]}); "
            "install diffexp again"
        )
    return digest


def _read(path: Path) -> DigitsClassifier:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = DigitsClassifier().double().eval().requires_grad_(False)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DiffexpError(f"evaluation.extractor: {path} holds no digits classifier ({reason})") from error
    return network
