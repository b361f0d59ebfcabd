"""Where a network of decoupled diffusion divides: one branch for each head, gated by a spatial attention (DDM, 5.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpatialGate(nn.Module):
    """x times one number a position in (-1, 1), which attention over all positions finds; (B, C, H, W) in and out.

        a = map(x), one channel;  a' = softmax(query(a) key(a)^T) a;  x a' / (1 + |a'|)

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(channels, 1, 1)
        self.query = nn.Conv2d(1, 1, 1)
        self.key = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.map(x)
        query, key = self.query(a).flatten(2), self.key(a).flatten(2)  # (B, 1, N)
        share = torch.softmax(query.transpose(1, 2) * key, dim=2)  # (B, N, N), rows of sum 1
        mixed = share @ a.flatten(2).transpose(1, 2).to(share.dtype)  # (B, N, 1)
        return F.softsign(mixed.to(x.dtype).transpose(1, 2).view_as(a)) * x


class Branch(nn.Module):
    """h + gate(conv(h)): what one head's decoder starts from.

    Args:
        channels: of h.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = SpatialGate(channels)

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return h + self.gate(self.conv(h))
