"""Images in an npz file, as samplers and other projects write them: `images` or `arr_0`, with `labels` or `arr_1`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.arrays import LABELS, read_arrays, read_images
from diffexp.dataset.files import check_share
from diffexp.dataset.listing import divide
from diffexp.dataset.split import ArraySplit, Split, SplitName, pick_split


class NpzImages:
    """Square images of one size in an npz file, which are read into memory.

    Args:
        path: the file; its array ``images`` or ``arr_0`` is uint8 (N, H, W, C).
        resolution: height and width in pixels.
        channels: 3 (colour) or 1 (grey).
        labels: give the classes of its array ``labels`` or ``arr_1``: N whole numbers.
        classes: how many there are; needed with `labels`.
        test: another file, whose images are the test split; null holds out a share by a hash of the images' places.
        held_out: that share, in (0, 1).
        flip: mirror half of the training images.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        path: str,
        resolution: int,
        channels: Literal[1, 3] = 3,
        labels: bool = False,
        classes: int | None = None,
        test: str | None = None,
        held_out: float = 0.1,
        flip: bool = False,
    ) -> None:
        if resolution < 1:
            raise ConfigError(f"dataset.resolution={resolution} is not a size in pixels: did you mean 32?")
        if channels not in (1, 3):
            raise ConfigError(f"dataset.channels={channels} is neither 1 (grey) nor 3 (colour)")
        if labels != (classes is not None) or (classes is not None and classes < 1):
            raise ConfigError(f"dataset.classes={classes}: a number with dataset.labels=true, and null without")
        check_share(held_out)
        self.path, self.test, self.flip = path, test, flip
        self.name = Path(path).stem or "images"
        self.shape = (channels, resolution, resolution)
        self.num_classes = classes or 0
        self._held_out = held_out
        self._splits: dict[str, Split] = {}

    def prepare(self) -> None:
        """Read and verify the file; idempotent.

        Raises:
            DataError: a file is missing, damaged, or holds other images or labels than it should: it is named.
        """
        if self._splits:
            return
        images, labels = self._read(self.path)
        if self.test is None:
            places = [f"{place:09d}" for place in range(len(images))]
            parts = dict(zip(("train", "test"), divide(Path(self.path), places, self._held_out), strict=True))
            chosen = {name: np.array([int(place) for place in part]) for name, part in parts.items()}
            found = {name: (images[which], None if labels is None else labels[which]) for name, which in chosen.items()}
        else:
            found = {"train": (images, labels), "test": self._read(self.test)}
        self._splits = {name: ArraySplit(*arrays, self.flip and name == "train") for name, arrays in found.items()}

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split."""
        self.prepare()
        return pick_split(self._splits, name)

    def _read(self, path: str) -> tuple[np.ndarray, np.ndarray | None]:
        file = Path(path).expanduser()
        images = read_images(file)
        if images.shape[1:] != self.shape:
            told, wanted = ("x".join(map(str, size)) for size in (images.shape[1:], self.shape))
            raise DataError(
                f"'{path}' holds images of shape {told} (C, H, W), not {wanted}: compare dataset.resolution"
            )
        if not self.num_classes:
            return images, None
        found = read_arrays(file, LABELS)
        labels = found[next(name for name in LABELS if name in found)]
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DataError(f"'{path}': labels are {labels.dtype} of shape {labels.shape}, not {len(images)} integers")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"'{path}': labels are {labels.min()} to {labels.max()}, outside 0 to {self.num_classes - 1}"
            )
        return images, labels
