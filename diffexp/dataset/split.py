"""What a data set is to the other rooms: its shape, known without reading data, and two splits of uint8 images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from diffexp.core.errors import DataError, nearest

Indices = Sequence[int] | np.ndarray | Tensor
SplitName = Literal["train", "test"]


@runtime_checkable
class Split(Protocol):
    """A fixed sequence of images.

    Attributes:
        fingerprint: hash of the content, for the evaluation's protocol: equal pixels in equal order, equal hash.
        flip: whether training mirrors half of the images.
    """

    fingerprint: str
    flip: bool

    def __len__(self) -> int: ...

    def images(self, indices: Indices) -> Tensor:
        """Images of the given indices: uint8 (B, C, H, W)."""

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None when the data set has no classes."""


class Pairs(NamedTuple):
    """Images with what they are to be made from.

    Attributes:
        image: the targets x0, uint8 (B, C, H, W).
        endpoint: the sources y, float32 (B, C, H, W) in [-1, 1]; not always whole grey levels.
        mask: float32 (B, 1, H, W), 1 where the source holds nothing of the target; None where the question is idle.
    """

    image: Tensor
    endpoint: Tensor
    mask: Tensor | None


@runtime_checkable
class PairedSplit(Split, Protocol):
    """A split whose images are the targets of pairs; its fingerprint covers the sources too, and flips are joint."""

    def pairs(self, indices: Indices) -> Pairs:
        """The pairs of the given indices."""


@runtime_checkable
class Dataset(Protocol):
    """A data set. `name`, `shape` (C, H, W) and `num_classes` (0: none) are known without reading images.

    A data set of pairs also has `conditions`, see `conditions_of`.
    """

    name: str
    shape: tuple[int, int, int]
    num_classes: int

    def prepare(self) -> None:
        """Read and verify the data; raises DataError naming the file. Calling it again costs nothing."""

    def split(self, name: SplitName) -> Split:
        """The ``train`` or the ``test`` images; prepares the data set if that has not been done."""


class Derived:
    """What data sets that are made from another one share.

    Args:
        images: the other one.
    """

    def __init__(self, images: Dataset) -> None:
        self._images = images
        self.name = images.name
        self.shape = images.shape

    @property
    def num_classes(self) -> int:
        """Number of classes of the images."""
        return self._images.num_classes

    def prepare(self) -> None:
        """Read and verify the images; idempotent. DataError as their data set raises it."""
        self._images.prepare()


def conditions_of(dataset: Dataset) -> frozenset[str]:
    """What the splits of a data set give beside images and labels: of "endpoint" and "mask", by their names in batches.

    It is known without reading images. A data set that has anything of it has splits that are `PairedSplit`.
    """
    return frozenset(getattr(dataset, "conditions", ()))


def augment_dim_of(dataset: Dataset) -> int:
    """How many numbers of a training image tell what was done to it; 0 for a data set that is shown as it is."""
    return int(getattr(dataset, "augment_dim", 0))


class PixelHash:
    """SHA-256 of a stream of images (n, C, H, W), whatever the size of the pieces they come in."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._hash = hashlib.sha256(repr(tuple(shape)).encode())

    def update(self, images: np.ndarray) -> None:
        """Add uint8 images (b, C, H, W)."""
        self._hash.update(np.ascontiguousarray(images))

    def text(self) -> str:
        """The fingerprint, e.g. ``pixels-sha256:0f3a...`` with 32 hexadecimal digits."""
        return f"pixels-sha256:{self._hash.hexdigest()[:32]}"


class ArraySplit:
    """A split held in memory.

    Labels do not enter the fingerprint: a conditional and an unconditional model are measured against the same images.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, flip: bool = False) -> None:
        """Take uint8 images (N, C, H, W) and, for a data set with classes, integer labels (N,)."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"a split needs uint8 images (N, C, H, W), not {images.dtype} of shape {images.shape}")
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(f"{len(images)} images need as many labels, not an array of shape {labels.shape}")
        self._images = torch.from_numpy(np.ascontiguousarray(images))
        self._labels = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        self.flip = flip

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Indices) -> Tensor:
        """Images of the given indices: uint8 (B, C, H, W), a copy."""
        return self._images[torch.as_tensor(indices, dtype=torch.int64)]

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None."""
        return None if self._labels is None else self._labels[torch.as_tensor(indices, dtype=torch.int64)]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the pixels, computed at first use."""
        digest = PixelHash(tuple(self._images.shape[1:]))
        digest.update(self._images.numpy())
        return digest.text()


def pick_split(splits: dict[str, Split], name: str) -> Split:
    """The split called `name`, or a one-line refusal with the valid names."""
    if name not in splits:
        raise DataError(f"there is no split '{name}': {nearest(name, splits)}")
    return splits[name]
