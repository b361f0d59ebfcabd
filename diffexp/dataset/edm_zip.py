"""Data sets in the zip form of EDM's and StyleGAN3's dataset_tool: image files, and their labels in dataset.json.

00000/img00000000.png, ...
dataset.json               {"labels": [["00000/img00000000.png", 6], ...]}, or {"labels": null}
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Literal

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.decode import InZip
from diffexp.dataset.files import Files, check_share
from diffexp.dataset.listing import EXTENSIONS, Listing, divide
from diffexp.dataset.split import Split, SplitName, pick_split

_LABELS = "dataset.json"


class EdmZip:
    """Square images of one size in a zip archive, which is not unpacked.

    The archives hold training images alone: another one is the test split, or a share is held out by a hash of the
    members' names.

    Args:
        path: the archive.
        resolution: height and width in pixels.
        channels: 3 (colour) or 1 (grey); files of the other kind are converted.
        labels: give the classes of dataset.json.
        test: another archive, whose images are the test split; null holds out a share.
        held_out: that share, in (0, 1).
        verify: ``full`` decodes every image in `prepare`; ``header`` reads only size and type (damage is then met
            later; images that go into memory are always verified fully).
        in_memory: keep decoded images; null: when both splits take at most 2 GiB.
        flip: mirror half of the training images.
        classes: with `labels`, how many there are, which is then known without the archive; null: the largest plus one.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        path: str,
        resolution: int,
        channels: Literal[1, 3] = 3,
        labels: bool = False,
        test: str | None = None,
        held_out: float = 0.1,
        verify: Literal["full", "header"] = "full",
        in_memory: bool | None = None,
        flip: bool = False,
        classes: int | None = None,
    ) -> None:
        self.shape = (channels, resolution, resolution)
        self._options = {"verify": verify, "in_memory": in_memory}
        Files(self.shape, **self._options)  # refuses what is out of range
        check_share(held_out)
        if classes is not None and (not labels or classes < 1):
            raise ConfigError(f"dataset.classes={classes}: needs dataset.labels=true and at least one class")
        self.path, self.test, self.flip = path, test, flip
        self.name = Path(path).stem or "images"
        self._labels, self._held_out, self._classes = labels, held_out, classes
        self._splits: dict[str, Split] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 without `labels`; may read dataset.json, and raise DataError as `prepare` does."""
        if self._labels and self._classes is None:
            self._classes = 1 + max(_read_labels(_file(self.path, "dataset.path")).values())
        return self._classes or 0

    def prepare(self) -> None:
        """List, verify and (when small) read the images; idempotent.

        Raises:
            DataError: an archive is missing, damaged or empty, images cannot be used (the first is named, all are
                counted), or dataset.json lacks a label or holds one that is no class.
        """
        if self._splits:
            return
        archive = _file(self.path, "dataset.path")
        if self.test is None:
            train, test = divide(archive, _images(archive), self._held_out)
            listings = {"train": self._listing(archive, train), "test": self._listing(archive, test)}
            self._splits = self._read(archive, listings)
        else:
            other = _file(self.test, "dataset.test")
            self._splits = {
                name: self._read(path, {name: self._listing(path, _images(path))})[name]
                for name, path in (("train", archive), ("test", other))
            }

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split."""
        self.prepare()
        return pick_split(self._splits, name)

    def _read(self, archive: Path, listings: dict[str, Listing]) -> dict[str, Split]:
        files = Files(self.shape, **self._options, read=InZip(str(archive)))
        return files.splits(listings, str(archive), self.flip)

    def _listing(self, archive: Path, names: list[str]) -> Listing:
        if not self._labels:
            return Listing(archive, names, None)
        known = _read_labels(archive)
        lacking = [name for name in names if name not in known]
        if lacking:
            raise DataError(f"'{archive}': {_LABELS} has no label of '{lacking[0]}' ({len(lacking)} images lack one)")
        labels = [known[name] for name in names]
        if max(labels) >= self.num_classes:
            raise DataError(
                f"'{archive}': {_LABELS} has a label {max(labels)}, and there are {self.num_classes} classes"
            )
        return Listing(archive, names, labels)


def _file(path: str, key: str) -> Path:
    archive = Path(path).expanduser()
    if not archive.is_file():
        what = "is a folder, not a zip archive: use dataset=image_folder" if archive.is_dir() else "does not exist"
        raise DataError(f"{key}: '{path}' {what}")
    return archive


def _images(archive: Path) -> list[str]:
    """The members that are images, sorted."""
    names = _opened(archive, lambda found: found.namelist())
    images = sorted(name for name in names if name.lower().endswith(EXTENSIONS))
    if not images:
        raise DataError(f"no images in '{archive}' (looked for {', '.join(EXTENSIONS)})")
    return images


def _read_labels(archive: Path) -> dict[str, int]:
    """Member -> class, from dataset.json."""
    text = _opened(archive, lambda found: found.read(_LABELS) if _LABELS in found.namelist() else None)
    if text is None:
        raise DataError(f"dataset.labels=true, but '{archive}' has no {_LABELS}")
    try:
        entries = json.loads(text)["labels"]
        found = None if entries is None else {str(name): label for name, label in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"'{archive}': {_LABELS} is not a file of labels ({error})") from error
    if not found:
        raise DataError(f"dataset.labels=true, but {_LABELS} of '{archive}' has no labels")
    for name, label in found.items():
        if isinstance(label, bool) or not isinstance(label, int) or label < 0:
            raise DataError(f"'{archive}': {_LABELS}: the label of '{name}' is {label!r}, not a class 0, 1, ...")
    return found


def _opened(archive: Path, look: Any) -> Any:
    """What `look` finds in an archive; DataError when it is damaged."""
    try:
        with zipfile.ZipFile(archive) as found:
            return look(found)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{archive}' is damaged, or not a zip archive: {reason}") from error
