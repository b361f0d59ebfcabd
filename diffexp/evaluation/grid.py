"""Grids of images as PNG: one labelled row for each budget, columns from the same noise, small images enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from diffexp.core.files import atomic_path

_TILE = 56  # pixels that a tile is at least wide; smaller images are enlarged by a whole factor
_GAP, _MARGIN, _FONT = 4, 12, 15


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
    with atomic_path(path) as temporary:
        canvas.save(temporary, "PNG")


def _enlarge(images: Tensor) -> np.ndarray:
    """(k, C, H, W) -> (k, H f, W f, 3), each pixel a square of f x f."""
    factor = max(1, -(-_TILE // images.shape[-1]))
    pixels = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return pixels.permute(0, 2, 3, 1).cpu().numpy().repeat(factor, axis=1).repeat(factor, axis=2)
