"""The networks and processes that the benchmarks share, made by the package's own entry points."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import read_layout
from diffexp.launch.schema import validate
from diffexp.tasks.build import Parts, build

# gDDIM's network with a quarter of its width and an eighth of its depth, and labels, so that guidance can be timed.
REDUCED = (
    "experiment=gddim_vp", "network.channels=32", "network.blocks=1", "network.dropout=0.0",
    "network.class_conditional=true", "dataset.labels=true",
)  # fmt: skip


def compose(*words: str) -> Parts:
    """The objects of a command line, nothing read or trained."""
    layout = read_layout()
    (job,) = compose_jobs([normalise(words, layout)], layout)
    validate(job.config, layout)
    return build(job.config)


def normal(*shape: int, stream: str = "bench") -> Tensor:
    """Unit noise, float32."""
    return random.normal(0, stream, range(shape[0]), shape[1:]).float()


def enough(make: Callable[[int], Callable[[], object]], seconds: float, first: int = 1, limit: int = 256) -> int:
    """The smallest batch of first, 2 first, 4 first ... whose task takes `seconds` or more: the best of three turns.

    Args:
        make: batch size -> task.
        seconds: how long the task has to take at least.
        first: the smallest batch.
        limit: the largest batch; it is taken when even that is too fast.
    """
    batch = first
    while batch < limit:
        task = make(batch)
        task()
        if min(_timed(task) for _ in range(3)) >= seconds:
            break
        batch *= 2
    return batch


def _timed(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


class Halved(nn.Module):
    """A network of one multiplication, so that what remains is the sampler itself."""

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return 0.5 * u


def single_thread() -> None:
    """One thread for everything: two would compete with whoever else uses the machine."""
    torch.set_num_threads(1)
