"""The vision transformers of DINOv2 and CLIP, as their released weights want them (Dosovitskiy et al. 2021).

DINOv2 (Oquab et al. 2023): layer scale, exact GELU, no norm before the blocks; features are the class token behind the
last norm. CLIP (Radford et al. 2021): a norm before the blocks, the class token behind the last norm projected.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64  # channels of a head, in every released network
_OFFSET = 0.1  # of the size, when DINOv2's positions are interpolated: its code does so


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), which OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention and a network of two layers, both behind a norm and around a skip."""

    def __init__(self, width: int, hidden: int, eps: float, scaled: bool, quick: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(width)) if scaled else None for _ in range(2))
        self._activation = quick_gelu if quick else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + _scaled(self.proj(seen), self.scale1)
        return x + _scaled(self.fc2(self._activation(self.fc1(self.norm2(x)))), self.scale2)


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class VisionTransformer(nn.Module):
    """Pictures to one vector.

    Args:
        state: its tensors under this class's names (see `vit_weights`), which also tell its sizes: layer scale, a norm
            before the blocks and a projection are there when their tensors are.
        eps: of the norms.
        quick: whether the activation is `quick_gelu`.
    """

    def __init__(self, state: dict[str, Tensor], eps: float, quick: bool) -> None:
        super().__init__()
        width, channels, self.patch_size, _ = state["patch.weight"].shape
        hidden = state["blocks.0.fc1.weight"].shape[0]
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        scaled = "blocks.0.scale1" in state
        bias = "patch.bias" in state
        self.patch = nn.Conv2d(channels, width, self.patch_size, self.patch_size, bias=bias)
        self.cls, self.position = (nn.Parameter(torch.empty_like(state[name])) for name in ("cls", "position"))
        self.pre = nn.LayerNorm(width, eps) if "pre.weight" in state else None
        self.blocks = nn.ModuleList(Block(width, hidden, eps, scaled, quick) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps)
        self.head = nn.Linear(width, len(state["head.weight"]), bias=False) if "head.weight" in state else None
        self.load_state_dict(state)
        self.dim = width if self.head is None else self.head.out_features
        self.grid = round((len(self.position) - 1) ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), sides multiples of the patch -> (B, dim)."""
        x = self.patch(images)
        rows, columns = x.shape[2:]
        x = torch.cat([self.cls.expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + self._positions(rows, columns)
        x = x if self.pre is None else self.pre(x)
        for block in self.blocks:
            x = block(x)
        found = self.norm(x[:, 0])
        return found if self.head is None else self.head(found)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The learned positions, interpolated where the image has another number of patches: (N, D)."""
        if rows == columns == self.grid:
            return self.position
        square = self.position[1:].T.reshape(1, -1, self.grid, self.grid)
        scale = (rows + _OFFSET) / self.grid, (columns + _OFFSET) / self.grid
        found = F.interpolate(square, scale_factor=scale, mode="bicubic")
        return torch.cat([self.position[:1], found.flatten(2)[0].T])
