"""DiffWave (Kong et al. 2021): a stack of dilated convolutions that predicts the noise in a waveform, given its mel.

As BDDM (Lam et al. 2022) releases it: the time is a fractional index of the training's table, and the sum that a layer
hands on contains its embedding, because the released code adds it in place.
"""

from __future__ import annotations

import math
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from diffexp.core.errors import ConfigError
from diffexp.core.precision import without_autocast
from diffexp.network.embedding import PositionalFeatures

_STRIDE = 16
_SLOPE = 0.4


class DiffWave(nn.Module):
    """Waveforms (B, C, L), times (B,) and mel spectrograms (B, mels, frames) -> (B, out, L); 256 samples a frame.

    Args:
        in_channels, out_channels: of the waveform and of the output.
        residual, skip: channels of the two paths.
        layers: of the stack.
        cycle: layer i has dilation 2^(i mod cycle).
        embedding: widths of the time's features and of the two dense layers on them.
        mels: channels of the spectrogram.

    Raises:
        ConfigError: for an odd number of time features, or fewer than 4.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        residual: int = 128,
        skip: int = 128,
        layers: int = 30,
        cycle: int = 10,
        embedding: tuple[int, int, int] = (128, 512, 512),
        mels: int = 80,
    ) -> None:
        super().__init__()
        if embedding[0] % 2 or embedding[0] < 4:
            raise ConfigError(f"network.embedding={list(embedding)}: its first width must be even, at least 4")
        self.stem = weight_norm(nn.Conv1d(in_channels, residual, 1))
        self.features = PositionalFeatures(embedding[0])
        self.dense1 = nn.Linear(embedding[0], embedding[1])
        self.dense2 = nn.Linear(embedding[1], embedding[2])
        self.layers = nn.ModuleList(_Layer(residual, skip, embedding[2], mels, 2 ** (i % cycle)) for i in range(layers))
        self.last = weight_norm(nn.Conv1d(skip, skip, 1))
        self.out = nn.Conv1d(skip, out_channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, time: Tensor, mel: Tensor) -> Tensor:
        """The output, (B, out_channels, L); samples that the spectrogram covers beyond L are cut off.

        Raises:
            ValueError: for a spectrogram that is shorter than the waveform.
        """
        if mel.shape[-1] * _STRIDE**2 < x.shape[-1]:
            raise ValueError(f"diffwave: {mel.shape[-1]} frames are too few for {x.shape[-1]} samples")
        with without_autocast(x.device):
            weights = self.dense1.weight
            wide = torch.promote_types(weights.dtype, torch.float32)
            features = self.features(time.to(wide)).to(weights.dtype)
            embedded = F.silu(self.dense2(F.silu(self.dense1(features))))
        h, total = F.relu(self.stem(x)), 0.0
        for layer in self.layers:
            h, skip = layer(h, embedded, mel)
            total = total + skip
        return self.out(F.relu(self.last(total / math.sqrt(len(self.layers)))))


class _Layer(nn.Module):
    """(B, residual, L), the embedding and the spectrogram -> the next (B, residual, L), and (B, skip, L)."""

    def __init__(self, residual: int, skip: int, embedded: int, mels: int, dilation: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedded, residual)
        self.dilated = weight_norm(nn.Conv1d(residual, 2 * residual, 3, dilation=dilation, padding=dilation))
        shape = {"kernel_size": (3, 2 * _STRIDE), "stride": (1, _STRIDE), "padding": (1, _STRIDE // 2)}
        self.upsample = nn.ModuleList(weight_norm(nn.ConvTranspose2d(1, 1, **shape)) for _ in repeat(None, 2))
        self.condition = weight_norm(nn.Conv1d(mels, 2 * residual, 1))
        self.residual = weight_norm(nn.Conv1d(residual, residual, 1))
        self.skip = weight_norm(nn.Conv1d(residual, skip, 1))

    def forward(self, x: Tensor, embedded: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.project(embedded)[:, :, None]
        fine = mel[:, None]
        for layer in self.upsample:
            fine = F.leaky_relu(layer(fine), _SLOPE)
        h = self.dilated(x) + self.condition(fine[:, 0, :, : x.shape[-1]])
        turn, gate = h.chunk(2, dim=1)
        h = turn.tanh() * gate.sigmoid()
        return (x + self.residual(h)) / math.sqrt(2.0), self.skip(h)
