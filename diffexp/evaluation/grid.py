"""Grids of images as PNG: one labelled row for each budget, columns from the same noise, small images enlarged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.core.files import atomic_path

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

_TILE = 56  # pixels that a tile is at least wide; smaller images are enlarged by a whole factor
_GAP, _MARGIN, _FONT = 4, 12, 15
_NOTE = "diffexp"  # the name of the text in the file


def draw_grid(rows: Sequence[tuple[str, Tensor]], path: Path, title: str = "") -> None:
    """Write a grid of images to `path` as PNG.

    Args:
        rows: (label, uint8 images (k, C, H, W)) from top to bottom; C is 1 or 3, and all images have one size.
        path: the file; replaced atomically.
        title: a line above the grid.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT)
    tiles = [_enlarge(images) for _, images in rows]
    height, width = tiles[0].shape[1:3]
    columns = max(len(images) for images in tiles)
    left = _MARGIN + (round(max(font.getlength(label) for label, _ in rows)) + 10 if any(dict(rows)) else 0)
    top = _MARGIN + (_FONT + 12 if title else 0)
    size = (left + columns * (width + _GAP) - _GAP + _MARGIN, top + len(rows) * (height + _GAP) - _GAP + _MARGIN)
    size = (max(size[0], round(font.getlength(title)) + 2 * _MARGIN), size[1])
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, _MARGIN - 3), title, "black", font)
    for place, ((label, _), images) in enumerate(zip(rows, tiles, strict=True)):
        y = top + place * (height + _GAP)
        pen.text((left - 10, y + height / 2), label, "black", font, anchor="rm")
        for column, image in enumerate(images):
            canvas.paste(Image.fromarray(image), (left + column * (width + _GAP), y))
    layout = _Layout(
        title, tuple(label for label, _ in rows), tuple(map(len, tiles)), left, top, width, height, rows[0][1].shape[-1]
    )
    with atomic_path(path) as temporary:
        canvas.save(temporary, "PNG", pnginfo=layout.note())


@dataclass(frozen=True)
class _Layout:
    """Where the images of a grid are, noted in its file: pixels of the first tile's corner, of a tile, of an image."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    left: int
    top: int
    width: int
    height: int
    side: int

    def note(self) -> PngInfo:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text(_NOTE, json.dumps(asdict(self)))
        return info


def read_grid(path: Path) -> tuple[str, list[tuple[str, np.ndarray]]] | None:
    """The images of a grid that `draw_grid` wrote.

    Returns:
        the title, and from top to bottom (label, uint8 (k, H, W, 3) in their own size); None for any other PNG.

    Raises:
        DiffexpError: the file is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            note = picture.info.get(_NOTE)
            pixels = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise DiffexpError(f"{path} cannot be read as a picture") from error
    if note is None:
        return None
    layout = _Layout(**json.loads(note))
    factor, rows = layout.width // layout.side, []
    for place, (label, count) in enumerate(zip(layout.labels, layout.counts, strict=True)):
        y = layout.top + place * (layout.height + _GAP)
        lefts = (layout.left + column * (layout.width + _GAP) for column in range(count))
        tiles = [pixels[y : y + layout.height : factor, x : x + layout.width : factor] for x in lefts]
        rows.append((label, np.stack(tiles)))
    return layout.title, rows


def _enlarge(images: Tensor) -> np.ndarray:
    """(k, C, H, W) -> (k, H f, W f, 3), each pixel a square of f x f."""
    factor = max(1, -(-_TILE // images.shape[-1]))
    pixels = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return pixels.permute(0, 2, 3, 1).cpu().numpy().repeat(factor, axis=1).repeat(factor, axis=2)
