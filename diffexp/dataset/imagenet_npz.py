"""Downsampled ImageNet in its npz form (P. Chrabaszcz, I. Loshchilov, F. Hutter, 2017, arXiv 1707.08819)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.listing import folder_of
from diffexp.dataset.npz import Rows, Source, Store, examine, read_labels
from diffexp.dataset.split import Indices, Split, SplitName, pick_split

_PAGE = "https://image-net.org/download-images"
_CLASSES = 1000
_FILES = {
    "train": [f"train_data_batch_{number}.npz" for number in range(1, 11)],
    "test": ["val_data.npz"],
}


class ImageNetNpz:
    """1,281,167 training and 50,000 validation images in eleven npz files, which are mapped and never held in memory.

    Each file has ``data``, uint8 (N, 3 * resolution ** 2) with the red plane first, and ``labels``, 1 .. 1000; other
    arrays (``mean``) are passed over. The first `prepare` reads every file once. Compressed ones are then copied beside
    themselves (15.7 GB at 64x64); a folder that cannot be written serves for uncompressed ones, but is verified anew
    by each `prepare`.

    The authors' scripts stretch whole images to the square, and number the classes as ImageNet's own kit does, not by
    their sorted names: neither pixels nor labels are those of a folder of central squares.

    Args:
        path: the folder of ``train_data_batch_1.npz`` to ``train_data_batch_10.npz`` and ``val_data.npz``.
        resolution: height and width in pixels, which the rows must have.
        labels: give class labels 0 .. 999, those of the files less one (`num_classes` 1000).
        flip: mirror half of the training images.

    Raises:
        ConfigError: the resolution is not one.
    """

    def __init__(self, path: str, resolution: int = 64, labels: bool = False, flip: bool = True) -> None:
        if resolution < 1:
            raise ConfigError(f"dataset.resolution={resolution} is not a size in pixels: did you mean 64?")
        self.path, self.flip = path, flip
        self.name = f"imagenet{resolution}_npz"  # other images than a folder of central squares
        self.shape = (3, resolution, resolution)
        self.num_classes = _CLASSES if labels else 0
        self._splits: dict[str, Split] = {}

    def prepare(self) -> None:
        """Verify the files, and copy compressed ones; idempotent, and cheap when it was done for the same files.

        Raises:
            DataError: a file is missing, damaged, or of another type or resolution (names it), or a copy cannot be
                written.
        """
        if self._splits:
            return
        folder = folder_of(self.path)
        names = [name for files in _FILES.values() for name in files]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"'{folder / missing[0]}' is missing ({len(missing)} of {len(names)} files are): unpack the npz form "
                f"of the downsampled ImageNet there ({_PAGE}), or set dataset.path or the variable DIFFEXP_DATA"
            )
        width = int(np.prod(self.shape))
        sources = {name: [examine(folder / file, width) for file in files] for name, files in _FILES.items()}
        # Labels are small: their faults are found before the gigabytes are read.
        labels = {name: self._labels(found) for name, found in sources.items()}
        store = Store(folder)
        splits: dict[str, Split] = {}
        for name, found in sources.items():
            rows, fingerprint = store.settle(name, found, self.shape)
            splits[name] = MappedSplit(rows, self.shape, labels[name], fingerprint, self.flip and name == "train")
        self._splits = splits

    def split(self, name: SplitName) -> Split:
        """The ``train`` images, or as ``test`` the validation images."""
        self.prepare()
        return pick_split(self._splits, name)

    def _labels(self, sources: Sequence[Source]) -> np.ndarray | None:
        if not self.num_classes:
            return None
        return np.concatenate([read_labels(source, _CLASSES) for source in sources])


class MappedSplit:
    """A split whose images are rows of files that each process maps when it first reads them.

    Args:
        rows: the files, in order.
        shape: (C, H, W) of the image in a row.
        labels: int64 (number of all rows,), or None.
        fingerprint: that of the pixels.
        flip: mirror half of the images in training.
    """

    def __init__(
        self,
        rows: Sequence[Rows],
        shape: tuple[int, int, int],
        labels: np.ndarray | None,
        fingerprint: str,
        flip: bool = False,
    ) -> None:
        self._rows, self._shape = list(rows), shape
        self._ends = np.cumsum([part.shape[0] for part in rows])
        self._labels = None if labels is None else torch.from_numpy(labels)
        self._maps: dict[int, np.ndarray] = {}
        self.fingerprint = fingerprint
        self.flip = flip

    def __getstate__(self) -> dict[str, object]:
        """Without the maps: pickled for a loader's process, they would be copied whole."""
        return {**self.__dict__, "_maps": {}}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def images(self, indices: Indices) -> Tensor:
        """Images of the given indices: uint8 (B, C, H, W), a copy; DataError naming a file that changed meanwhile."""
        places = torch.as_tensor(indices, dtype=torch.int64).numpy()
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"images are numbered 0 to {len(self) - 1}, not {places.min()} to {places.max()}")
        out = np.empty((len(places), *self._shape), dtype=np.uint8)
        parts = np.searchsorted(self._ends, places, side="right")
        for part in np.unique(parts).tolist():
            here = parts == part
            first = self._ends[part] - self._rows[part].shape[0]
            out[here] = self._map(part)[places[here] - first].reshape(-1, *self._shape)
        return torch.from_numpy(out)

    def labels(self, indices: Indices) -> Tensor | None:
        """Classes of the given indices: int64 (B,), or None."""
        return None if self._labels is None else self._labels[torch.as_tensor(indices, dtype=torch.int64)]

    def _map(self, part: int) -> np.ndarray:
        if part not in self._maps:
            self._maps[part] = self._rows[part].map()
        return self._maps[part]
