"""Images from a sampler, batch by batch, as bytes; each image belongs to its seed and index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.image import to_uint8
from diffexp.evaluation.protocol import Quantise
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise

Conditioner = Callable[[int, Sequence[int]], Conditions]
"""conditioner(seed, indices): the conditions of these images."""


@dataclass(frozen=True)
class Generated:
    """A batch of generated images.

    Attributes:
        images: uint8 (B, C, H, W), on the device that made them.
        indices: the images' indices.
        nfe: counted network evaluations for each image.
        seconds: wall-clock time of the batch: noise, sampling and quantisation.
    """

    images: Tensor
    indices: range
    nfe: int
    seconds: float


def class_labels(num_classes: int) -> Conditioner:
    """Labels drawn uniformly for each image, the same for every sampler and budget."""

    def labels(seed: int, indices: Sequence[int]) -> Conditions:
        return Conditions(labels=random.integers(seed, "sample/label", indices, num_classes))

    return labels


def generate(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, int, int],
    indices: range,
    seed: int,
    nfe: int,
    batch_size: int,
    quantise: Quantise = "round",
    conditioner: Conditioner | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[Generated]:
    """Generate the images `indices` of evaluation seed `seed`.

    Image i starts from the noise keyed by (seed, i), whatever the sampler, the budget and the batch are, so that arms
    are compared on the same noise and a set can be cut into shards.

    Args:
        shape: (C, H, W) of an image.
        indices: which images, e.g. ``range(n)``.
        nfe: a budget that is feasible for the sampler (ConfigError otherwise).
        conditioner: gives labels or other conditions of the images.
        device, dtype: of the states; the network is on the device.

    Yields:
        batches in the order of `indices`.
    """
    state_shape = denoiser.process.state_shape(shape)
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        conditions = NO_CONDITIONS if conditioner is None else conditioner(seed, batch).to(device)
        began = time.perf_counter()
        noise = KeyedNoise(seed, batch, state_shape, dtype, device)
        result = sampler.sample(denoiser, noise, nfe, conditions)
        images = to_uint8(result.images, quantise)
        if images.is_cuda:  # kernels run on after the call: without this the time is that of queueing them
            torch.cuda.synchronize(images.device)
        yield Generated(images, batch, result.nfe, time.perf_counter() - began)
