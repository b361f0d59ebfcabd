"""Controls: sets of images whose distance says how to read the distances of samplers, at the same n and seeds.

    real        held-out images, or the targets of the very pairs: the floor, which a perfect model reaches
    held_out    held-out images drawn with replacement: the floor where more images are made than are held out
    source      of pairs, the sources themselves: a model that does nothing
    noise       Gaussian noise, quantised: no model at all
    mean        the mean training image, n times: no diversity
    resampled   training images drawn with replacement: a model that only remembers

Paired metrics have `source`, `noise` and `mean`; the others would be perfect or chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.core.image import Quantise, to_uint8
from diffexp.dataset.split import Split
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.pairs import Pairing

Draw = Callable[[Tensor], Tensor]
"""Indices (B,) -> uint8 (B, C, H, W)."""


@dataclass(frozen=True)
class _Source:
    """What controls are drawn from."""

    train: Split
    test: Split
    seed: int
    quantise: Quantise
    pairing: Pairing | None


def _real(given: _Source) -> Draw:
    if given.pairing is not None:
        return given.pairing.targets
    order = random.permutation(given.seed, "control/real", len(given.test))
    return lambda indices: given.test.images(order[indices])


def _held_out(given: _Source) -> Draw:
    test = given.test if given.pairing is None else given.pairing.split
    return lambda indices: test.images(random.integers(given.seed, "control/held_out", indices, len(test)))


def _source(given: _Source) -> Draw:
    if given.pairing is None:
        raise ValueError("the control 'source' needs pairs")
    pairing = given.pairing
    return lambda indices: pairing.sources(indices, given.quantise)


def _noise(given: _Source) -> Draw:
    shape = given.train.images(torch.tensor([0])).shape[1:]
    return lambda indices: to_uint8(random.normal(given.seed, "control/noise", indices, shape), given.quantise)


def _mean(given: _Source) -> Draw:
    train = given.train
    total = sum(train.images(part).double().sum(0) for part in torch.arange(len(train)).split(4096))
    image = to_uint8(total[None] / len(train) / 127.5 - 1, given.quantise)
    return lambda indices: image.expand(len(indices), *image.shape[1:])


def _resampled(given: _Source) -> Draw:
    train = given.train
    return lambda indices: train.images(random.integers(given.seed, "control/resampled", indices, len(train)))


_CONTROLS = {
    "real": _real, "held_out": _held_out, "source": _source, "noise": _noise, "mean": _mean, "resampled": _resampled,
}  # fmt: skip
_OF_PAIRS = ("source", "noise", "mean")
CONTROLS = tuple(_CONTROLS)


def tells(name: str, metric: str) -> bool:
    """Whether a control says something about a metric."""
    return name in _OF_PAIRS or not meaning(metric).paired


def check_floor(names: list[str], n: int, dataset: str, held_out: int) -> None:
    """Refuse the control `real` at more images than are held out (ConfigError)."""
    if "real" in names and n > held_out:
        raise ConfigError(
            f"evaluation.n={n}: the control 'real' needs as many held-out images and '{dataset}' has {held_out}; "
            f"use evaluation.n={held_out}, or 'held_out' in the place of 'real' in evaluation.controls"
        )


def control_batches(
    name: str,
    train: Split,
    test: Split,
    which: Sequence[int],
    seed: int,
    batch_size: int,
    quantise: Quantise = "round",
    pairing: Pairing | None = None,
) -> Iterator[tuple[Tensor, list[int]]]:
    """Images of a control, which depend on the seed and their index only.

    Args:
        name: one of `CONTROLS`.
        train, test: splits of the data set.
        which: the images' indices.
        seed: the evaluation's seed.
        batch_size: images at a time; without influence on them.
        quantise: how floats become bytes.
        pairing: the pairs that images are made from, if any.

    Yields:
        (uint8 (B, C, H, W), their indices).
    """
    draw = _CONTROLS[name](_Source(train, test, seed, quantise, pairing))
    for indices in torch.tensor(which, dtype=torch.int64).split(batch_size):
        yield draw(indices), indices.tolist()
