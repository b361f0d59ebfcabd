"""Images as bytes and as network inputs: uint8 grey levels in 0..255 and float32 in [-1, 1].

The way floats become bytes is part of the evaluation's protocol. Codebases differ: EDM rounds; the OpenAI, consistency
and bridge codes truncate ``(x + 1) * 127.5``, which darkens an image by half a grey level on average.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Quantise = Literal["round", "truncate"]


def to_float(image: Tensor) -> Tensor:
    """Grey levels to network inputs: ``u / 127.5 - 1``.

    Args:
        image: uint8 tensor of any shape.

    Returns:
        float32 tensor of the same shape in [-1, 1]; `to_uint8` with ``round`` gives the bytes back exactly.
    """
    return image.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(image: Tensor, mode: Quantise = "round") -> Tensor:
    """Network outputs to grey levels; values outside [-1, 1] are clipped.

    Args:
        image: floating tensor of any shape, nominally in [-1, 1].
        mode: ``round`` takes the nearest level of ``x * 127.5 + 127.5``; ``truncate`` the level below
            ``(x + 1) * 127.5``, for numbers comparable with codes that do so.

    Returns:
        uint8 tensor of the same shape.
    """
    if mode not in ("round", "truncate"):
        raise ValueError(f"quantise mode '{mode}' is unknown: choose from round, truncate")
    # Half precision cannot tell neighbouring grey levels apart once they are scaled.
    image = image if image.dtype == torch.float64 else image.to(torch.float32)
    levels = image.mul(127.5).add_(127.5).round_() if mode == "round" else image.add(1.0).mul_(127.5).floor_()
    return levels.clamp_(0, 255).to(torch.uint8)
