"""Decoding image files with Pillow: into one array, naming every file that cannot be used."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch.utils.data import get_worker_info

_CHUNK = 32  # images a task
_SMALL = 64  # pixels; below it Python's share of the work exceeds the decoder's and threads only wait for each other
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # 8 bits a channel, or fewer


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used, and why."""

    path: str
    reason: str


class _Unusable(Exception):
    """Carries the reason to `_decode`'s caller."""


def decode(paths: Sequence[str], out: np.ndarray) -> list[Fault]:
    """Decode files into `out`, in threads where that helps (Pillow's decoders release the interpreter's lock).

    Grey and colour are converted into each other, transparency is dropped, nothing is resized.

    Args:
        paths: n file names.
        out: uint8 array (n, C, H, W) with C = 1 or 3; rows of files with faults are left as they are.

    Returns:
        the files that are missing, damaged, of another size, or of more than 8 bits a channel, in the order of `paths`.
    """

    def task(start: int) -> list[Fault]:
        return list(_decode_some(paths[start : start + _CHUNK], out[start : start + _CHUNK]))

    starts = range(0, len(paths), _CHUNK)
    threads = min(_threads(out.shape[-1]), len(starts))
    if threads <= 1:
        return [fault for start in starts for fault in task(start)]
    with ThreadPoolExecutor(threads) as pool:
        return [fault for faults in pool.map(task, starts) for fault in faults]


def check_headers(paths: Sequence[str], resolution: int) -> list[Fault]:
    """The files whose header cannot be read or names another size; pixels are not decoded."""
    return [fault for path in paths if (fault := _check_header(path, resolution)) is not None]


def _threads(resolution: int) -> int:
    if resolution < _SMALL or get_worker_info() is not None:  # a loader's worker is one of several already
        return 1
    return min(8, os.cpu_count() or 1)


def _decode_some(paths: Sequence[str], out: np.ndarray) -> Iterator[Fault]:
    channels, resolution = out.shape[1], out.shape[2]
    for path, row in zip(paths, out, strict=True):
        try:
            row[...] = (
                _pixels(path, "RGB" if channels == 3 else "L", resolution)
                .reshape(resolution, resolution, channels)
                .transpose(2, 0, 1)
            )
        except _Unusable as error:
            yield Fault(path, str(error))


def _pixels(path: str, mode: str, resolution: int) -> np.ndarray:
    from PIL import Image

    try:
        with open(path, "rb") as handle:
            data = handle.read()
        with Image.open(io.BytesIO(data)) as image:
            _check_form(image, resolution)
            return np.asarray(image if image.mode == mode else image.convert(mode))
    # What Pillow's decoders raise for damaged files (SyntaxError: broken PNG chunks).
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise _Unusable(_reason(error)) from error
    except Image.DecompressionBombError as error:
        raise _Unusable("is far too large") from error


def _check_header(path: str, resolution: int) -> Fault | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            _check_form(image, resolution)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        return Fault(path, _reason(error))
    except _Unusable as error:
        return Fault(path, str(error))
    except Image.DecompressionBombError:
        return Fault(path, "is far too large")
    return None


def _check_form(image: object, resolution: int) -> None:
    width, height = image.size
    if (width, height) != (resolution, resolution):
        raise _Unusable(f"is {width}x{height}, not {resolution}x{resolution}")
    if image.mode not in _MODES:
        raise _Unusable(f"has pixels of type {image.mode}, not 8 bits a channel")


def _reason(error: Exception) -> str:
    """What is wrong with the file, in one line and without its name."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return (error.strerror or "cannot be read").lower()
    if type(error).__name__ == "UnidentifiedImageError":
        return "is empty, damaged, or not an image"
    return "is damaged: " + " ".join(str(error).split())
