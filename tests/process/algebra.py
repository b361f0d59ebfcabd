"""Operators with known entries, states, and the dense matrices of operators."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.process.block import Block
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Operator, Scalar

SHAPE = (2, 3, 4)  # one state (C, H, W): two channels for the halves of a block, sides that differ
SIZE = 24
TIMES = 3


def values(seed: int, *shape: int) -> Tensor:
    """Numbers between 0.5 and 1.5 with mixed signs, float64."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    return size * torch.sign(torch.rand(shape, generator=generator, dtype=torch.float64) - 0.3)


def make(kind: str, seed: int, batch: tuple[int, ...] = (TIMES,)) -> Operator:
    if kind == "scalar":
        return Scalar(values(seed, *batch))
    if kind == "diagonal":
        return Diagonal(values(seed, *batch, *SHAPE[1:]))
    return Block(values(seed, *batch, 2, 2) + 3.0 * torch.eye(2, dtype=torch.float64))


def states(seed: int, count: int = TIMES) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(operator: Operator) -> Tensor:
    """The matrix (SIZE, SIZE) of an operator at one time: its columns are the images of the basis vectors."""
    basis = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)
    return operator.apply(basis).reshape(SIZE, SIZE).T


def each(operator: Operator) -> list[Tensor]:
    return [dense(operator[k]) for k in range(TIMES)]


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-13) -> None:
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=rtol * max(1.0, float(wanted.abs().max())))
