"""A small student, and batches without data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.prediction.conditions import Conditions
from diffexp.process.base import Process


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


class View(nn.Module):
    """The exact answer for white data of deviation 0.5, in the words of a head; it is told t times `scale`."""

    def __init__(self, process: Process, kind: str, scale: float = 1.0) -> None:
        super().__init__()
        self.process, self.kind, self.scale = process, kind, scale

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        law = self.process.marginal(time / self.scale)
        alpha, sigma = law.signal.shaped(x), law.factor.shaped(x)
        if self.kind == "ddm":  # two heads without preconditioning see u / sqrt(1 + t)
            x = x * (1.0 + time / self.scale).sqrt().reshape(-1, 1, 1, 1)
        eps = sigma * x / (0.25 * alpha**2 + sigma**2)
        x0 = 0.25 * alpha * x / (0.25 * alpha**2 + sigma**2)
        said = {"eps": [eps], "x0": [x0], "v": [alpha * eps - sigma * x0], "both": [x0, eps], "ddm": [-x0, eps]}
        return torch.cat(said[self.kind], dim=1)


def tensors(*streams: str, n: int = 4, shape: tuple[int, int, int] = (1, 4, 4)) -> list[Tensor]:
    return [random.normal(0, f"test/{stream}", range(n), shape) for stream in streams]


def given(n: int = 4, mask: bool = False) -> Conditions:
    """End points, and a mask whose left half is the hole."""
    (y,) = tensors("y", n=n)
    hole = torch.zeros(n, 1, 4, 4, dtype=torch.float64)
    hole[..., :2] = 1.0
    return Conditions(endpoint=y.tanh(), mask=hole if mask else None)
