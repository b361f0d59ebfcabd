"""The augmentation of EDM (Karras et al. 2022, appendix F.2): images are changed, and the network is told how.

Since the network is told, it learns the law of images that were left alone from those that were changed, and shows the
former when it is told nothing. Each kind of change happens with its own probability; the numbers that describe it are
zero when it does not happen. All are keyed by (seed, kind, position).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.dataset.warp import warp

_NUMBERS = {"xflip": 1, "yflip": 1, "scale": 1, "rotate": 2, "aniso": 2, "translate": 2}
"""The kinds in the order in which they happen, and how many numbers tell of each."""


@dataclass(frozen=True)
class Augmentation:
    """Flips, scaling, rotation, stretching and shifts, each with probability min(1, p * its factor).

    Args:
        p: probability of a kind whose factor is 1, in [0, 1].
        xflip, yflip: factors of flips left to right and top to bottom. A flip that happens is a fair coin, so that
            1e8, "always", flips half of the images.
        scale: factor of magnification by 2^(scale_std w), w ~ N(0, 1).
        rotate: factor of rotation by an angle uniform in (-pi, pi) times rotate_max.
        aniso: factor of stretching by 2^(aniso_std w) in one direction and its inverse across; the direction is any
            with probability aniso_rotate, else left to right. It is told as w times the direction, which does not
            say whether it was a stretch or, along the opposite, a shrinking: so it is in EDM's code.
        translate: factor of a shift by translate_std w of the image's width and height, each with its own w.
        scale_std, rotate_max, aniso_std, aniso_rotate, translate_std: see there.

    Raises:
        ConfigError: an argument is out of range, or nothing would ever happen.
    """

    p: float = 0.12
    xflip: float = 1.0e8
    yflip: float = 1.0
    scale: float = 1.0
    rotate: float = 1.0
    aniso: float = 1.0
    translate: float = 1.0
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    aniso_rotate: float = 0.5
    translate_std: float = 0.125

    def __post_init__(self) -> None:
        for field in fields(self):
            if not math.isfinite(getattr(self, field.name)) or getattr(self, field.name) < 0.0:
                raise ConfigError(f"dataset.augmentation.{field.name}={getattr(self, field.name)}: a number >= 0")
        for name in ("p", "rotate_max", "aniso_rotate"):
            if getattr(self, name) > 1.0:
                raise ConfigError(f"dataset.augmentation.{name}={getattr(self, name)}: at most 1")
        if self.p == 0.0 or not self.kinds:
            raise ConfigError("dataset.augmentation: nothing happens with p=0 or all factors 0: use the plain data set")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What may happen to an image, in order."""
        return tuple(kind for kind in _NUMBERS if getattr(self, kind) > 0.0)

    @property
    def numbers(self) -> int:
        """How many numbers describe what happened to an image."""
        return sum(_NUMBERS[kind] for kind in self.kinds)

    def __call__(self, images: Tensor, seed: int, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The images changed.

        Args:
            images: float32 (B, C, H, W).
            seed: keys what happens, together with the positions.
            positions: (B,) places in the endless order of the data.

        Returns:
            images float32 (B, C, H, W), interpolated ones may leave the range a little; and what happened to each,
            float32 (B, numbers), zeros for nothing.
        """
        draw = _Draw(self, seed, positions)
        flips = {kind: draw.coin(kind) for kind in ("xflip", "yflip") if kind in self.kinds}
        for kind, axis in (("xflip", -1), ("yflip", -2)):
            if kind in flips:
                images = torch.where(flips[kind][:, None, None, None], images.flip(axis), images)
        maps, told = self._maps(draw, *images.shape[2:])
        moved = (maps != torch.eye(3, dtype=torch.float64)).flatten(1).any(1)
        if bool(moved.any()):
            images = images.clone()
            images[moved] = warp(images[moved].double(), maps[moved, :2]).float()
        labels = [flip.double()[:, None] for flip in flips.values()]
        return images, torch.cat([*labels, *told], dim=1).float()

    def _maps(self, draw: _Draw, height: int, width: int) -> tuple[Tensor, list[Tensor]]:
        """From places in the results to places in the images, float64 (B, 3, 3); and what tells of it."""
        maps = torch.eye(3, dtype=torch.float64).expand(draw.count, 3, 3)
        told: list[Tensor] = []
        if "scale" in self.kinds:
            w = draw.normal("scale", 1)
            size = torch.exp2(self.scale_std * w[:, 0])
            maps = maps @ _scaling(1.0 / size, 1.0 / size)
            told.append(w)
        if "rotate" in self.kinds:
            angle = draw.angle("rotate") * self.rotate_max
            maps = maps @ _rotation(angle)
            told.append(torch.stack([angle.cos() - 1.0, angle.sin()], dim=1))
        if "aniso" in self.kinds:
            w = draw.normal("aniso", 1)[:, 0]
            angle = draw.angle("aniso") * (draw.uniform("aniso", 3) < self.aniso_rotate)
            size = torch.exp2(self.aniso_std * w)
            maps = maps @ _rotation(-angle) @ _scaling(1.0 / size, size) @ _rotation(angle)
            told.append(torch.stack([w * angle.cos(), w * angle.sin()], dim=1))
        if "translate" in self.kinds:
            w = draw.normal("translate", 2)
            maps = maps @ _shift(-self.translate_std * w * torch.tensor([width, height]))
            told.append(w)
        return maps, told


class _Draw:
    """The random numbers of some positions; those of a kind are zero where it does not happen."""

    def __init__(self, law: Augmentation, seed: int, positions: Sequence[int]) -> None:
        self.count = len(positions)
        self._law, self._seed, self._positions = law, seed, positions

    def uniform(self, kind: str, step: int) -> Tensor:
        """In [0, 1), (B,) float64; the steps of one kind are independent: 0 decides whether it happens."""
        return random.uniform(self._seed, f"augment/{kind}", self._positions, step)

    def coin(self, kind: str) -> Tensor:
        """(B,) bool."""
        return self._happens(kind) & (self.uniform(kind, 1) < 0.5)

    def angle(self, kind: str) -> Tensor:
        """In (-pi, pi), (B,)."""
        return torch.where(self._happens(kind), (2.0 * self.uniform(kind, 2) - 1.0) * math.pi, 0.0)

    def normal(self, kind: str, count: int) -> Tensor:
        """(B, count)."""
        drawn = random.normal(self._seed, f"augment/{kind}/normal", self._positions, (count,))
        return torch.where(self._happens(kind)[:, None], drawn, 0.0)

    def _happens(self, kind: str) -> Tensor:
        return self.uniform(kind, 0) < getattr(self._law, kind) * self._law.p


def _matrix(*rows: Sequence[Tensor | float]) -> Tensor:
    """(B, 3, 3) with the last row (0, 0, 1); entries are (B,) or one number for all."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    filled = [[entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row] for row in rows]
    return torch.stack([torch.stack(row, dim=1) for row in filled] + [_last(like)], dim=1)


def _last(like: Tensor) -> Tensor:
    return torch.tensor([0.0, 0.0, 1.0], dtype=like.dtype).expand(len(like), 3)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix((x, 0.0, 0.0), (0.0, y, 0.0))


def _rotation(angle: Tensor) -> Tensor:
    return _matrix((angle.cos(), -angle.sin(), 0.0), (angle.sin(), angle.cos(), 0.0))


def _shift(by: Tensor) -> Tensor:
    return _matrix((1.0, 0.0, by[:, 0]), (0.0, 1.0, by[:, 1]))
