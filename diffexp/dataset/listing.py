"""Finding the images of a folder: layouts, classes, and a held-out share that does not depend on a seed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from diffexp.core.errors import DataError, nearest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_HELD_OUT = ("test", "val", "valid", "validation")  # the first that is there is the test split
_SPLIT_NAMES = {"train", *_HELD_OUT}
_SHOWN = 3  # files that an error names


@dataclass(frozen=True)
class Listing:
    """The files of one split, in an order that depends only on their names.

    Attributes:
        root: the folder that `files` are relative to.
        files: relative paths, sorted by their parts.
        labels: class index of each file, or None.
    """

    root: Path
    files: list[str]
    labels: list[int] | None

    def paths(self) -> list[str]:
        """The files with their folder."""
        return [os.path.join(self.root, name) for name in self.files]


def folder_of(path: str, key: str = "dataset.path") -> Path:
    """The folder `path`, or a one-line DataError that names the nearest existing folder and the nearest name in it."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{key}: '{path}' is a file, not a folder")
    existing, missing = folder.absolute(), folder.name
    while not existing.is_dir():
        existing, missing = existing.parent, existing.name
    names = _sub_folders(existing)
    hint = nearest(missing, names)
    hint = f"; {hint}" if names and (len(names) <= 8 or hint.startswith("did")) else ""
    raise DataError(f"{key}: '{path}' does not exist (there is '{existing}', without '{missing}'{hint})")


def is_divided(folder: Path) -> bool:
    """Whether the folder holds ``train/`` and a held-out split; one without the other is refused."""
    names = set(_sub_folders(folder))
    if "train" in names and names & set(_HELD_OUT):
        return True
    if names and names <= _SPLIT_NAMES:
        there = "train" if "train" in names else held_out_folder(folder).name
        lacking = "test" if there == "train" else "train"
        raise DataError(
            f"dataset.path: '{folder}' has '{there}' but no '{lacking}': add it, or set dataset.path={folder / there}"
        )
    return False


def held_out_folder(folder: Path) -> Path:
    """The sub-folder that is the test split of a divided folder: ``test/``, or else ``val/`` and the like."""
    names = _sub_folders(folder)
    return folder / next(name for name in _HELD_OUT if name in names)


def class_names(folder: Path) -> list[str]:
    """The sorted names of the sub-folders that are the classes; a folder without any is refused."""
    root = folder / "train" if is_divided(folder) else folder
    names = _sub_folders(root)
    if not names:
        raise DataError(f"dataset.labels=true, but '{root}' has no sub-folders to name the classes")
    return names


def list_splits(folder: Path, labels: bool, held_out: float) -> dict[str, Listing]:
    """List the ``train`` and ``test`` images of `folder`.

    Args:
        folder: an existing folder; with both ``train/`` and ``test/`` (or ``val/``) these are the splits, otherwise a
            share is held out by a hash of the file's relative name: adding images never moves one to the other side.
        labels: take the first sub-folder of each file as its class.
        held_out: the share, in (0, 1), of images that go to ``test``; unused where the folder is divided.

    Raises:
        DataError: no images, an empty class or split, an image outside the classes.
    """
    classes = class_names(folder) if labels else []
    if is_divided(folder):
        roots = {"train": folder / "train", "test": held_out_folder(folder)}
        parts = {name: (root, _files(root)) for name, root in roots.items()}
    else:
        train, test = divide(folder, _files(folder), held_out)
        parts = {"train": (folder, train), "test": (folder, test)}
    splits = {name: Listing(root, files, _labels(root, files, classes)) for name, (root, files) in parts.items()}
    if labels:
        absent = set(range(len(classes))) - set(splits["train"].labels or [])
        if absent:
            name = classes[min(absent)]
            raise DataError(f"class '{name}' of '{folder}' has no training images ({', '.join(EXTENSIONS)})")
    return splits


def list_images(folder: Path) -> Listing:
    """All images of an existing folder, sub-folders included; DataError where there are none."""
    return Listing(folder, _files(folder), None)


