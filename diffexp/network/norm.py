"""Group norm whose statistics are formed in float32 or better, whatever the trainer's precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` on (B, C, H, W) that computes at least in float32 and returns the dtype of its input.

    Under CUDA autocast the stock layer returns float32, so that everything up to the next convolution moves twice the
    bytes; under CPU autocast it works in bfloat16. Here both are alike.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        normed = F.group_norm(x.to(wide), self.num_groups, self.weight.to(wide), self.bias.to(wide), self.eps)
        return normed.to(x.dtype)
