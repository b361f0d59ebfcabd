"""Images from a sampler, batch by batch, as bytes; each image belongs to its seed and index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import SamplingError
from diffexp.core.image import Quantise, to_uint8
from diffexp.core.precision import exact_float32
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
        nfe: counted network evaluations for each image, a mean where images choose their own steps.
        seconds: wall-clock time of the batch: noise, sampling and quantisation.
    """

    images: Tensor
    indices: range
    nfe: float
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
    nfe: int | None,
    batch_size: int,
    quantise: Quantise = "round",
    conditioner: Conditioner | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[Generated]:
    """Generate the images `indices` of evaluation seed `seed`.

    Image i starts from the noise keyed by (seed, i), whatever the sampler, the budget and the batch are, so that arms
    are compared on the same noise and a set can be cut into shards. Sampling is exact float32, whatever the process has
    set (see `exact_float32`).

    Args:
        shape: (C, H, W) of an image.
        indices: which images, e.g. ``range(n)``.
        nfe: a budget that is feasible for the sampler (ConfigError otherwise); None for one that takes none.
        conditioner: gives labels or other conditions of the images.
        device, dtype: of the states; the network is on the device.

    Yields:
        batches in the order of `indices`.

    Raises:
        SamplingError: when an image is not finite: as bytes, NaN would pass for black.
    """
    state_shape = denoiser.process.state_shape(shape)
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        conditions = NO_CONDITIONS if conditioner is None else conditioner(seed, batch).to(device)
        _wait(device)  # for what the consumer queued: features of the last batch are not sampling
        began = time.perf_counter()
        noise = KeyedNoise(seed, batch, state_shape, dtype, device)
        with exact_float32():
            result = sampler.sample(denoiser, noise, nfe, conditions)
        images = to_uint8(result.images, quantise)
        # Reading the answer waits for all kernels of the batch; without that the time is that of queueing them.
        if not bool(torch.isfinite(result.images).all()):
            which = f"images {batch[0]} to {batch[-1]} of seed {seed}"
            raise SamplingError(f"sampler {sampler.name} at NFE {result.nfe:g}: {which} are not all finite")
        yield Generated(images, batch, result.nfe, time.perf_counter() - began)


def _wait(device: torch.device | str) -> None:
    """Wait until the device has done all that is queued."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
