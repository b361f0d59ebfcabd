"""Decoding image files with Pillow: into one array, resized where asked, naming every file that cannot be used."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch.utils.data import get_worker_info

_CHUNK = 32  # images a task
_SMALL = 64  # pixels; below it Python's share of the work exceeds the decoder's and threads only wait for each other
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["stretch", "crop"]
FILTERS: tuple[str, ...] = get_args(Filter)
FITS: tuple[str, ...] = get_args(Fit)

# What Pillow's decoders (SyntaxError: broken PNG chunks) and archives raise for damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error, zipfile.BadZipFile,
    NotImplementedError, RuntimeError,
)  # fmt: skip
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # 8 bits a channel, or fewer


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What is taken of a file, and how it comes to the resolution.

    Attributes:
        halves: the file holds two pictures side by side: both are taken, the left one's channels first.
        resize: Pillow's filter; None: a picture of another size is a fault.
        fit: "stretch" a picture to the square, or "crop" its centre once the short side has the size (the pixels are
            those of torchvision's Resize and CenterCrop on Pillow images).
    """

    halves: bool = False
    resize: Filter | None = None
    fit: Fit = "crop"


PLAIN = Reading()


class _Unusable(Exception):
    """Carries the reason to `_decode`'s caller."""


class OnDisk:
    """Files of the file system, by their paths."""

    def __call__(self, path: str) -> bytes:
        """The content of a file."""
        with open(path, "rb") as handle:
            return handle.read()

    def stamp(self, path: str) -> str:
        """What changes with a file's content."""
        status = os.stat(path)
        return f"{status.st_size}\x1f{status.st_mtime_ns}"


