"""Operators that mix two halves of a state by a 2x2 matrix: position and velocity of critically damped Langevin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffexp.core.transfer import to_device
from diffexp.process.operator import Operator, Scalar, over, unlike


class Block(Operator):
    """u = (x, v) -> (a x + b v, c x + d v) for every pixel; a state is (B, 2C, *) with x before v on the channels.

    Args:
        values: float64 (2, 2) or (n, 2, 2), the matrices [[a, b], [c, d]].
    """

    commutes = False

    def __init__(self, values: Tensor) -> None:
        if values.ndim not in (2, 3) or values.shape[-2:] != (2, 2):
            raise ValueError(f"a block operator has values (2, 2) or (n, 2, 2), got {tuple(values.shape)}")
        self.values = values
        # As for a single number: four Python floats need no broadcast and no copy, and zeros among them cost nothing.
        self._numbers = values.tolist() if values.ndim == 2 and values.device.type == "cpu" else None

    def __repr__(self) -> str:
        return f"Block({self.values.tolist()})"

    @property
    def batch(self) -> torch.Size:
        return self.values.shape[:-2]

    def _entry(self, i: int, j: int, half: Tensor) -> Tensor | float:
        """Entry (i, j), shaped to multiply half a state."""
        if self._numbers is not None:
            return self._numbers[i][j]
        return over(self.values[..., i, j], half.ndim - len(self.batch))

    def apply(self, u: Tensor) -> Tensor:
        return self.combine([(self, u)])

    def __rmul__(self, number: float | Tensor) -> Block:
        return Block(over(number, 2) * self.values)

    def inverse(self) -> Block:
        (a, b), (c, d) = _entries(self.values)
        return Block(_matrix(d, -b, -c, a) / over(_det(self.values), 2))

    def transpose(self) -> Block:
        return Block(self.values.mT)

    def factor(self) -> Block:
        (a, _), (c, d) = _entries(self.values)
        top, low = a.clamp_min(0.0).sqrt(), d.clamp_min(0.0)
        # A non-negative matrix has c^2 <= a d. Rounding may leave more, and anything at all beside an a of zero.
        side = torch.where(top > 0.0, c / torch.where(top > 0.0, top, 1.0), 0.0)
        side = torch.maximum(torch.minimum(side, low.sqrt()), -low.sqrt())
        return Block(_matrix(top, torch.zeros_like(top), side, (low - side**2).clamp_min(0.0).sqrt()))

    def exp(self) -> Block:
        # A = m I + D with D^2 = q I: exp(A) = e^m (cosh(sqrt q) I + sinh(sqrt q) / sqrt q D), cos and sin for q < 0
        (a, b), (c, d) = _entries(self.values)
        middle, half = 0.5 * (a + d), 0.5 * (a - d)
        q = half**2 + b * c
        root = q.abs().sqrt()
        even = torch.where(q >= 0.0, torch.cosh(root), torch.cos(root))
        odd = torch.where(q >= 0.0, torch.sinh(root), torch.sin(root)) / torch.where(root > 0.0, root, 1.0)
        odd = torch.where(root > 0.0, odd, 1.0)
        scale = middle.exp()
        odd = scale * odd
        return Block(_matrix(scale * even + odd * half, odd * b, odd * c, scale * even - odd * half))

    def identity(self) -> Block:
        return self._isotropic(Scalar(torch.ones(self.batch, dtype=self.values.dtype, device=self.values.device)))

    def is_zero(self) -> bool:
        return not bool(self.values.any())

    def is_identity(self) -> bool:
        return bool((self.values == torch.eye(2, dtype=self.values.dtype, device=self.values.device)).all())

    def log_det(self, shape: Sequence[int]) -> Tensor:
        _check(shape[0], shape)
        return math.prod(shape) // 2 * _det(self.values.to(torch.float64)).abs().log()

    def __getitem__(self, index: int) -> Block:
        if not self.batch:
            raise IndexError("an operator at one time has no batch to index")
        return Block(self.values[index])

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Block:
        return self if self._numbers is not None else Block(to_device(self.values, device, dtype))

    @staticmethod
    def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
        halves: list[Tensor | None] = [None, None]
        for operator, state in terms:
            _check(state.shape[1], state.shape)
            parts = state.chunk(2, dim=1)
            for i, j, weight in _weights(operator, parts[0]):
                halves[i] = _add(halves[i], parts[j], weight)
        return torch.cat(halves, dim=1)

    def _isotropic(self, scalar: Scalar) -> Block:
        zero = torch.zeros_like(scalar.value)
        return Block(_matrix(scalar.value, zero, zero, scalar.value))

    def _compose(self, other: Block) -> Block:
        (a, b), (c, d) = _entries(self.values)
        (e, f), (g, h) = _entries(other.values)
        return Block(_matrix(a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h))

    def _plus(self, other: Block) -> Block:
        return Block(self.values + other.values)

    def _geometric(self, other: Block, f: float | Tensor) -> Block:
        raise ValueError("2x2 operators do not commute: there is no variance between two of them; use one of the two")


def _entries(values: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (values[..., 0, 0], values[..., 0, 1]), (values[..., 1, 0], values[..., 1, 1])


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)


def _det(values: Tensor) -> Tensor:
    (a, b), (c, d) = _entries(values)
    return a * d - b * c


def _check(channels: int, shape: Sequence[int]) -> None:
    if channels % 2:
        raise ValueError(f"a state of two halves needs an even number of channels, got shape {tuple(shape)}")


def _weights(operator: Operator, half: Tensor) -> list[tuple[int, int, Tensor | float]]:
    """(row, column, weight) of the entries that are not known to be zero; the diagonal always takes part."""
    if isinstance(operator, Scalar):
        weight = operator.shaped(half)
        return [(0, 0, weight), (1, 1, weight)]
    if not isinstance(operator, Block):
        raise unlike(Block, operator)
    weights = [(i, j, operator._entry(i, j, half)) for i in (0, 1) for j in (0, 1)]
    return [(i, j, w) for i, j, w in weights if i == j or not isinstance(w, float) or w != 0.0]


def _add(total: Tensor | None, part: Tensor, weight: Tensor | float) -> Tensor:
    if total is None:
        return part * weight
    return total.add_(part, alpha=weight) if isinstance(weight, float) else total.addcmul_(part, weight)
