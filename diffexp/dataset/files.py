"""From listed files to splits: verified, and held in memory or decoded when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, DataError, nearest
from diffexp.dataset.decode import DISK, FILTERS, FITS, PLAIN, Fault, Reader, Reading, check_headers, decode
from diffexp.dataset.listing import Listing
from diffexp.dataset.split import ArraySplit, Indices, PixelHash, Split

_MEMORY_LIMIT = 2 * 2**30  # bytes; decoded images of all splits
_BLOCK = 64 * 2**20  # bytes; images that are verified at a time


@dataclass(frozen=True)
class Files:
    """How the image files of a data set are read.

    Args:
        shape: (C, H, W) of a picture; C is 1 (grey) or 3 (colour), H = W.
        reading: what is taken of a file; of two halves, a split has the channels of both, the left one's first.
        verify: ``full`` decodes every image; ``header`` reads only size and type, for folders too large to be read
            twice (damage is then met later; images that go into memory are always verified fully).
        in_memory: keep decoded images; None: when all splits take at most 2 GiB.
        read: gives the bytes of a file.

    Raises:
        ConfigError: an argument is out of range.
    """

    shape: tuple[int, int, int]
    reading: Reading = PLAIN
    verify: Literal["full", "header"] = "full"
    in_memory: bool | None = None
    read: Reader = DISK

    def __post_init__(self) -> None:
        if self.shape[1] < 1:
            raise ConfigError(f"dataset.resolution={self.shape[1]} is not a size in pixels: did you mean 32?")
        if self.shape[0] not in (1, 3):
            raise ConfigError(f"dataset.channels={self.shape[0]} is neither 1 (grey) nor 3 (colour)")
        if self.verify not in ("full", "header"):
            raise ConfigError(f"dataset.verify={self.verify} is unknown: choose from full, header")
        if self.reading.resize not in (None, *FILTERS):
            raise ConfigError(
                f"dataset.resize={self.reading.resize} is unknown: {nearest(self.reading.resize, FILTERS)}"
            )
        if self.reading.fit not in FITS:
            raise ConfigError(f"dataset.fit={self.reading.fit} is unknown: {nearest(self.reading.fit, FITS)}")

    @property
    def _stacked(self) -> tuple[int, int, int]:
        """(C, H, W) of what is decoded of one file."""
        channels, height, width = self.shape
        return (2 * channels if self.reading.halves else channels, height, width)

    def splits(self, listings: Mapping[str, Listing], where: str, flip: bool) -> dict[str, Split]:
        """Verify the files and make a split of each listing.

        Args:
            listings: by name of the split.
            where: the folder as errors name it.
            flip: mirror half of the images of the split ``train``.

        Raises:
            DataError: files are damaged or of another size: the first is named, all are counted.
        """
        size = sum(len(listing.files) for listing in listings.values()) * int(np.prod(self._stacked))
        in_memory = size <= _MEMORY_LIMIT if self.in_memory is None else self.in_memory
        splits: dict[str, Split] = {}
        faults: list[Fault] = []
        for name, listing in listings.items():
            read = self._read if in_memory else self._verify
            splits[name], found = read(listing, flip and name == "train")
            faults += found
        if faults:
            count = sum(len(listing.files) for listing in listings.values())
            raise DataError(
                f"{len(faults)} of {count} images in '{where}' cannot be used; "
                f"the first: '{faults[0].path}' {faults[0].reason}"
            )
        return splits

    def _read(self, listing: Listing, flip: bool) -> tuple[Split, list[Fault]]:
        images = np.empty((len(listing.files), *self._stacked), dtype=np.uint8)
        faults = decode(listing.paths(), images, self.reading, self.read)
        labels = None if listing.labels is None else np.asarray(listing.labels)
        return ArraySplit(images, labels, flip), faults

    def _verify(self, listing: Listing, flip: bool) -> tuple[Split, list[Fault]]:
        shape, reading = self._stacked, self.reading
        if self.verify == "header":
            faults = check_headers(listing.paths(), shape[-1], reading, self.read)
            fingerprint = "" if faults else _file_hash(listing, reading, self.read)
            return FileSplit(listing, shape, fingerprint, flip, reading, self.read), faults
        digest, faults = PixelHash(shape), []
        for paths, buffer in _blocks(listing.paths(), shape):
            faults += decode(paths, buffer, reading, self.read)
            digest.update(buffer)
        return FileSplit(listing, shape, digest.text(), flip, reading, self.read), faults


class FileSplit:
    """A split whose images are decoded when asked for.

    The fingerprint is that of the pixels, equal to the in-memory one, when they were verified fully; after a check of
    headers alone it covers names, sizes and times of modification: it then also changes when files are copied.
    """

    def __init__(
        self,
        listing: Listing,
        shape: tuple[int, int, int],
        fingerprint: str,
        flip: bool = False,
        reading: Reading = PLAIN,
        read: Reader = DISK,
    ) -> None:
        self._paths, self._read = listing.paths(), read
        self._labels = None if listing.labels is None else torch.tensor(listing.labels, dtype=torch.int64)
        self._shape, self._reading = shape, reading
        self.fingerprint = fingerprint
        self.flip = flip

    def __len__(self) -> int:
        return len(self._paths)

    def images(self, indices: Indices) -> Tensor:
        """Images of the given indices: uint8 (B, C, H, W); raises DataError naming a file that became unreadable."""
        numbers = torch.as_tensor(indices, dtype=torch.int64).tolist()
        out = np.empty((len(numbers), *self._shape), dtype=np.uint8)
        faults = decode([self._paths[number] for number in numbers], out, self._reading, self._read)
        if faults:
            raise DataError(f"'{faults[0].path}' {faults[0].reason}")
        return torch.from_numpy(out)

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None."""
        return None if self._labels is None else self._labels[torch.as_tensor(indices, dtype=torch.int64)]


def check_share(held_out: float) -> None:
    """Refuse a held-out share out of (0, 1): ConfigError."""
    if not 0 < held_out < 1:
        raise ConfigError(f"dataset.held_out={held_out} is not a share between 0 and 1: did you mean 0.1?")


def _blocks(paths: list[str], shape: tuple[int, int, int]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Pieces of a bounded size, each with a buffer (reused) for its images."""
    count = max(1, _BLOCK // int(np.prod(shape)))
    buffer = np.zeros((min(count, len(paths)), *shape), dtype=np.uint8)
    for start in range(0, len(paths), count):
        piece = paths[start : start + count]
        yield piece, buffer[: len(piece)]


def _file_hash(listing: Listing, reading: Reading, read: Reader) -> str:
    digest = hashlib.sha256(b"" if reading == PLAIN else repr(reading).encode())
    for name, path in zip(listing.files, listing.paths(), strict=True):
        digest.update(f"{Path(name).as_posix()}\x1f{read.stamp(path)}\n".encode(errors="replace"))
    return f"files-sha256:{digest.hexdigest()[:32]}"
