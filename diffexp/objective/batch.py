"""From a batch of training images to what an objective needs: lifted data, unit noise, conditions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.transfer import to_device
from diffexp.objective.times import Times
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.wrapper import NO_LABEL
from diffexp.process.base import Process


def data_and_noise(process: Process, batch: Mapping[str, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """The (lifted) data and as much unit noise, each (B, *).

    Args:
        process: the forward process.
        batch: "image" (B, C, H, W) in [-1, 1] and "position" (B,) on the CPU.
        seed: keys all that is drawn, together with the positions.
    """
    position, image = batch["position"], batch["image"]

    def velocity() -> Tensor:
        return to_device(random.normal(seed, "train/velocity", position, image.shape[1:]), image.device, image.dtype)

    x0 = process.lift_drawn(image, velocity)
    return x0, to_device(random.normal(seed, "train/noise", position, x0.shape[1:]), x0.device, x0.dtype)


def drawn_image(process: Process, batch: Mapping[str, Tensor], seed: int) -> Tensor | None:
    """The second image of a process that draws one with its data, (B, C, H, W), else None; see `data_and_noise`."""
    position, image = batch["position"], batch["image"]

    def normal() -> Tensor:
        return to_device(random.normal(seed, "train/attenuation", position, image.shape[1:]), image.device, image.dtype)

    return process.draw(normal)


def perturbation(
    process: Process, times: Times, batch: Mapping[str, Tensor], seed: int, label_dropout: float
) -> tuple[Tensor, Tensor, Tensor, Conditions, Tensor | None]:
    """All that is drawn for a batch: (data, noise, times, conditions, image drawn with the data), as told below."""
    x0, noise = data_and_noise(process, batch, seed)
    t = times.draw(process, seed, batch["position"])
    return x0, noise, t, conditions_of(batch, seed, label_dropout), drawn_image(process, batch, seed)


def conditions_of(batch: Mapping[str, Tensor], seed: int, label_dropout: float = 0.0) -> Conditions:
    """What the batch's images are shown with.

    Args:
        batch: "position" (B,) on the CPU and, where the data have them, "label" (B,), "endpoint" and "condition"
            (B, C, H, W), "mask" (B, 1, H, W), "augment" (B, numbers).
        seed: keys the dropped labels, together with the positions.
        label_dropout: probability with which an image is shown without its label.
    """
    labels = batch.get("label")
    if labels is not None and label_dropout > 0.0:
        kept = random.uniform(seed, "train/label", batch["position"]) >= label_dropout
        labels = torch.where(to_device(kept, labels.device, torch.bool), labels, NO_LABEL)
    return Conditions(labels, batch.get("endpoint"), batch.get("condition"), batch.get("mask"), batch.get("augment"))
