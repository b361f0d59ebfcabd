"""Random numbers that belong to (seed, stream, index, step), never to batch size, device count, order or resume point.

Every number comes from the counter-based generator Philox4x64: the key is derived from (seed, stream), the counter is
(step, index), so that two different requests can never share bits and a request can be repeated at any time.
Values are drawn in float64 on the CPU and moved by the caller: runs on CPU and GPU start from the same noise.
This module is the only one that makes random numbers; nothing else calls torch's global generator.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

Indices = Sequence[int] | np.ndarray | Tensor


def _digest(*parts: int | str) -> bytes:
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


class _Counter:
    """A Philox generator whose counter can be set to (index, step) cheaply (a new generator costs ten times more)."""

    def __init__(self, seed: int, stream: str) -> None:
        key = np.frombuffer(_digest(seed, stream), dtype=np.uint64)
        self._bits = np.random.Philox(key=key)
        self._state = self._bits.state
        self.generator = np.random.Generator(self._bits)

    def at(self, index: int, step: int) -> np.random.Generator:
        """The generator placed at the start of the block of numbers that belongs to (index, step)."""
        # The lowest word is the one that counts up while numbers are drawn; the others name the block.
        self._state["state"]["counter"][:] = (0, step, index, 0)
        self._state["buffer_pos"] = 4  # "the buffer is used up": the next draw computes a fresh block
        self._state["has_uint32"] = 0
        self._bits.state = self._state
        return self.generator


def _as_integers(indices: Indices) -> list[int]:
    return [int(index) for index in (indices.tolist() if isinstance(indices, np.ndarray | Tensor) else indices)]


def normal(seed: int, stream: str, indices: Indices, shape: Sequence[int], step: int = 0) -> Tensor:
    """Standard normal noise, one independent block for each index.

    Args:
        seed: the run's seed.
        stream: name of the use, e.g. ``"noise"``; streams are independent.
        indices: (n,) non-negative indices, one for each sample.
        shape: shape of one sample.
        step: optimiser or sampler step, >= 0.

    Returns:
        float64 tensor (n, *shape) on the CPU.
    """
    numbers = _as_integers(indices)
    out = np.empty((len(numbers), *shape), dtype=np.float64)
    counter = _Counter(seed, stream)
    for row, index in zip(out, numbers, strict=True):
        row[...] = counter.at(index, step).standard_normal(row.shape)
    return torch.from_numpy(out)


def uniform(seed: int, stream: str, indices: Indices, step: int = 0) -> Tensor:
    """One uniform number in [0, 1) for each index: float64 (n,); arguments as for `normal`."""
    counter = _Counter(seed, stream)
    numbers = [counter.at(index, step).random() for index in _as_integers(indices)]
    return torch.tensor(numbers, dtype=torch.float64)


def integers(seed: int, stream: str, indices: Indices, high: int, step: int = 0) -> Tensor:
    """One integer in [0, high) for each index: int64 (n,); arguments as for `normal`."""
    counter = _Counter(seed, stream)
    numbers = [int(counter.at(index, step).integers(high)) for index in _as_integers(indices)]
    return torch.tensor(numbers, dtype=torch.int64)


def permutation(seed: int, stream: str, n: int, index: int = 0) -> Tensor:
    """A random order of 0 .. n-1, int64 (n,); `index` numbers the permutations of one stream (e.g. the epoch)."""
    return torch.from_numpy(_Counter(seed, stream).at(index, 0).permutation(n))


def torch_seed(seed: int, stream: str, *numbers: int) -> int:
    """A seed in [0, 2^63) for torch's own generators, where a library draws (dropout, initialisation)."""
    return int.from_bytes(_digest(seed, stream, *numbers)[:8], "little") >> 1


@contextlib.contextmanager
def seeded(seed: int, stream: str, *numbers: int) -> Iterator[None]:
    """Seed torch's generator of the CPU for the block and restore it afterwards (networks are initialised there)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, stream, *numbers))
        yield


def torch_state(device: torch.device) -> list[Tensor]:
    """The state of the generators from which networks on this device draw dropout."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.default_generator.get_state(), *own]


def set_torch_state(state: list[Tensor], device: torch.device) -> None:
    """Go back to a `torch_state` of this device: what was drawn since is drawn again."""
    torch.default_generator.set_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


class TorchStreams:
    """One of torch's generators on the CPU for each seed, for the numbers of code that samples with them.

    Each image has its own, so that its numbers do not depend on the batch; they do depend on how often it was asked.

    Args:
        seeds: one for each image, e.g. 42 + its index (DBIM's evaluation).
        shape: shape of one image.
    """

    def __init__(self, seeds: Indices, shape: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in _as_integers(seeds)]
        self._shape = tuple(shape)

    def normal(self) -> Tensor:
        """The next standard normal numbers of all images: float32 (n, *shape), drawn as such."""
        drawn = [torch.randn(1, *self._shape, generator=generator) for generator in self._generators]
        return torch.cat(drawn)
