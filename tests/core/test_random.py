"""Random streams: keyed, repeatable, independent of how requests are grouped, and of the right distribution."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from diffexp.core import random

GOLDEN_UNIFORM = [0.6039565217201682, 0.6449202851638558]
GOLDEN_SEED = 2138231296994430870
GOLDEN_ORDER = [5, 4, 0, 2, 3, 1]


def _reference(seed: int, stream: str, index: int, step: int) -> np.random.Generator:
    """The documented construction, with a fresh generator for each block."""
    key = hashlib.blake2b(f"{seed}\x1f{stream}".encode(), digest_size=16).digest()
    counter = np.array([0, step, index, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64), counter=counter))


def test_blocks_are_those_of_a_fresh_generator() -> None:
    noise = random.normal(3, "noise", [5, 0, 2**40], (2, 3, 3), step=7)
    for row, index in zip(noise, [5, 0, 2**40], strict=True):
        expected = _reference(3, "noise", index, 7).standard_normal((2, 3, 3))
        assert np.array_equal(row.numpy(), expected)
    # Odd numbers of 32-bit draws must not leak half a word into the next block.
    drawn = random.integers(3, "pick", range(6), 10, step=1).tolist()
    assert drawn == [int(_reference(3, "pick", index, 1).integers(10)) for index in range(6)]


def test_pinned_values() -> None:
    """Changing these changes every run that was ever made."""
    assert random.uniform(0, "noise", [0, 1]).tolist() == pytest.approx(GOLDEN_UNIFORM, abs=1e-15)
    assert random.torch_seed(0, "init") == GOLDEN_SEED
    assert random.permutation(0, "order", 6).tolist() == GOLDEN_ORDER


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_grouping_does_not_matter(batch: int) -> None:
    whole = random.normal(1, "noise", range(64), (1, 4, 4))
    pieces = [random.normal(1, "noise", range(s, min(s + batch, 64)), (1, 4, 4)) for s in range(0, 64, batch)]
    assert torch.equal(torch.cat(pieces), whole)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random.normal(1, "noise", order, (1, 4, 4)), whole[order])
    assert torch.equal(random.normal(1, "noise", order.numpy(), (1, 4, 4)), whole[order])


def test_no_two_requests_share_numbers() -> None:
    blocks = [
        random.normal(seed, stream, [index], (4000,), step=step).flatten()
        for seed in (0, 1)
        for stream in ("noise", "time")
        for index in (0, 1)
        for step in (0, 1)
    ]
    values = torch.cat(blocks)
    assert len(values.unique()) == len(values)
    correlation = torch.corrcoef(torch.stack(blocks)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.08  # 5 standard deviations of 1 / sqrt(4000)


def test_distributions() -> None:
    noise = random.normal(0, "noise", range(2000), (50,))
    assert noise.dtype == torch.float64
    assert noise.mean().abs() < 0.016  # 5 / sqrt(1e5)
    assert (noise.var() - 1).abs() < 0.023
    uniform = random.uniform(0, "time", range(20000))
    counts = torch.histc(uniform, 10, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 35  # chi-square, 9 degrees of freedom, p = 6e-5
    assert uniform.min() >= 0
    assert uniform.max() < 1
    whole = torch.bincount(random.integers(0, "pick", range(20000), 10), minlength=10)
    assert len(whole) == 10
    assert ((whole - 2000.0) ** 2 / 2000).sum() < 35


def test_permutations() -> None:
    first, second = random.permutation(0, "order", 500), random.permutation(0, "order", 500, index=1)
    assert first.dtype == torch.int64
    assert torch.equal(first.sort().values, torch.arange(500))
    assert torch.equal(second.sort().values, torch.arange(500))
    assert (first == second).sum() < 10
    assert (first == torch.arange(500)).sum() < 10
    assert torch.equal(first, random.permutation(0, "order", 500))


def test_seeded_repeats_and_restores() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with random.seeded(0, "init"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with random.seeded(0, "init"):
        assert torch.equal(torch.rand(3), inside)
    with random.seeded(0, "init", 1):
        assert not torch.equal(torch.rand(3), inside)
    assert 0 <= random.torch_seed(1, "x", 2, 3) < 2**63


def test_negative_indices_are_refused() -> None:
    with pytest.raises((OverflowError, ValueError)):
        random.uniform(0, "noise", [-1])
