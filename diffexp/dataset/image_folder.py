"""A folder of image files as a data set: sub-folders are the classes, ``train/`` and ``test/`` the splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.decode import Fault, check_headers, decode
from diffexp.dataset.listing import Listing, class_names, folder_of, list_splits
from diffexp.dataset.split import ArraySplit, Indices, PixelHash, Split, SplitName, pick_split

_MEMORY_LIMIT = 2 * 2**30  # bytes; decoded images of both splits
_BLOCK = 64 * 2**20  # bytes; images that are verified at a time


class ImageFolder:
    """Square images of one size in a folder: jpg, jpeg, png, webp, bmp.

    Layouts: ``PATH/train/CLASS/x.png`` with ``PATH/test/CLASS/y.png``, or ``PATH/CLASS/x.png``, of which a share is
    held out by a hash of the file names. Without `labels` the images may also lie directly in the folders.
    Nothing is read before `prepare`, except by `num_classes` with `labels`, which lists the sub-folders.
    Nothing is resized and orientation tags are ignored: an image of another size is an error.

    Args:
        path: the folder.
        resolution: height and width in pixels.
        channels: 3 (colour) or 1 (grey); files of the other kind are converted.
        labels: the sub-folders' sorted names are the classes.
        held_out: share of the images, in (0, 1), that is the test split where there is no ``test/`` folder.
        verify: ``full`` decodes every image in `prepare`; ``header`` reads only size and type, for folders too large
            to be read twice (damage is then met later; images that go into memory are always verified fully).
        in_memory: keep decoded images; null: when both splits take at most 2 GiB.
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
        held_out: float = 0.1,
        verify: Literal["full", "header"] = "full",
        in_memory: bool | None = None,
        flip: bool = False,
    ) -> None:
        if resolution < 1:
            raise ConfigError(f"dataset.resolution={resolution} is not a size in pixels: did you mean 32?")
        if channels not in (1, 3):
            raise ConfigError(f"dataset.channels={channels} is neither 1 (grey) nor 3 (colour)")
        if not 0 < held_out < 1:
            raise ConfigError(f"dataset.held_out={held_out} is not a share between 0 and 1: did you mean 0.1?")
        if verify not in ("full", "header"):
            raise ConfigError(f"dataset.verify={verify} is unknown: choose from full, header")
        self.path = path
        self.name = Path(path).name or "images"
        self.shape = (channels, resolution, resolution)
        self.flip = flip
        self._labels, self._held_out = labels, held_out
        self._full, self._in_memory = verify == "full", in_memory
        self._splits: dict[str, Split] = {}
        self._classes: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of class folders, 0 without `labels`; raises DataError when the folder is missing."""
        if self._labels and self._classes is None:
            self._classes = len(class_names(folder_of(self.path)))
        return self._classes or 0

    def prepare(self) -> None:
        """List, verify and (when small) read the images; idempotent.

        Raises:
            DataError: the folder is missing or empty, or files are damaged or of another size: the first is named,
                all are counted.
        """
        if self._splits:
            return
        listings = list_splits(folder_of(self.path), self._labels, self._held_out)
        size = sum(len(listing.files) for listing in listings.values()) * int(np.prod(self.shape))
        in_memory = size <= _MEMORY_LIMIT if self._in_memory is None else self._in_memory
        splits: dict[str, Split] = {}
        faults: list[Fault] = []
        for name, listing in listings.items():
            read = self._read if in_memory else self._verify
            splits[name], found = read(listing, self.flip and name == "train")
            faults += found
        if faults:
            count = sum(len(listing.files) for listing in listings.values())
            raise DataError(
                f"{len(faults)} of {count} images in '{self.path}' cannot be used; "
                f"the first: '{faults[0].path}' {faults[0].reason}"
            )
        self._splits = splits

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split."""
        self.prepare()
        return pick_split(self._splits, name)

    def _read(self, listing: Listing, flip: bool) -> tuple[Split, list[Fault]]:
        images = np.empty((len(listing.files), *self.shape), dtype=np.uint8)
        faults = decode(listing.paths(), images)
        labels = None if listing.labels is None else np.asarray(listing.labels)
        return ArraySplit(images, labels, flip), faults

    def _verify(self, listing: Listing, flip: bool) -> tuple[Split, list[Fault]]:
        if not self._full:
            faults = check_headers(listing.paths(), self.shape[-1])
            return FileSplit(listing, self.shape, _file_hash(listing) if not faults else "", flip), faults
        digest, faults = PixelHash(self.shape), []
        for paths, buffer in _blocks(listing.paths(), self.shape):
            faults += decode(paths, buffer)
            digest.update(buffer)
        return FileSplit(listing, self.shape, digest.text(), flip), faults


class FileSplit:
    """A split whose images are decoded when asked for.

    The fingerprint is that of the pixels, equal to the in-memory one, when they were verified fully; after a check of
    headers alone it covers names, sizes and times of modification: it then also changes when files are copied.
    """

    def __init__(self, listing: Listing, shape: tuple[int, int, int], fingerprint: str, flip: bool = False) -> None:
        self._paths = listing.paths()
        self._labels = None if listing.labels is None else torch.tensor(listing.labels, dtype=torch.int64)
        self._shape = shape
        self.fingerprint = fingerprint
        self.flip = flip

    def __len__(self) -> int:
        return len(self._paths)

    def images(self, indices: Indices) -> Tensor:
        """Images of the given indices: uint8 (B, C, H, W); raises DataError naming a file that became unreadable."""
        numbers = torch.as_tensor(indices, dtype=torch.int64).tolist()
        out = np.empty((len(numbers), *self._shape), dtype=np.uint8)
        faults = decode([self._paths[number] for number in numbers], out)
        if faults:
            raise DataError(f"'{faults[0].path}' {faults[0].reason}")
        return torch.from_numpy(out)

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None."""
        return None if self._labels is None else self._labels[torch.as_tensor(indices, dtype=torch.int64)]


def _blocks(paths: list[str], shape: tuple[int, int, int]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Pieces of a bounded size, each with a buffer (reused) for its images."""
    count = max(1, _BLOCK // int(np.prod(shape)))
    buffer = np.zeros((min(count, len(paths)), *shape), dtype=np.uint8)
    for start in range(0, len(paths), count):
        piece = paths[start : start + count]
        yield piece, buffer[: len(piece)]


def _file_hash(listing: Listing) -> str:
    digest = hashlib.sha256()
    for name, path in zip(listing.files, listing.paths(), strict=True):
        status = os.stat(path)
        digest.update(f"{Path(name).as_posix()}\x1f{status.st_size}\x1f{status.st_mtime_ns}\n".encode(errors="replace"))
    return f"files-sha256:{digest.hexdigest()[:32]}"
