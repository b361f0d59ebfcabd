"""The exact denoiser for a finite data set: each image has the same weight, and nothing is between them.

    E[x0 | u] = sum_i r_i x_i,   r_i ~ exp(-|L^-1 (u - A x_i)|^2 / 2),   E[e | u] = L^-1 (u - A E[x0 | u])

This is what a network that fits its training data perfectly would say (Karras et al. 2022, eq. 57): it samples the
training images themselves. On a bridge u - B y stands in the place of u; with the end points y_i of the images, the end
point also says which of them it may be, r_i ~ exp(-|y - y_i|^2 / (2 h^2)), as if it were y_i with noise of strength h.
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
        endpoints: y_i, (N, C, H, W), on a bridge.
        endpoint_std: h > 0 for each pixel; None: the end point says nothing of the image.

    Raises:
        ConfigError: without images, or for an h that has no meaning.
    """

    def __init__(
        self,
        process: Process,
        images: Tensor,
        labels: Tensor | None = None,
        endpoints: Tensor | None = None,
        endpoint_std: float | None = None,
    ) -> None:
        super().__init__(process)
        check_endpoint_std(process, endpoint_std)
        if len(images) == 0:
            raise ConfigError("network: an oracle over a data set needs at least one image")
        if not process.data_covariance(0.0).is_zero():
            raise ConfigError(f"network: process {process.name} draws a part of its data: use oracle_mixture, or hsm")
        self.images = images
        self.labels = labels
        self.endpoints = second_image(endpoints) if endpoint_std is not None else None
        self.endpoint_std = endpoint_std
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
            scores = self._scores(white, image.apply(some), conditions, start)
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

    def _scores(self, white: Tensor, images: Tensor, conditions: Conditions, start: int) -> Tensor:
        """The logarithm of r_i of every state and image of a chunk, -inf for images of another class: (B, n)."""
        scores, labels = _closeness(white, images), conditions.labels
        if self.endpoints is not None and self.endpoint_std is not None:
            own = self.endpoints[start : start + len(images)].to(white.device, torch.float64)
            given = second_image(conditions.endpoint).double()
            scores = scores + _closeness(given / self.endpoint_std, own / self.endpoint_std)
        if labels is None or self.labels is None:
            return scores
        classes = self.labels[start : start + len(images)].to(labels.device)
        allowed = (labels[:, None] == classes) | (labels[:, None] == NO_LABEL)
        return scores.masked_fill(~allowed, -torch.inf)


def _closeness(states: Tensor, images: Tensor) -> Tensor:
    """-|state - image|^2 / 2 of every state (B, *) and image (n, *): (B, n)."""
    w, x = states.flatten(1), images.flatten(1)
    return w @ x.T - 0.5 * x.square().sum(1) - 0.5 * w.square().sum(1, keepdim=True)


def check_endpoint_std(process: Process, endpoint_std: float | None) -> None:
    """Raise ConfigError for an h that is not positive, or without an end point."""
    if endpoint_std is not None and not endpoint_std > 0.0:
        raise ConfigError(f"network.endpoint_std={endpoint_std}: must be > 0, or null")
    if endpoint_std is not None and not process.endpoint:
        raise ConfigError(f"network.endpoint_std={endpoint_std}: process {process.name} has no end point; leave it out")
