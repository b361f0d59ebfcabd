"""The time input (and the label) of a network turned into a vector that every residual block reads.

Positional: Progressive Distillation, DDPM++ (sinusoids, half-1 in the denominator, sines first). Timestep: ADM and the
bridges on it (half in the denominator, cosines first). Fourier: NCSN++ of
Song et al. 2021 (fixed random frequencies of the logarithm of the time input). The scaling of time (1000 u, 999 t, ...)
is the prediction's business, not the network's. All of this is computed in float32 or better, even under autocast:
neighbouring times of a fine grid differ by less than half precision can tell.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.core.errors import DiffexpError
from diffexp.core.precision import without_autocast


class PositionalFeatures(nn.Module):
    """sin(time f_k) | cos(time f_k), f_k = max_period^(-k / (half - 1)), k = 0 .. half - 1, half = width / 2.

    Args:
        width: number of features, even, at least 4.
        max_period: the lowest frequency is 1 / max_period (radians per unit of time).
    """

    def __init__(self, width: int, max_period: float = 1e4) -> None:
        super().__init__()
        self.width = width
        self.max_period = max_period

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, width), in the dtype of `time`."""
        half = self.width // 2
        steps = torch.arange(half, dtype=time.dtype, device=time.device)
        angles = time[:, None] * torch.exp(steps * (-math.log(self.max_period) / (half - 1)))
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimestepFeatures(PositionalFeatures):
    """cos(time f_k) | sin(time f_k), f_k = max_period^(-k / half), k = 0 .. half - 1, half = width // 2.

    Args:
        width: number of features; an odd one ends with a zero.
        max_period: the lowest frequency is a little above 1 / max_period (radians per unit of time).
    """

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, width), in the dtype of `time`."""
        half = self.width // 2
        steps = torch.arange(half, dtype=time.dtype, device=time.device)
        angles = time[:, None] * torch.exp(steps * (-math.log(self.max_period) / half))
        return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, self.width % 2))


class FourierFeatures(nn.Module):
    """sin(2 pi w log time) | cos(2 pi w log time) with fixed random frequencies w ~ N(0, scale^2).

    The frequencies are drawn once, never trained, and saved with the weights: without them the weights mean nothing.

    Args:
        width: number of features, even.
        scale: standard deviation of the frequencies.
    """

    def __init__(self, width: int, scale: float = 16.0) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", torch.randn(width // 2) * scale)

    def forward(self, time: Tensor) -> Tensor:
        """(B,) of positive times -> (B, width), in the dtype of `time`."""
        angles = (2.0 * math.pi) * time.log()[:, None] * self.frequencies.to(time.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class LabelEmbedding(nn.Linear):
    """A dense layer on the one-hot label: (B,) int64 in [0, num_classes) -> (B, width).

    A label of -1 is none: all zeros, so that the bias (if any) alone says "no label" (classifier-free guidance).
    """

    def forward(self, labels: Tensor) -> Tensor:
        given = (labels >= 0).to(self.weight.dtype)[:, None]
        found = given * self.weight.t()[labels.clamp_min(0)]
        return found if self.bias is None else found + self.bias


class Embedding(nn.Module):
    """silu(dense(silu(dense(features(time) + augmentation))) + label): what residual blocks project.

    The last silu is shared by them. The augmentation comes first and without a bias, as in EDM (Karras et al. 2022):
    images of which nothing is said are images that were left as they are.

    Args:
        features: maps (B,) to (B, features.width).
        width: of the result.
        num_classes: 0 for a network without labels.
        label_bias: whether the label's layer has a bias.
        augment_dim: numbers that describe an image's augmentation; 0 for a network that is not told.
    """

    def __init__(
        self,
        features: PositionalFeatures | TimestepFeatures | FourierFeatures,
        width: int,
        num_classes: int = 0,
        label_bias: bool = True,
        augment_dim: int = 0,
    ) -> None:
        super().__init__()
        self.features = features
        self.dense1 = nn.Linear(features.width, width)
        self.dense2 = nn.Linear(width, width)
        self.label = LabelEmbedding(num_classes, width, bias=label_bias) if num_classes else None
        self.augment = nn.Linear(augment_dim, features.width, bias=False) if augment_dim else None

    def forward(self, time: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """(B,) or (1,) times, (B,) labels, (B, augment_dim) -> (B, width) or (1, width), in the dtype of the weights.

        Raises:
            DiffexpError: the network has classes but no labels came.
        """
        weights = self.dense1.weight.dtype
        precise = torch.promote_types(torch.promote_types(time.dtype, weights), torch.float32)
        with without_autocast(time.device):
            h = self.features(time.to(precise)).to(weights)
            if self.augment is not None:
                # Nothing said is zeros, not a step left out: ranks that average gradients need one of every weight.
                told = h.new_zeros(1, self.augment.in_features) if augment is None else augment.to(weights)
                h = h + self.augment(told)
            h = self.dense2(F.silu(self.dense1(h)))
            if self.label is not None:
                if labels is None:
                    raise DiffexpError("network: it is class-conditional, so every call needs labels, but none came")
                h = h + self.label(labels)
            return F.silu(h)
