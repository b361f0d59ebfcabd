"""The endless order of the training data, indexed by step, so that a resumed run sees what an undisturbed one would.

Position p of the order belongs to epoch ``p // n`` and is the image ``permutation(seed, "order", n, epoch)[p % n]``.
Step k with a global batch of B images takes the positions ``k * B .. (k + 1) * B - 1``; rank r of w takes the r-th of
w equal slices of them. Nothing is stored to resume: the step says it all. (The idea of EDM2's infinite sampler.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffexp.core import random
from diffexp.core.errors import ConfigError, DataError
from diffexp.core.image import to_float
from diffexp.dataset.augmented import AugmentedSplit
from diffexp.dataset.split import PairedSplit, Split

Batch = dict[str, Tensor]


class DataOrder:
    """The map from positions in the endless order to image indices; the permutations of two epochs are kept."""

    def __init__(self, length: int, seed: int) -> None:
        if length < 1:
            raise DataError("the training split has no images")
        self._length, self._seed = length, seed
        self._epochs: dict[int, np.ndarray] = {}

    def indices(self, positions: Sequence[int]) -> np.ndarray:
        """Image indices, int64 (B,) in [0, length), of the given positions (>= 0)."""
        places = np.asarray(positions, dtype=np.int64)
        epochs, offsets = np.divmod(places, self._length)
        out = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            out[here] = self._epoch(epoch)[offsets[here]]
        return out

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            while len(self._epochs) >= 2:  # a batch across the border of two epochs needs both
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = random.permutation(self._seed, "order", self._length, epoch).numpy()
        return self._epochs[epoch]


class EndlessBatches:
    """Batch sampler without an end: one rank's positions, one list for each step, from `start_step` on.

    It has no length, so that nobody plans epochs; the trainer stops at its number of steps.

    Args:
        batch_size: images a step of ALL ranks together: the number of devices does not change the experiment.
        start_step: the step that the first list belongs to.
        rank: this process, 0 .. world_size - 1.
        world_size: number of processes; it must divide `batch_size`.

    Raises:
        ConfigError: the batch cannot be shared out equally.
    """

    def __init__(self, batch_size: int, start_step: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or batch_size % world_size:
            near = max(world_size, round(batch_size / world_size) * world_size)
            raise ConfigError(
                f"a batch of {batch_size} images cannot be shared equally by {world_size} processes: "
                f"did you mean {near}?"
            )
        if start_step < 0 or not 0 <= rank < world_size:
            raise ValueError(f"no such place: step {start_step}, rank {rank} of {world_size}")
        self.batch_size, self.start_step = batch_size, start_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        first = self.start_step * self.batch_size + self.rank * share
        while True:
            yield list(range(first, first + share))
            first += self.batch_size


class TrainingBatches:
    """A split seen through its endless order; a whole batch is made at once.

    A batch holds ``image`` float32 (B, C, H, W) in [-1, 1], ``position`` int64 (B,), the keys of everything random
    about the images, and ``label`` int64 (B,) when the data set has classes; of pairs also the sources, ``endpoint``
    float32 (B, C, H, W), and where there is one their ``mask`` float32 (B, 1, H, W). Where the split asks for flips,
    half of the positions are mirrored left to right, target, source and mask together, chosen by (seed, position).
    Then an `AugmentedSplit` is augmented; ``augment`` float32 (B, numbers) tells how.
    """

    def __init__(self, split: Split, seed: int) -> None:
        self._split, self._seed = split, seed
        self._order = DataOrder(len(split), seed)
        self._paired = isinstance(split, PairedSplit)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch of the given positions."""
        indices = self._order.indices(positions)
        batch = self._pictures(indices)
        if self._split.flip:
            mirrored = random.uniform(self._seed, "flip", positions) < 0.5
            for pictures in batch.values():
                pictures[mirrored] = pictures[mirrored].flip(-1)
        if isinstance(self._split, AugmentedSplit):
            batch["image"], batch["augment"] = self._split.augmentation(batch["image"], self._seed, positions)
        batch["position"] = torch.tensor(positions, dtype=torch.int64)
        labels = self._split.labels(indices)
        return batch if labels is None else {**batch, "label": labels}

    def _pictures(self, indices: np.ndarray) -> Batch:
        """All that has a left and a right."""
        if not self._paired:
            return {"image": to_float(self._split.images(indices))}
        image, endpoint, mask = self._split.pairs(indices)
        found = {"image": to_float(image), "endpoint": endpoint.clone()}  # a flip writes into them
        return found if mask is None else {**found, "mask": mask.clone()}


def _as_is(batch: Batch) -> Batch:
    return batch


def make_loader(
    split: Split,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
) -> DataLoader[Batch]:
    """An endless loader of training batches (see `TrainingBatches`) that starts at the batch of `start_step`.

    Lightning must be told ``use_distributed_sampler=False``: the ranks are shared out here.

    Args:
        split: the images; prepare their data set first.
        batch_size: images a step of all ranks together; each rank gets ``batch_size / world_size``.
        seed: the run's seed.
        start_step: optimiser steps already done.
        rank: this process.
        world_size: number of processes.
        workers: loader processes; 0 loads in this one. The batches do not depend on it.

    Returns:
        a loader without a length; batches lie in pinned memory when CUDA is available.
    """
    # Starting an iterator draws a seed for the workers: from a generator of our own, not from the global one.
    generator = torch.Generator()
    generator.manual_seed(random.torch_seed(seed, "loader", rank, start_step))
    return DataLoader(
        TrainingBatches(split, seed),
        batch_sampler=EndlessBatches(batch_size, start_step, rank, world_size),
        collate_fn=_as_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=generator,
    )
