"""Controls: sets of images whose distance says how to read the distances of samplers, at the same n and seeds.

    real        held-out images: the floor, which a perfect model reaches
    noise       Gaussian noise, quantised: no model at all
    mean        the mean training image, n times: no diversity
    resampled   training images drawn with replacement: a model that only remembers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.core.image import Quantise, to_uint8
from diffexp.dataset.split import Split


def _real(train: Split, test: Split, n: int, seed: int, quantise: Quantise) -> Callable[[Tensor], Tensor]:
    order = random.permutation(seed, "control/real", len(test))
    return lambda indices: test.images(order[indices])


def _noise(train: Split, test: Split, n: int, seed: int, quantise: Quantise) -> Callable[[Tensor], Tensor]:
    shape = train.images(torch.tensor([0])).shape[1:]
    return lambda indices: to_uint8(random.normal(seed, "control/noise", indices, shape), quantise)


def _mean(train: Split, test: Split, n: int, seed: int, quantise: Quantise) -> Callable[[Tensor], Tensor]:
    total = sum(train.images(part).double().sum(0) for part in torch.arange(len(train)).split(4096))
    image = to_uint8(total[None] / len(train) / 127.5 - 1, quantise)
    return lambda indices: image.expand(len(indices), *image.shape[1:])


def _resampled(train: Split, test: Split, n: int, seed: int, quantise: Quantise) -> Callable[[Tensor], Tensor]:
    return lambda indices: train.images(random.integers(seed, "control/resampled", indices, len(train)))


_CONTROLS = {"real": _real, "noise": _noise, "mean": _mean, "resampled": _resampled}
CONTROLS = tuple(_CONTROLS)


def check_floor(names: list[str], n: int, dataset: str, held_out: int) -> None:
    """Refuse the control `real` at more images than are held out (ConfigError)."""
    if "real" in names and n > held_out:
        raise ConfigError(
            f"evaluation.n={n}: the control 'real' needs as many held-out images and '{dataset}' has {held_out}; "
            f"use evaluation.n={held_out} or leave 'real' out of evaluation.controls"
        )


def control_batches(
    name: str, train: Split, test: Split, n: int, seed: int, batch_size: int, quantise: Quantise = "round"
) -> Iterator[Tensor]:
    """Images of a control, which depend on the seed and their index only.

    Args:
        name: one of `CONTROLS`.
        train, test: splits of the data set.
        n: number of images.
        seed: the evaluation's seed.
        batch_size: images at a time; without influence on them.
        quantise: how floats become bytes.

    Yields:
        uint8 (B, C, H, W).
    """
    draw = _CONTROLS[name](train, test, n, seed, quantise)
    for indices in torch.arange(n).split(batch_size):
        yield draw(indices)
