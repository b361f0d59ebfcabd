"""Data sets of pairs: a target image and the source that it is to be made from.

Two folders with files of the same names, files with both pictures side by side, or a degradation of any data set.
"""

from __future__ import annotations

import abc
import hashlib
from typing import Literal

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.image import to_float
from diffexp.dataset.decode import Filter, Fit, Reading
from diffexp.dataset.degradation import Degradation
from diffexp.dataset.files import Files, check_share
from diffexp.dataset.listing import folder_of, list_pairs, list_splits
from diffexp.dataset.split import Dataset, Derived, Indices, Pairs, Split, SplitName, pick_split


class _Paired(abc.ABC):
    """What the splits of pairs share: labels, length and flips are those of the split `inner`."""

    def __init__(self, inner: Split, *content: str) -> None:
        self._inner = inner
        self.flip = inner.flip
        text = "\n".join((inner.fingerprint, *content))
        self.fingerprint = f"pairs-sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    def __len__(self) -> int:
        return len(self._inner)

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None."""
        return self._inner.labels(indices)

    def images(self, indices: Indices) -> Tensor:
        """Targets of the given indices: uint8 (B, C, H, W)."""
        return self.pairs(indices).image

    @abc.abstractmethod
    def pairs(self, indices: Indices) -> Pairs:
        """The pairs of the given indices."""


class TwoSplits(_Paired):
    """Targets and sources from two splits of one order."""

    def __init__(self, target: Split, source: Split) -> None:
        super().__init__(target, source.fingerprint)
        self._source = source

    def images(self, indices: Indices) -> Tensor:
        """Targets of the given indices: uint8 (B, C, H, W)."""
        return self._inner.images(indices)

    def pairs(self, indices: Indices) -> Pairs:
        """The pairs of the given indices."""
        return Pairs(self._inner.images(indices), to_float(self._source.images(indices)), None)


class Halves(_Paired):
    """Targets and sources from a split whose images have the channels of both, the left picture's first."""

    def __init__(self, both: Split, source: Literal["left", "right"]) -> None:
        super().__init__(both, source)
        self._source = source

    def pairs(self, indices: Indices) -> Pairs:
        """The pairs of the given indices."""
        left, right = self._inner.images(indices).chunk(2, dim=1)
        image, source = (right, left) if self._source == "left" else (left, right)
        return Pairs(image, to_float(source), None)


class DegradedSplit(_Paired):
    """Targets from a split, sources made of them."""

    def __init__(self, images: Split, degradation: Degradation) -> None:
        super().__init__(images, repr(degradation))
        self._degradation = degradation

    def images(self, indices: Indices) -> Tensor:
        """Targets of the given indices: uint8 (B, C, H, W)."""
        return self._inner.images(indices)

    def pairs(self, indices: Indices) -> Pairs:
        """The pairs of the given indices."""
        images = self._inner.images(indices)
        return Pairs(images, *self._degradation(images))


