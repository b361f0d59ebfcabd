"""Networks made of a formula, which the golden files put in the place of a trained one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def per_image(values: Tensor, u: Tensor) -> Tensor:
    """One number for each image, (B,) or (1,), in the shape that multiplies the images `u`."""
    return values.reshape(-1, *[1] * (u.ndim - 1))


class Toy(nn.Module):
    """tanh(a u) cos(b c) + g u for each row of indices of (a, b, g), stacked over channels.

    Args:
        parameters: the numbers, trainable.
        rows: which of them are a, b and g, for each output.
        coordinate: c as a function of the time input.
    """

    def __init__(self, parameters: Tensor, rows: list[list[int]], coordinate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.vector = nn.Parameter(parameters.clone())
        self.rows = rows
        self.coordinate = coordinate

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        coordinate = per_image(self.coordinate(time), u)
        outputs = []
        for row in self.rows:
            a, b, g = self.vector[row].to(u.dtype)
            outputs.append(torch.tanh(a * u) * torch.cos(b * coordinate) + g * u)
        return torch.cat(outputs, dim=1)


class Mixture(nn.Module):
    """The posterior mean of data whose entries follow sum_k w_k N(m_k, s_k^2), on a variance-preserving process.

    It is told the log-SNR.
    """

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.weights, self.means, self.stds = weights, means, stds

    def forward(self, z: Tensor, logsnr: Tensor, labels: Tensor | None = None) -> Tensor:
        level = per_image(logsnr, z)[..., None]
        alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        w, m, s = (law.to(z.dtype) for law in (self.weights, self.means, self.stds))
        variance = alpha**2 * s**2 + sigma**2
        away = z[..., None] - alpha * m
        share = torch.softmax(w.log() - 0.5 * variance.log() - 0.5 * away**2 / variance, dim=-1)
        return (share * (m + s**2 * alpha * away / variance)).sum(-1)