def list_pairs(target: Path, source: Path, held_out: float) -> tuple[dict[str, Listing], dict[str, Listing]]:
    """List the splits of two folders whose files belong together by name, whatever their extensions are.

    Args:
        target, source: existing folders of one layout.
        held_out: see `list_splits`; the names in `target` decide.

    Returns:
        (targets, sources): for each split, listings of one order.

    Raises:
        DataError: files without a partner, the first of which are named; or as for `list_splits`.
    """
    targets, divided = list_splits(target, False, held_out), is_divided(target)
    if divided != is_divided(source):
        with_, without = (target, source) if divided else (source, target)
        raise DataError(f"dataset: '{with_}' is divided into train/ and test/, '{without}' is not")
    if not divided:
        files = [file for listing in targets.values() for file in listing.files]
        partner = dict(zip(files, _partners(target, files, source, _files(source)), strict=True))
        return targets, {
            name: Listing(source, [partner[file] for file in listing.files], None) for name, listing in targets.items()
        }
    roots = {"train": source / "train", "test": held_out_folder(source)}
    return targets, {
        name: Listing(roots[name], _partners(found.root, found.files, roots[name], _files(roots[name])), None)
        for name, found in targets.items()
    }


def _partners(target: Path, targets: list[str], source: Path, sources: list[str]) -> list[str]:
    """For each target the source of the same name."""
    wanted, found = _by_stem(target, targets), _by_stem(source, sources)
    for root, alone, other in (
        (target, [wanted[stem] for stem in wanted if stem not in found], source),
        (source, [found[stem] for stem in found if stem not in wanted], target),
    ):
        if alone:
            names = ", ".join(f"'{name}'" for name in alone[:_SHOWN]) + (", ..." if len(alone) > _SHOWN else "")
            raise DataError(f"{len(alone)} of the images in '{root}' have no partner in '{other}': {names}")
    return [found[stem] for stem in wanted]


def _by_stem(root: Path, files: list[str]) -> dict[str, str]:
    """Name without extension -> file, in the order of the files."""
    stems: dict[str, str] = {}
    for file in files:
        other = stems.setdefault(os.path.splitext(file)[0], file)
        if other != file:
            raise DataError(f"'{root / other}' and '{root / file}' would be one image of a pair: keep one of them")
    return stems


def _sub_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path) -> list[str]:
    """All images under `root`, as sorted relative paths; hidden files and folders are passed over."""
    found: list[tuple[str, ...]] = []
    for where, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parts = Path(where).relative_to(root).parts
        found += [(*parts, n) for n in names if n.lower().endswith(EXTENSIONS) and not n.startswith(".")]
    if not found:
        raise DataError(f"no images in '{root}' (looked for {', '.join(EXTENSIONS)}, sub-folders included)")
    return [os.path.join(*parts) for parts in sorted(found)]


def divide(root: Path, files: list[str], held_out: float) -> tuple[list[str], list[str]]:
    """Split files by a hash of their names: about the share `held_out`, and at least one, go to the test side.

    Args:
        root: where they are, for the error.

    Returns:
        (training files, test files), each in the given order; DataError where no file is left for training.
    """
    places = [_place(name) for name in files]
    bound = max(held_out, min(places))
    test = [name for name, place in zip(files, places, strict=True) if place <= bound]
    train = [name for name, place in zip(files, places, strict=True) if place > bound]
    if not train:
        raise DataError(f"dataset.held_out={held_out} leaves no training image of the {len(files)} in '{root}'")
    return train, test


def _place(name: str) -> float:
    digest = hashlib.blake2b(Path(name).as_posix().encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _labels(root: Path, files: list[str], classes: list[str]) -> list[int] | None:
    if not classes:
        return None
    index = {name: number for number, name in enumerate(classes)}
    labels = []
    for file in files:
        parts = Path(file).parts
        if len(parts) == 1:
            raise DataError(f"dataset.labels=true, but '{root / file}' lies outside the class folders")
        if parts[0] not in index:
            raise DataError(f"class folder '{root / parts[0]}' is not among the training classes")
        labels.append(index[parts[0]])
    return labels