class PairedFolders:
    """Targets in one folder, sources in another, under the same names (extensions may differ).

    Both folders are either divided into ``train/`` and ``test/`` (or ``val/``), or a share of the pairs is held out by
    a hash of the targets' names. An image without a partner is an error.

    Args:
        target: the folder of the images that are to be made.
        source: the folder of the images that they are made from.
        resolution: height and width in pixels.
        channels: 3 (colour) or 1 (grey), of both.
        name: what the data set is called in protocols.
        held_out: share of the pairs, in (0, 1), that is the test split where there is no ``test/`` folder.
        verify: see `ImageFolder`.
        in_memory: keep decoded images; null: when the targets, or the sources, take at most 2 GiB.
        flip: mirror half of the training pairs, both images together.
        resize: Pillow's filter for targets of other sizes; null refuses them.
        resize_source: likewise for sources; "nearest" keeps values that must not be mixed (normals, labels).
        fit: "stretch" an image to the square, or "crop" its centre after its short side has got the size.

    Raises:
        ConfigError: an argument is out of range.
    """

    num_classes = 0
    conditions = frozenset({"endpoint"})

    def __init__(
        self,
        target: str,
        source: str,
        resolution: int,
        channels: Literal[1, 3] = 3,
        name: str = "pairs",
        held_out: float = 0.1,
        verify: Literal["full", "header"] = "full",
        in_memory: bool | None = None,
        flip: bool = False,
        resize: Filter | None = None,
        resize_source: Filter | None = None,
        fit: Fit = "stretch",
    ) -> None:
        self.shape = (channels, resolution, resolution)
        self._target_files = Files(self.shape, Reading(False, resize, fit), verify, in_memory)
        self._source_files = Files(self.shape, Reading(False, resize_source, fit), verify, in_memory)
        check_share(held_out)
        self.name, self.flip = name, flip
        self._target, self._source, self._held_out = target, source, held_out
        self._splits: dict[str, Split] = {}

    def prepare(self) -> None:
        """List, match, verify and (when small) read the images; idempotent.

        Raises:
            DataError: a folder is missing or empty, an image has no partner, or files cannot be used: the first are
                named, all are counted.
        """
        if self._splits:
            return
        folders = folder_of(self._target, "dataset.target"), folder_of(self._source, "dataset.source")
        targets, sources = list_pairs(*folders, self._held_out)
        made = self._target_files.splits(targets, self._target, self.flip)
        given = self._source_files.splits(sources, self._source, False)
        self._splits = {name: TwoSplits(made[name], given[name]) for name in made}

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split, a `PairedSplit`."""
        self.prepare()
        return pick_split(self._splits, name)


class SideBySide:
    """Files with both pictures of a pair side by side, as pix2pix's archives have them.

    Args:
        path: a folder with ``train/`` and ``test/`` (or ``val/``), or one of which a share is held out.
        resolution: height and width of each picture in pixels.
        channels: 3 (colour) or 1 (grey).
        name: what the data set is called in protocols.
        source: the half that the other one is made from.
        held_out: share of the pairs, in (0, 1), that is the test split where there is no ``test/`` folder.
        verify: see `ImageFolder`.
        in_memory: keep decoded images; null: when they take at most 2 GiB.
        flip: mirror half of the training pairs, each picture by itself and both together.
        resize: Pillow's filter for halves of other sizes; null refuses them.
        fit: "stretch" a half to the square, or "crop" its centre after its short side has got the size.

    Raises:
        ConfigError: an argument is out of range.
    """

    num_classes = 0
    conditions = frozenset({"endpoint"})

    def __init__(
        self,
        path: str,
        resolution: int,
        channels: Literal[1, 3] = 3,
        name: str = "pairs",
        source: Literal["left", "right"] = "left",
        held_out: float = 0.1,
        verify: Literal["full", "header"] = "full",
        in_memory: bool | None = None,
        flip: bool = False,
        resize: Filter | None = None,
        fit: Fit = "stretch",
    ) -> None:
        if source not in ("left", "right"):
            raise ConfigError(f"dataset.source={source} is neither left nor right")
        self.shape = (channels, resolution, resolution)
        self._files = Files(self.shape, Reading(True, resize, fit), verify, in_memory)
        check_share(held_out)
        self.path, self.name, self.flip = path, name, flip
        self._source, self._held_out = source, held_out
        self._splits: dict[str, Split] = {}

    def prepare(self) -> None:
        """List, verify and (when small) read the files; idempotent. DataError as for `ImageFolder`."""
        if not self._splits:
            listings = list_splits(folder_of(self.path), False, self._held_out)
            both = self._files.splits(listings, self.path, self.flip)
            self._splits = {name: Halves(split, self._source) for name, split in both.items()}

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split, a `PairedSplit`."""
        self.prepare()
        return pick_split(self._splits, name)


class Degraded(Derived):
    """Pairs made of the images of any data set: each is a target, and what a degradation leaves of it the source.

    Args:
        images: the data set of the targets; it also decides on splits, classes and flips.
        degradation: how sources are made.
        name: what the data set is called in protocols; null: the name of `images`.

    Raises:
        ConfigError: the images cannot be degraded so.
    """

    def __init__(self, images: Dataset, degradation: Degradation, name: str | None = None) -> None:
        degradation.check(tuple(images.shape))
        super().__init__(images)
        self.name = self.name if name is None else name
        self.conditions = frozenset({"endpoint", "mask"} if degradation.masks else {"endpoint"})
        self._degradation = degradation

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split, a `PairedSplit`."""
        return DegradedSplit(self._images.split(name), self._degradation)