class InZip:
    """Members of a zip archive, by paths that begin with the archive's; reading one compares its CRC-32.

    Each process opens the archive for itself: one that was handed over a fork would share its place in the file.

    Args:
        archive: the archive's path.
    """

    def __init__(self, archive: str) -> None:
        self._archive, self._opened = archive, (0, None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file."""
        return {"_archive": self._archive, "_opened": (0, None)}

    def __call__(self, path: str) -> bytes:
        """The content of a member."""
        return self._file().read(self._member(path))

    def stamp(self, path: str) -> str:
        """What changes with a member's content, by the archive's directory."""
        info = self._file().getinfo(self._member(path))
        return f"{info.file_size}\x1f{info.CRC}"

    def _member(self, path: str) -> str:
        return path[len(self._archive) + 1 :]

    def _file(self) -> zipfile.ZipFile:
        owner, opened = self._opened
        if opened is None or owner != os.getpid():
            opened = zipfile.ZipFile(self._archive)
            self._opened = (os.getpid(), opened)
        return opened


Reader = OnDisk | InZip
DISK = OnDisk()


def decode(paths: Sequence[str], out: np.ndarray, reading: Reading = PLAIN, read: Reader = DISK) -> list[Fault]:
    """Decode files into `out`, in threads where that helps (Pillow's decoders release the interpreter's lock).

    Grey and colour are converted into each other, transparency is dropped.

    Args:
        paths: n file names.
        out: uint8 array (n, C, H, W) with C = 1 or 3, twice that for two halves; rows of files with faults are left as
            they are.
        reading: what is taken of a file.
        read: gives the bytes of a file.

    Returns:
        the files that are missing, damaged, of another size, or of more than 8 bits a channel, in the order of `paths`.
    """

    def task(start: int) -> list[Fault]:
        return list(_decode_some(paths[start : start + _CHUNK], out[start : start + _CHUNK], reading, read))

    starts = range(0, len(paths), _CHUNK)
    threads = min(_threads(out.shape[-1]), len(starts))
    if threads <= 1:
        return [fault for start in starts for fault in task(start)]
    with ThreadPoolExecutor(threads) as pool:
        return [fault for faults in pool.map(task, starts) for fault in faults]


def check_headers(paths: Sequence[str], resolution: int, reading: Reading = PLAIN, read: Reader = DISK) -> list[Fault]:
    """The files whose header cannot be read or names a size that cannot be used; pixels are not decoded."""
    return [fault for path in paths if (fault := _check_header(path, resolution, reading, read)) is not None]


def _threads(resolution: int) -> int:
    if resolution < _SMALL or get_worker_info() is not None:  # a loader's worker is one of several already
        return 1
    return min(8, os.cpu_count() or 1)


def _decode_some(paths: Sequence[str], out: np.ndarray, reading: Reading, read: Reader) -> Iterator[Fault]:
    count = 2 if reading.halves else 1
    channels, resolution = out.shape[1] // count, out.shape[2]
    for path, row in zip(paths, out, strict=True):
        try:
            pictures = _pictures(path, "RGB" if channels == 3 else "L", resolution, reading, read)
            for place, picture in enumerate(pictures):
                pixels = np.asarray(picture).reshape(resolution, resolution, channels)
                row[place * channels : (place + 1) * channels] = pixels.transpose(2, 0, 1)
        except _Unusable as error:
            yield Fault(path, str(error))


def _pictures(path: str, mode: str, resolution: int, reading: Reading, read: Reader) -> list[Any]:
    """The picture of a file, or its two halves, as Pillow's images of the resolution."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(path))) as image:
            _check_form(image, resolution, reading)
            whole = image if image.mode == mode else image.convert(mode)
            return [_fitted(part, resolution, reading) for part in _parts(whole, reading)]
    except _DAMAGE as error:
        raise _Unusable(_reason(error)) from error
    except Image.DecompressionBombError as error:
        raise _Unusable("is far too large") from error


def _parts(image: Any, reading: Reading) -> list[Any]:
    if not reading.halves:
        image.load()  # a file that was not converted is still unread
        return [image]
    width, height = image.size
    return [image.crop((0, 0, width // 2, height)), image.crop((width // 2, 0, width, height))]


def _fitted(image: Any, resolution: int, reading: Reading) -> Any:
    """The picture at the resolution."""
    from PIL import Image

    width, height = image.size
    if (width, height) == (resolution, resolution):
        return image
    method = Image.Resampling[reading.resize.upper()]
    if reading.fit == "stretch":
        return image.resize((resolution, resolution), method)
    short = min(width, height)
    image = image.resize((resolution * width // short, resolution * height // short), method)
    left, top = round((image.size[0] - resolution) / 2), round((image.size[1] - resolution) / 2)
    return image.crop((left, top, left + resolution, top + resolution))


def _check_header(path: str, resolution: int, reading: Reading, read: Reader) -> Fault | None:
    from PIL import Image

    try:
        # of a file on the disk only the header is read; a member of an archive is small, and read whole
        with Image.open(path if isinstance(read, OnDisk) else io.BytesIO(read(path))) as image:
            _check_form(image, resolution, reading)
    except _DAMAGE as error:
        return Fault(path, _reason(error))
    except _Unusable as error:
        return Fault(path, str(error))
    except Image.DecompressionBombError:
        return Fault(path, "is far too large")
    return None


def _check_form(image: Any, resolution: int, reading: Reading) -> None:
    width, height = image.size
    if reading.halves and width % 2:
        raise _Unusable(f"is {width} pixels wide, which makes no two halves")
    wanted = (2 * resolution if reading.halves else resolution, resolution)
    if reading.resize is None and (width, height) != wanted:
        raise _Unusable(f"is {width}x{height}, not {wanted[0]}x{wanted[1]}")
    if image.mode not in _MODES:
        raise _Unusable(f"has pixels of type {image.mode}, not 8 bits a channel")


def _reason(error: Exception) -> str:
    """What is wrong with the file, in one line and without its name."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return (error.strerror or "cannot be read").lower()
    if type(error).__name__ == "UnidentifiedImageError":
        return "is empty, damaged, or not an image"
    return "is damaged: " + " ".join(str(error).split())
