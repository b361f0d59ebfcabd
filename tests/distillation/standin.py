"""A small student, and batches without data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.prediction.conditions import Conditions


class Small(nn.Module):
    """Two layers on the pixels of (state, end point) and the time, with dropout in between; it notes its calls."""

    def __init__(self, shown: int, out: int, dropout: float = 0.0, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        with random.seeded(seed, "test/small"):
            self.first = nn.Conv2d(shown + 1, width, 1)
            self.last = nn.Conv2d(width, out, 1)
        self.dropout = nn.Dropout(dropout)
        self.told: list[Tensor] = []
        self.graphs: list[bool] = []

    def forward(self, shown: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.told.append(time.detach().clone())
        self.graphs.append(torch.is_grad_enabled())
        clock = (0.01 * time.to(shown.dtype)).reshape(-1, 1, 1, 1).expand(len(shown), 1, *shown.shape[2:])
        hidden = torch.nn.functional.silu(self.first(torch.cat([shown, clock], dim=1)))
        return self.last(self.dropout(hidden))


def tensors(*streams: str, n: int = 4, shape: tuple[int, int, int] = (1, 4, 4)) -> list[Tensor]:
    return [random.normal(0, f"test/{stream}", range(n), shape) for stream in streams]


def given(n: int = 4, mask: bool = False) -> Conditions:
    """End points, and a mask whose left half is the hole."""
    (y,) = tensors("y", n=n)
    hole = torch.zeros(n, 1, 4, 4, dtype=torch.float64)
    hole[..., :2] = 1.0
    return Conditions(endpoint=y.tanh(), mask=hole if mask else None)
