"""Which pair an image is made from: image i of every seed belongs to the i-th pair of a split, in one fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.core.image import Quantise, to_uint8
from diffexp.dataset.split import Dataset, Indices, PairedSplit, SplitName, conditions_of
from diffexp.evaluation.metric import meaning
from diffexp.prediction.conditions import Conditions

if TYPE_CHECKING:
    from diffexp.evaluation.settings import EvaluationSettings

HELD_OUT: SplitName = "test"
_ORDER_SEED = 0  # a constant: which images are made belongs to the protocol, not to the run


@dataclass(frozen=True)
class Pairing:
    """The pairs of a split in the order of an evaluation.

    The order is a permutation that depends on the number of pairs alone: folders list theirs class by class, and an
    evaluation of fewer images than pairs should see all classes. Seeds share the pairs and differ in their noise.
    """

    name: SplitName
    split: PairedSplit

    def __len__(self) -> int:
        return len(self.split)

    @cached_property
    def _order(self) -> Tensor:
        return random.permutation(_ORDER_SEED, "evaluation/pairs", len(self.split))

    def of(self, indices: Indices) -> Tensor:
        """The split's indices of the images `indices`, int64 (B,)."""
        return self._order[torch.as_tensor(indices, dtype=torch.int64)]

    def targets(self, indices: Indices) -> Tensor:
        """What the images should be, uint8 (B, C, H, W)."""
        return self.split.images(self.of(indices))

    def sources(self, indices: Indices, quantise: Quantise = "round") -> Tensor:
        """What the images are made from, as bytes."""
        return to_uint8(self.split.pairs(self.of(indices)).endpoint, quantise)

    def __call__(self, seed: int, indices: Sequence[int]) -> Conditions:
        """The conditions of the images `indices`, a `Conditioner`; the same for every seed."""
        places = self.of(indices)
        pairs = self.split.pairs(places)
        return Conditions(self.split.labels(places), pairs.endpoint, None, pairs.mask)


def check_pairs(dataset: Dataset, settings: EvaluationSettings) -> None:
    """Refuse settings for pairs where the data set has none (ConfigError); nothing is read."""
    if "endpoint" in conditions_of(dataset):
        return
    paired = [name for name in settings.metrics if meaning(name).paired]
    asked = {
        f"evaluation.pairs={settings.pairs}": settings.pairs is not None,
        f"evaluation.metrics={paired}": bool(paired),
        "evaluation.controls: 'source'": "source" in settings.controls,
    }
    for what, given in asked.items():
        if given:
            raise ConfigError(f"{what}: '{dataset.name}' holds no pairs; leave it out")


def pairing_of(dataset: Dataset, settings: EvaluationSettings) -> Pairing | None:
    """The pairs of an evaluation; None for a data set without any. Reads the data set.

    Raises:
        ConfigError: more images than pairs are asked for, or as `check_pairs`.
    """
    check_pairs(dataset, settings)
    if "endpoint" not in conditions_of(dataset):
        return None
    name = settings.pairs or HELD_OUT
    split = dataset.split(name)
    if settings.n > len(split):
        raise ConfigError(
            f"evaluation.n={settings.n}: '{dataset.name}' has {len(split)} pairs in its split {name}; use "
            f"evaluation.n={len(split)}, or the other split (evaluation.pairs)"
        )
    return Pairing(name, split)
