"""Self-attention over the pixels of a feature map, as in the U-Nets of DDPM, NCSN++, Progressive Distillation, ADM."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.network.norm import GroupNorm


class SelfAttention(nn.Module):
    """x + out(softmax(q k^T / sqrt(head_dim)) v) on norm(x), over all H*W positions; (B, C, H, W) in and out.

    Args:
        channels: C, a multiple of `heads`.
        heads: attention heads.
        groups: groups of the norm.
        eps: of the norm.
        gain: factor of the residual sum (1, or 1/sqrt(2) for scaled skips).
        order: of the rows of `qkv`: "new" is (q | k | v, head, channel of the head), "legacy" is (head, q | k | v,
            channel of the head). It matters for weights from elsewhere only.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        eps: float = 1e-6,
        gain: float = 1.0,
        order: Literal["new", "legacy"] = "new",
    ) -> None:
        super().__init__()
        self.heads = heads
        self.order = order
        self.gain = gain
        self.norm = GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C); a plain view if x is channels_last
        rows = (3, self.heads, -1) if self.order == "new" else (self.heads, 3, -1)
        split = self.qkv(tokens).unflatten(2, rows)
        split = split if self.order == "new" else split.transpose(2, 3)  # (B, N, 3, heads, head_dim)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B, heads, N, head_dim)
        h = self.out(mixed.transpose(1, 2).flatten(2))
        total = x + h.transpose(1, 2).unflatten(2, x.shape[2:])
        return total if self.gain == 1.0 else total.mul_(self.gain)
