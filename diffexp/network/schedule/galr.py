"""GALR, the schedule network for waveforms: globally attentive, locally recurrent.

The architecture is that of speech separation by Lam et al. 2021; BDDM (Lam et al. 2022) ends it in one number. Frames
of the waveform are cut into segments that overlap by half; a recurrent network reads along a segment, attention across
the segments.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.network.norm import GroupNorm
from diffexp.network.schedule.base import ScheduleNetwork


class GALR(ScheduleNetwork):
    """Waveforms (B, 1, L) or (B, L) of any length L >= 1.

    Args:
        blocks: 1 as in the released configuration (383,050 weights), 2 as in the paper.
        dim: features of a frame, a multiple of `heads`.
        hidden: width of the recurrent network, for each direction.
        window: samples of a frame; frames are half a window apart.
        segment: frames of a segment; segments are half of one apart.
        low_dim: positions to which a segment is reduced before the attention.
        heads: of the attention.
        dropout: probability behind the attention.

    Raises:
        ConfigError: for an odd window or segment, or heads that do not divide `dim`.
    """

    def __init__(
        self,
        blocks: int = 1,
        dim: int = 128,
        hidden: int = 128,
        window: int = 8,
        segment: int = 64,
        low_dim: int = 8,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("window", window), ("segment", segment)):
            if value < 2 or value % 2:
                raise ConfigError(f"schedule network: {name}={value}: must be even, at least 2")
        if dim % heads or dim % 2:
            raise ConfigError(f"schedule network: dim={dim}: must be even and a multiple of heads={heads}")
        self.window = window
        self.segment = segment
        self.encoder = nn.Conv1d(1, dim, window, stride=window // 2, bias=False)
        self.bottleneck = nn.Conv1d(dim, dim, 1, bias=False)
        self.blocks = nn.Sequential(*(_Block(dim, hidden, segment, low_dim, heads, dropout) for _ in range(blocks)))
        self.activation = nn.PReLU()
        self.out = nn.Conv2d(dim, 1, 1)

    def _logit(self, x: Tensor) -> Tensor:
        frames = F.relu(self.encoder(_padded(x.reshape(len(x), 1, -1), self.window)))
        h = self.blocks(_segments(self.bottleneck(frames), self.segment))
        return self.out(self.activation(h)).mean((1, 2, 3))


class _Block(nn.Module):
    """(B, D, K, S) -> the same: along a segment's K frames, then across the S segments."""

    def __init__(self, dim: int, hidden: int, segment: int, low_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.local = _Local(dim, hidden)
        self.local_norm = GroupNorm(1, dim)
        self.across = _Across(dim, heads, dropout)
        self.across_norm = GroupNorm(1, dim)
        self.reduce = nn.Linear(segment, low_dim)
        self.restore = nn.Linear(low_dim, segment)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local_norm(self.local(x))
        low = self.reduce(x.transpose(2, 3))  # (B, D, S, low_dim)
        h = self.restore(self.across(low))
        return x + self.across_norm(h.transpose(2, 3))


class _Local(nn.Module):
    """An LSTM in both directions along K, whose first state is learned and shared by the directions."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.first_cell = nn.Parameter(torch.rand(1, 1, hidden))
        self.first_hidden = nn.Parameter(torch.rand(1, 1, hidden))
        self.recurrent = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, count = x.shape
        sequences = x.permute(0, 3, 2, 1).flatten(0, 1)  # (B S, K, D)
        first = [state.expand(2, batch * count, -1).contiguous() for state in (self.first_hidden, self.first_cell)]
        h = self.project(self.recurrent(sequences, tuple(first))[0])
        return h.unflatten(0, (batch, count)).permute(0, 3, 2, 1)


class _Across(nn.Module):
    """Self-attention along S, for each of the low_dim positions by itself: (B, D, S, low_dim) -> the same.

    As released, what comes behind the attention is added to the attention's result, not to its input.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm_out = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, count, low = x.shape
        tokens = self.norm_in(x.permute(0, 3, 2, 1)).flatten(0, 1)  # (B low, S, D)
        tokens = tokens + _positions(count, dim, tokens)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        mixed = self.norm_out(mixed + self.dropout(mixed))
        return mixed.unflatten(0, (batch, low)).permute(0, 3, 2, 1)


def _positions(count: int, dim: int, like: Tensor) -> Tensor:
    """sin and cos in turn of n / 10^(4 j / dim), j = 0, 2, ..: (count, dim)."""
    places = torch.arange(count, dtype=like.dtype, device=like.device)[:, None]
    even = torch.arange(0, dim, 2, dtype=like.dtype, device=like.device)
    angles = places * torch.exp(even * (-math.log(1.0e4) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _padded(x: Tensor, size: int) -> Tensor:
    """Zeros around the last axis, so that pieces of `size` which overlap by half cover each entry twice."""
    half = size // 2
    rest = size - (half + x.shape[-1] % size) % size
    return F.pad(x, (half, rest + half))


def _segments(frames: Tensor, size: int) -> Tensor:
    """(B, D, frames) -> (B, D, size, S): half-overlapping segments, in their order in time."""
    padded = _padded(frames, size)
    left = padded[..., : -(size // 2)].unflatten(2, (-1, size))
    right = padded[..., size // 2 :].unflatten(2, (-1, size))
    return torch.stack([left, right], dim=3).flatten(2, 3).transpose(2, 3)
