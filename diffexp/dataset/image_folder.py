"""A folder of image files as a data set: sub-folders are the classes, ``train/`` and ``test/`` the splits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.decode import Filter, Fit, Reading
from diffexp.dataset.files import Files, check_share
from diffexp.dataset.listing import class_names, folder_of, list_splits
from diffexp.dataset.split import Split, SplitName, pick_split


class ImageFolder:
    """Square images of one size in a folder: jpg, jpeg, png, webp, bmp.

    Layouts: ``PATH/train/CLASS/x.png`` with ``PATH/test/CLASS/y.png`` (or ``val/``), or ``PATH/CLASS/x.png``, of which
    a share is held out by a hash of the file names. Without `labels` the images may also lie directly in the folders.
    Nothing is read before `prepare`, except by `num_classes` with `labels` and no `classes`: it lists the sub-folders.
    Orientation tags are ignored, and without `resize` an image of another size is an error.

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
        resize: Pillow's filter for images of other sizes; null refuses them.
        fit: "stretch" an image to the square, or "crop" its centre after its short side has got the size.
        classes: with `labels`, how many sub-folders there have to be, which is then known without the folder.

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
        resize: Filter | None = None,
        fit: Fit = "crop",
        classes: int | None = None,
    ) -> None:
        self._files = Files((channels, resolution, resolution), Reading(False, resize, fit), verify, in_memory)
        check_share(held_out)
        self.path = path
        self.name = Path(path).name or "images"
        self.shape = self._files.shape
        self.flip = flip
        self._labels, self._held_out = labels, held_out
        self._splits: dict[str, Split] = {}
        if classes is not None and (not labels or classes < 1):
            raise ConfigError(f"dataset.classes={classes}: needs dataset.labels=true and at least one class")
        self._classes = classes

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
        if not self._splits:
            folder = folder_of(self.path)
            found = len(class_names(folder)) if self._labels else 0
            if found != self.num_classes:
                raise DataError(f"dataset.classes={self.num_classes}: '{self.path}' has {found} sub-folders")
            listings = list_splits(folder, self._labels, self._held_out)
            self._splits = self._files.splits(listings, self.path, self.flip)

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split."""
        self.prepare()
        return pick_split(self._splits, name)
