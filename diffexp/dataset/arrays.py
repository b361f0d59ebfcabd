"""Arrays of images in npz files, as evaluators and samplers of other projects write them: uint8 (N, H, W, C)."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from diffexp.core.errors import DataError, DiffexpError

IMAGES = ("images", "arr_0")
"""Where images lie: diffexp's own name, and what ``numpy.savez(path, images)`` calls its first array."""
LABELS = ("labels", "arr_1")

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError)


def read_arrays(path: Path, names: Collection[str], error: type[DiffexpError] = DataError) -> dict[str, np.ndarray]:
    """Those of the named arrays that an npz file has; reading them compares their checksums.

    Args:
        path: the file.
        names: of the arrays.
        error: what is raised.

    Raises:
        error: there is no such file, it is damaged or no npz file, holds pickled objects, or none of these arrays.
    """
    if not path.is_file():
        raise error(f"'{path}' is a folder, not an npz file" if path.is_dir() else f"'{path}' does not exist")
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an archive of named ones")
        with opened as archive:
            held = list(archive.files)
            found = {name: archive[name] for name in names if name in held}
    except _DAMAGE as cause:
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise error(f"'{path}' is damaged, or not an npz file: {reason}") from cause
    if not found:
        told = ", ".join(held[:8]) or "nothing"
        raise error(f"'{path}' has no array {' or '.join(map(repr, names))} (it holds {told})")
    return found


def read_images(path: Path, names: Sequence[str] = IMAGES, error: type[DiffexpError] = DataError) -> np.ndarray:
    """The images of an npz file, uint8 (N, C, H, W), a view; the first of the names that it has.

    Raises:
        error: as `read_arrays`, or the array is not uint8 (N, H, W, 1 or 3) with N >= 1.
    """
    found = read_arrays(path, names, error)
    name = next(name for name in names if name in found)
    images = found[name]
    if images.dtype != np.uint8:
        raise error(f"'{path}': array '{name}' is {images.dtype}, not uint8: images are bytes, 0 to 255")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        told = "x".join(map(str, images.shape))
        raise error(f"'{path}': array '{name}' has shape {told}, not (N, H, W, C) with C = 1 or 3")
    return images.transpose(0, 3, 1, 2)
