"""Rows of bytes in npz files too large for memory: mapped where they lie uncompressed, else copied once into npy files.

An npz file is a zip archive of npy files. A member that is stored as it is can be mapped in the archive itself; a
compressed one cannot, and is written beside the archive as ``NAME.pixels.npy``. Each archive is read whole once, which
its CRC-32 verifies and the fingerprint needs; ``verified.json`` beside it remembers that until the archive changes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffexp.core.errors import DataError
from diffexp.core.files import atomic_path, write_json_atomic
from diffexp.dataset.split import PixelHash

RECORD = "verified.json"
_BLOCK = 64 * 2**20  # bytes that are read at a time
_LOCAL = struct.Struct("<26x2H")  # of a zip member's own header: the lengths of its name and of its extra field
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Rows:
    """Rows of bytes within a file that has been verified.

    Attributes:
        path: the file.
        offset: its byte at which the rows begin.
        shape: (number of rows, bytes of each).
        stamp: size and time of modification when it was verified.
    """

    path: Path
    offset: int
    shape: tuple[int, int]
    stamp: tuple[int, int]

    def map(self) -> np.ndarray:
        """The rows, uint8 of `shape`, read from the disk as they are used; DataError if the file is another by now."""
        try:
            if _stamp(self.path) == self.stamp:
                return np.memmap(self.path, np.uint8, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"'{self.path}' cannot be mapped: {error}") from error
        raise DataError(f"'{self.path}' has changed since it was verified: start again")


@dataclass(frozen=True)
class Source:
    """The array ``data`` of an archive, of which nothing but headers has been read.

    Attributes:
        rows: its place in the archive; meaningless when `stored` is false.
        stored: whether it lies there uncompressed.
        crc: its CRC-32 by the archive's directory.
    """

    rows: Rows
    stored: bool
    crc: int

    @property
    def stamp(self) -> list[int]:
        """Changes with the file."""
        return [*self.rows.stamp, self.crc]

    @property
    def cache(self) -> Path:
        """Where the rows of a compressed array are put."""
        return self.rows.path.with_suffix(".pixels.npy")

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows from the archive in pieces (n, bytes of a row); DataError naming a damaged archive, at the latest
        after the last one.
        """
        count, width = self.rows.shape
        step = max(1, _BLOCK // width)
        with _damage_named(self.rows.path), _opened(self.rows.path, "data") as (stream, _):
            _header(stream)
            for start in range(0, count, step):
                size = min(step, count - start) * width
                block = stream.read(size)
                if len(block) < size:
                    raise EOFError("it ends within its rows")
                yield np.frombuffer(block, np.uint8).reshape(-1, width)
            stream.read()  # nothing is left, but only now the checksum is compared


def examine(path: Path, width: int) -> Source:
    """Check the headers of the archive `path`, whose ``data`` are to be uint8 rows of `width` bytes.

    Raises:
        DataError: it is no archive, has no such array, or one of another type or shape.
    """
    with _damage_named(path), _opened(path, "data") as (stream, info):
        stamp = _stamp(path)
        shape, fortran, dtype = _header(stream)
        found = f"{dtype} of shape {'x'.join(map(str, shape))}"
        if dtype != np.uint8 or len(shape) != 2 or shape[1] != width or not shape[0]:
            raise DataError(f"'{path}': data are {found}, not uint8 rows of {width} bytes: compare dataset.resolution")
        if fortran:
            raise DataError(f"'{path}': data are stored column by column: save them in C order")
        if info.file_size != stream.tell() + math.prod(shape):
            raise DataError(f"'{path}' is damaged: {info.file_size} bytes cannot be {found}")
        offset = _begin(path, info) + stream.tell()
    return Source(Rows(path, offset, shape, stamp), info.compress_type == zipfile.ZIP_STORED, info.CRC)


def read_labels(source: Source, classes: int) -> np.ndarray:
    """The array ``labels`` of an archive, numbered from 1 there and from 0 here: int64 (number of rows,).

    Raises:
        DataError: there is none, it is damaged, or it does not hold one of 1 .. `classes` for each row.
    """
    path, count = source.rows.path, source.rows.shape[0]
    with _damage_named(path), _opened(path, "labels") as (stream, _):
        labels = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read()
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(f"'{path}': labels are {labels.dtype} of shape {labels.shape}, not {count} integers")
    if labels.min() < 1 or labels.max() > classes:
        raise DataError(f"'{path}': labels are {labels.min()} to {labels.max()}, outside 1 to {classes}")
    return labels.astype(np.int64) - 1


class Store:
    """What is known of the archives of a folder, and the copies of the compressed ones.

    Args:
        folder: where the record is; that it cannot be written only costs another verification next time.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / RECORD
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def settle(self, name: str, sources: Sequence[Source], shape: tuple[int, int, int]) -> tuple[list[Rows], str]:
        """Have all rows in files that can be mapped, verified.

        Nothing is read that was verified earlier; after an interruption, whole copies are kept.

        Args:
            name: of the split that the sources make up, in their order.
            shape: (C, H, W) of the image in a row.

        Returns:
            the rows of each source, and the fingerprint of all pixels.

        Raises:
            DataError: an archive is damaged, or a copy cannot be written.
        """
        state = [[*shape], [source.stamp for source in sources]]
        known = self._known.get(name)
        found = [self._rows(source) for source in sources]
        if all(found) and isinstance(known, list) and known[:-1] == state:
            return [rows for rows in found if rows], str(known[-1])
        digest = PixelHash(shape)
        for source, rows in zip(sources, found, strict=True):
            for block in self._blocks(source, rows):
                digest.update(block.reshape(-1, *shape))
        self._note(name, [*state, digest.text()])
        return [self._settled(source) for source in sources], digest.text()

    def _settled(self, source: Source) -> Rows:
        rows = self._rows(source)
        if rows is None:
            raise DataError(f"'{source.cache}' was changed or removed while it was written: start again")
        return rows

    def _rows(self, source: Source) -> Rows | None:
        """Where the rows can be mapped; None while there is no copy of them, or one of another archive."""
        if source.stored:
            return source.rows
        with contextlib.suppress(OSError, ValueError), open(source.cache, "rb") as stream:
            stamp, shape = _stamp(source.cache), _header(stream)[0]
            if self._known.get(source.cache.name) == [source.stamp, [*stamp]] and shape == source.rows.shape:
                return Rows(source.cache, stream.tell(), source.rows.shape, stamp)
        return None

    def _blocks(self, source: Source, rows: Rows | None) -> Iterator[np.ndarray]:
        """The rows in pieces: from the copy, or from the archive, which is then verified, and copied if compressed."""
        if source.stored:
            yield from source.blocks()
        elif rows:
            mapped, step = rows.map(), max(1, _BLOCK // rows.shape[1])
            yield from (mapped[start : start + step] for start in range(0, len(mapped), step))
        else:
            yield from self._copied(source)

    def _copied(self, source: Source) -> Iterator[np.ndarray]:
        cache, size = source.cache, math.prod(source.rows.shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": source.rows.shape}
        try:
            with atomic_path(cache) as temporary:
                with open(temporary, "wb") as out:
                    np.lib.format.write_array_header_1_0(out, header)
                    for block in source.blocks():
                        out.write(block)
                        yield block
                # Another process that makes the same copy and replaces this one leaves the same stamp.
                os.utime(temporary, ns=(source.rows.stamp[1], source.rows.stamp[1]))
        except OSError as error:
            raise DataError(
                f"'{cache}' cannot be written ({error.strerror or error}): a compressed archive needs {size / 1e9:.3g} "
                "GB beside it; set dataset.path to a folder with room that holds the archives, or links to them"
            ) from error
        self._note(cache.name, [source.stamp, [*_stamp(cache)]])

    def _note(self, key: str, value: Any) -> None:
        self._known[key] = value
        with contextlib.suppress(OSError):
            write_json_atomic(self._file, self._known)


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) of an npy file, which is then read up to its values."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _begin(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's content begins: behind its own header, which the directory only points at."""
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        return info.header_offset + _LOCAL.size + sum(_LOCAL.unpack(raw.read(_LOCAL.size)))


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], zipfile.ZipInfo]]:
    """An array of an archive, as the stream of its npy file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if f"{name}.npy" not in names:
            held = ", ".join(member.removesuffix(".npy") for member in names[:8]) or "nothing"
            raise DataError(f"'{path}' has no array '{name}' (it holds {held})")
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"'{path}': array '{name}' is compressed in a way that numpy does not write")
        with archive.open(info) as stream:
            yield stream, info


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{path}' is damaged, or not an npz file: {reason}") from error
