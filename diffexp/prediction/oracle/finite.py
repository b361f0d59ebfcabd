"""The exact denoiser for a finite data set: each image has the same weight, and nothing is between them.

    E[x0 | u] = sum_i r_i x_i,   r_i ~ exp(-|L^-1 (u - A x_i)|^2 / 2),   E[e | u] = L^-1 (u - A E[x0 | u])

This is what a network that fits its training data perfectly would say (Karras et al. 2022, eq. 57): it samples the
training images themselves. On a bridge u - B y stands in the place of u: the end point y says nothing of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.base import Oracle
from diffexp.prediction.wrapper import NO_LABEL
from diffexp.process.base import Marginal, Process, second_image
from diffexp.process.operator import Operator

_CHUNK = 4096


class Finite(Oracle):
    """The posterior means over given images.

    Args:
        process: the forward process.
        images: (N, C, H, W) in [-1, 1].
        labels: int64 (N,): with labels in the conditions only images of that class count (label -1: all of them).

    Raises:
        ConfigError: without images.
    """

    def __init__(self, process: Process, images: Tensor, labels: Tensor | None = None) -> None:
        super().__init__(process)
        if len(images) == 0:
            raise ConfigError("network: an oracle over a data set needs at least one image")
        if not process.data_covariance(0.0).is_zero():
            raise ConfigError(f"network: process {process.name} draws a part of its data: use oracle_mixture, or hsm")
        self.images = images
        self.labels = labels
        if labels is not None:
            self.gives = self.gives | {"unconditional"}

    def ready(self, marginal: Marginal) -> Marginal:
        return marginal

    def estimate(self, u: Tensor, ready: Marginal, conditions: Conditions) -> tuple[Tensor, Tensor]:
        white, image = self._whitened(u, ready, conditions)
        top = u.new_full((len(u), 1), -torch.inf)
        total, weighted = u.new_zeros(len(u), 1), torch.zeros_like(u).flatten(1)
        for start in range(0, len(self.images), _CHUNK):  # an online softmax: memory for one chunk only
            some = self.process.lift(self.images[start : start + _CHUNK].to(u.device, torch.float64))
            scores = self._scores(white, image.apply(some), conditions.labels, start)
            higher = torch.maximum(top, scores.amax(1, keepdim=True))
            shrink = torch.exp(top - higher).nan_to_num(0.0)  # while no image counted yet, both are -inf
            shares = torch.exp(scores - higher).nan_to_num(0.0)
            total = total * shrink + shares.sum(1, keepdim=True)
            weighted = weighted * shrink + shares @ some.flatten(1)
            top = higher
        data = (weighted / total).reshape(u.shape)
        return data, white - image.apply(data)

    def _whitened(self, u: Tensor, law: Marginal, conditions: Conditions) -> tuple[Tensor, Operator]:
        """(L^-1 (u - B y), L^-1 A)."""
        if law.signal.is_zero() and law.factor.is_zero():  # a bridge's end point: nothing tells the images apart
            return torch.zeros_like(u), law.signal
        whiten = law.factor.inverse()
        if law.auxiliary is not None:
            u = u - law.auxiliary.apply(second_image(conditions.endpoint).double())
        return whiten.apply(u), whiten @ law.signal

    def _scores(self, white: Tensor, images: Tensor, labels: Tensor | None, start: int) -> Tensor:
        """-|white - image|^2 / 2 of every state and image of a chunk, -inf for images of another class: (B, n)."""
        w, x = white.flatten(1), images.flatten(1)
        scores = w @ x.T - 0.5 * x.square().sum(1) - 0.5 * w.square().sum(1, keepdim=True)
        if labels is None or self.labels is None:
            return scores
        own = self.labels[start : start + len(x)].to(labels.device)
        allowed = (labels[:, None] == own) | (labels[:, None] == NO_LABEL)
        return scores.masked_fill(~allowed, -torch.inf)
