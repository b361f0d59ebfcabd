"""Any data set whose training images are augmented; whoever measures sees the images as they are."""

from __future__ import annotations

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.dataset.augmentation import Augmentation
from diffexp.dataset.split import Dataset, Derived, Indices, Split, SplitName, conditions_of
from diffexp.dataset.warp import SMALLEST


class AugmentedSplit:
    """A split with the augmentation that training batches get; its images and its fingerprint are the plain ones.

    Args:
        plain: the images.
        augmentation: what training makes of them.
    """

    def __init__(self, plain: Split, augmentation: Augmentation) -> None:
        self._plain = plain
        self.augmentation = augmentation
        self.flip = plain.flip

    @property
    def fingerprint(self) -> str:
        """That of the plain images."""
        return self._plain.fingerprint

    def __len__(self) -> int:
        return len(self._plain)

    def images(self, indices: Indices) -> Tensor:
        """Plain images of the given indices: uint8 (B, C, H, W)."""
        return self._plain.images(indices)

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None."""
        return self._plain.labels(indices)


class Augmented(Derived):
    """A data set whose training split is an `AugmentedSplit`.

    Args:
        images: the data set; it also decides on splits, classes and its own flips, which come first and untold.
        augmentation: what training makes of its images.

    Raises:
        ConfigError: the images are the targets of pairs, or smaller than the filter that moves them.
    """

    def __init__(self, images: Dataset, augmentation: Augmentation) -> None:
        if conditions_of(images):
            raise ConfigError(f"dataset.images={images.name}: pairs cannot be augmented so: use the data set as it is")
        height, width = images.shape[1:]
        if min(height, width) < SMALLEST:
            raise ConfigError(
                f"dataset.images={images.name}: images of {height}x{width} pixels are too small for an augmentation, "
                f"{SMALLEST} a side are needed"
            )
        super().__init__(images)
        self.augment_dim = augmentation.numbers
        self._augmentation = augmentation

    def split(self, name: SplitName) -> Split:
        """The ``train`` split, augmented, or the plain ``test`` split."""
        plain = self._images.split(name)
        return AugmentedSplit(plain, self._augmentation) if name == "train" else plain
