"""How long, how large and on what a run trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffexp.core.errors import ConfigError


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ConfigError(f"{name.replace('__', '.')}={value}: must be at least {minimum}")


@dataclass(frozen=True)
class Training:
    """Length, batch and intervals of a training.

    Args:
        max_steps: optimiser steps, >= 1.
        batch_size: images in one step over all devices, >= 1.
        log_every: steps between two lines of metrics.jsonl, >= 1.
        checkpoint_every: steps between two checkpoints, >= 1; the last step is always saved.
        keep: older checkpoints kept beside the newest one, >= 0.
        workers: processes that load data, >= 0; 0 loads in the training process.

    Raises:
        ConfigError: for a value below its minimum.
    """

    max_steps: int
    batch_size: int
    log_every: int = 100
    checkpoint_every: int = 10_000
    keep: int = 2
    workers: int = 2

    def __post_init__(self) -> None:
        _at_least(1, training__max_steps=self.max_steps, training__batch_size=self.batch_size)
        _at_least(1, training__log_every=self.log_every, training__checkpoint_every=self.checkpoint_every)
        _at_least(0, training__keep=self.keep, training__workers=self.workers)


@dataclass(frozen=True)
class Device:
    """Where and in which precision the network runs; schedules and plans are float64 on the CPU everywhere.

    Args:
        accelerator: "auto" takes a GPU when there is one.
        devices: number of devices that train together, over all machines, >= 1: each is one process, and takes an equal
            part of every batch. CPU: that many processes.
        precision: Lightning's names: "32-true", "bf16-mixed" (autocast) or "64-true".
        compile: run the network through torch.compile, in training and in sampling. Checkpoints are the same.

    Raises:
        ConfigError: for fewer than one device.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    compile: bool = False

    def __post_init__(self) -> None:
        _at_least(1, trainer__devices=self.devices)
