"""The endless order: every image once an epoch, and the same batches for any start, rank count and worker count."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import ConfigError, DataError
from diffexp.core.image import to_float
from diffexp.dataset.loader import Batch, DataOrder, EndlessBatches, TrainingBatches, make_loader
from diffexp.dataset.split import ArraySplit

_LENGTH = 23


def _split(flip: bool = True, labels: bool = True) -> ArraySplit:
    """Image i holds i in its left column and 100 + i elsewhere; its label is i."""
    images = np.arange(_LENGTH, dtype=np.uint8)[:, None, None, None] + np.full((1, 1, 2, 3), 100, np.uint8)
    images[..., 0] -= 100
    return ArraySplit(images, np.arange(_LENGTH) if labels else None, flip)


def _take(count: int, **options: int) -> list[Batch]:
    return list(islice(make_loader(_split(), batch_size=6, seed=5, **options), count))


def _assert_equal(one: list[Batch], other: list[Batch]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys() == {"image", "label", "position"}
        for key in left:
            assert torch.equal(left[key], right[key])


def test_the_order_is_the_documented_one() -> None:
    positions = [0, 1, 22, 23, 45, 46, 230, 5]
    expected = [random.permutation(5, "order", _LENGTH, p // _LENGTH)[p % _LENGTH].item() for p in positions]
    order = DataOrder(_LENGTH, 5)
    assert order.indices(positions).tolist() == expected
    assert [order.indices([p]).item() for p in positions] == expected


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    order = DataOrder(_LENGTH, 0)
    epochs = [order.indices(range(e * _LENGTH, (e + 1) * _LENGTH)) for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(_LENGTH))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert not np.array_equal(DataOrder(_LENGTH, 1).indices(range(_LENGTH)), epochs[0])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_positions_of_one_process(world_size: int) -> None:
    ranks = [iter(EndlessBatches(6, 4, rank, world_size)) for rank in range(world_size)]
    for step in range(4, 9):
        together = [position for rank in ranks for position in next(rank)]
        assert together == list(range(6 * step, 6 * step + 6))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 7])
def test_starting_late_gives_the_batches_of_an_undisturbed_run(start: int, workers: int) -> None:
    undisturbed = _take(12)  # 72 positions: three borders of epochs
    _assert_equal(_take(12 - start, start_step=start, workers=workers), undisturbed[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_see_the_batches_of_one(workers: int) -> None:
    ranks = [_take(5, start_step=2, rank=rank, world_size=2, workers=workers) for rank in range(2)]
    joined = [{key: torch.cat([a[key], b[key]]) for key in a} for a, b in zip(*ranks, strict=True)]
    _assert_equal(joined, _take(7)[2:])


def test_contents_of_a_batch() -> None:
    batch = TrainingBatches(_split(), 5).__getitems__(range(2000, 2400))
    assert (batch["image"].dtype, batch["image"].shape) == (torch.float32, (400, 1, 2, 3))
    assert batch["position"].tolist() == list(range(2000, 2400))
    expected = DataOrder(_LENGTH, 5).indices(range(2000, 2400))
    assert batch["label"].tolist() == expected.tolist()
    mirrored = random.uniform(5, "flip", range(2000, 2400)) < 0.5
    assert abs(mirrored.sum() - 200) < 50
    column = torch.where(mirrored, 2, 0)
    low = batch["image"][torch.arange(400), 0, 1, column]
    assert torch.equal(low, to_float(torch.tensor(expected, dtype=torch.uint8)))
    assert torch.equal(batch["image"].amin((1, 2, 3)), low)


def test_without_flip_and_labels() -> None:
    batch = TrainingBatches(_split(flip=False, labels=False), 5).__getitems__([3, 4])
    assert batch.keys() == {"image", "position"}
    indices = DataOrder(_LENGTH, 5).indices([3, 4])
    assert torch.equal(batch["image"], to_float(_split().images(indices)))


def test_the_loader_is_endless_and_leaves_the_global_generator_alone() -> None:
    loader = make_loader(_split(), batch_size=6, seed=5)
    with pytest.raises(TypeError):
        len(loader)
    state = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_larger_than_the_data() -> None:
    batch = next(iter(make_loader(_split(), batch_size=60, seed=5)))
    counts = torch.bincount(batch["label"], minlength=_LENGTH)
    assert counts.sum() == 60
    assert set(counts.tolist()) == {2, 3}


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"64 images .* 3 processes: did you mean 63"):
        EndlessBatches(64, world_size=3)
    with pytest.raises(ConfigError, match="did you mean 1"):
        EndlessBatches(0)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        EndlessBatches(4, rank=2, world_size=2)
    with pytest.raises(DataError, match="no images"):
        DataOrder(0, 0)
