"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in ten classes (A. Krizhevsky, 2009).

torchvision downloads, checks (MD5) and reads the original archive; it is imported when the data are read.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from diffexp.core.errors import DataError
from diffexp.dataset.split import ArraySplit, Split, SplitName, pick_split

_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class Cifar10:
    """The original CIFAR-10 with its own split.

    Args:
        root: the folder that holds torchvision's layout ``cifar-10-batches-py/data_batch_1`` and so on.
        download: fetch the archive (170 MB) into `root` when it is not there.
        labels: give class labels (`num_classes` 10).
        flip: mirror half of the training images.
    """

    name = "cifar10"
    shape = (3, 32, 32)

    def __init__(self, root: str, download: bool = False, labels: bool = False, flip: bool = True) -> None:
        self.root, self.download, self.flip = root, download, flip
        self.num_classes = 10 if labels else 0
        self._splits: dict[str, Split] = {}

    def prepare(self) -> None:
        """Check and read the archive into memory (184 MB); idempotent.

        Raises:
            DataError: the archive is missing (says how to get it) or damaged (names the file), or torchvision is.
        """
        if self._splits:
            return
        root = Path(self.root).expanduser()
        if not self.download and not (root / "cifar-10-batches-py").is_dir():
            raise DataError(
                f"CIFAR-10 is not in '{self.root}' (no folder 'cifar-10-batches-py'): set dataset.download=true, or "
                f"unpack cifar-10-python.tar.gz of {_PAGE} there, or set dataset.root or the variable DIFFEXP_DATA"
            )
        datasets = _torchvision_datasets()
        if not self.download:
            _check_files(datasets, root)
        splits: dict[str, Split] = {}
        for name in ("train", "test"):
            data, targets = self._read(datasets, root, name == "train")
            labels = targets if self.num_classes else None
            splits[name] = ArraySplit(data.transpose(0, 3, 1, 2), labels, self.flip and name == "train")
        self._splits = splits

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split."""
        self.prepare()
        return pick_split(self._splits, name)

    def _read(self, datasets: ModuleType, root: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        try:
            archive = datasets.CIFAR10(str(root), train=train, download=self.download)
        except (OSError, RuntimeError) as error:  # no network, no space, or a checksum that differs
            reason = " ".join(str(error).split())
            raise DataError(f"CIFAR-10 could not be read from '{self.root}': {reason}") from error
        return archive.data, np.asarray(archive.targets)


def _torchvision_datasets() -> ModuleType:
    try:
        from torchvision import datasets
    # A torchvision that was built for another torch fails with RuntimeError while it registers its operators.
    except (ImportError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"CIFAR-10 is read by torchvision, which cannot be imported ({reason}): install it") from error
    return datasets


def _check_files(datasets: ModuleType, root: Path) -> None:
    """Name the missing or damaged file; torchvision says only that there is one."""
    archive = datasets.CIFAR10
    files = [*archive.train_list, *archive.test_list, [archive.meta["filename"], archive.meta["md5"]]]
    for name, md5 in files:
        path = root / archive.base_folder / name
        if not path.is_file():
            raise DataError(f"CIFAR-10 is incomplete: '{path}' is missing")
        if not datasets.utils.check_integrity(str(path), md5):
            raise DataError(f"CIFAR-10 is damaged: '{path}' differs from the original (MD5); unpack the archive anew")
